"""core/train/curves.py: curves lie where their values are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.train.curves import _COLOURS, Panel, draw_curves, read_log, training_curves


def rows_of(panel: Panel, at: float) -> float:
    """Mean row of the first curve's colour in the column that lies at this share of the panel's width."""
    picture = np.asarray(draw_curves([panel])).astype(int)
    coloured = (np.abs(picture - _COLOURS[0]).sum(-1) < 40)[150:, 140:]  # below the legend
    columns = np.flatnonzero(coloured.any(0))
    column = columns[round(at * (len(columns) - 1))]
    return float(np.flatnonzero(coloured[:, column]).mean())


def test_a_rising_curve_rises_and_a_logarithm_is_straight() -> None:
    rising = Panel("p", {"a": [(0, 0.0), (100, 1.0)]})
    assert rows_of(rising, 0.1) > rows_of(rising, 0.5) > rows_of(rising, 0.9)
    powers = [(step, 10.0 ** (-step / 25)) for step in range(0, 101, 5)]
    for log, bent in ((True, False), (False, True)):
        low, middle, high = (rows_of(Panel("p", {"a": powers}, log=log), at) for at in (0.1, 0.5, 0.9))
        assert (abs(middle - (low + high) / 2) > 20) == bent


def test_the_logs_of_a_run_make_a_picture(tmp_path: Path) -> None:
    (tmp_path / "vae.log").write_text("".join(json.dumps({"step": s, "psnr_db": 20 + s / 50}) + "\n" for s in (50, 100)))
    lines = [{"step": 50, "loss": 2.0}, {"step": 100, "loss": 1.0, "preference": 0.01}]
    (tmp_path / "dit.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_log(tmp_path / "dit.log", "loss", "preference", "other") == {
        "loss": [(50, 2.0), (100, 1.0)],
        "preference": [(100, 0.01)],
    }
    beside = [{"step": 50, "loss": 3.0}, {"step": 50, "fake": 0.5}, {"step": 100, "loss": 2.0}, {"step": 50, "loss": 1.0}]
    (tmp_path / "two.log").write_text("".join(json.dumps(line) + "\n" for line in beside[:3]))  # lines of a step go together
    assert read_log(tmp_path / "two.log", "loss", "fake") == {"loss": [(50, 3.0), (100, 2.0)], "fake": [(50, 0.5)]}
    (tmp_path / "two.log").write_text("".join(json.dumps(line) + "\n" for line in beside))  # a run that went back
    assert read_log(tmp_path / "two.log", "loss", "fake") == {"loss": [(50, 1.0)]}
    assert training_curves(tmp_path, tmp_path).width > 3 * 900
    (tmp_path / "vae.log").unlink()
    assert training_curves(tmp_path, tmp_path).width < 3 * 900  # a VAE that was given has no curve


def test_a_resumed_run_has_one_curve(tmp_path: Path) -> None:
    steps = [(50, 3.0), (100, 2.0), (150, 9.0), (100, 1.0), (150, 0.5)]
    (tmp_path / "dit.log").write_text("".join(json.dumps({"step": s, "loss": v}) + "\n" for s, v in steps))
    assert read_log(tmp_path / "dit.log", "loss")["loss"] == [(50, 3.0), (100, 1.0), (150, 0.5)]


@pytest.mark.parametrize(
    "panels", [[], [Panel("p", {})], [Panel("p", {"a": [(0, 0.0)]}, log=True)], [Panel("p", {"a": [(0, float("nan"))]})]]
)
def test_nothing_to_draw_says_so(panels: list[Panel]) -> None:
    with pytest.raises(InputError):
        draw_curves(panels)


@pytest.mark.parametrize("text", [None, "no json", '{"loss": 1}', "[1]"])
def test_what_is_no_log_says_so(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "dit.log").write_text(text)
    with pytest.raises(InputError, match=r"dit\.log is not a training log"):
        read_log(tmp_path / "dit.log", "loss")
