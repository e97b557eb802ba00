"""benchmarks/peers.py: everyone is given the same work, and bars are held against the right rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echoedge.core.config import NANO, ClipSpec
from echoedge.core.model.transformer import Block
from echoedge.docs.figures import RECORDS, REPOSITORY, read_records

from ..core.tiny import randomised
from .peers import PEERS, Row, Work, _once, bars, by_default, psnr, record
from .start import row_of

CLIP = ClipSpec(32, 32, 9)


@pytest.fixture
def small() -> Work:
    config = replace(NANO, layers=2, text_len=80, coupled_layers=0)
    return Work(config, CLIP, [randomised(Block(config, coupled=False), seed) for seed in (1, 2)])


@torch.no_grad()
def test_both_settings_are_the_same_step(small: Work) -> None:
    same, published = (small.inputs(setting, seed=1) for setting in ("same-step", "published"))
    expected = small.module("published", plain=True)(*published)
    for plain in (False, True):  # the blocks that EchoEdge compiles, and those that peers are given
        assert psnr(small.module("same-step", plain)(*same), expected) > 110  # measured: 139
    wrong = list(same)
    wrong[3] = torch.zeros_like(wrong[3])  # the padding's weight
    assert psnr(small.module("same-step", True)(*wrong), expected) < 60


@torch.no_grad()
def test_calibration_samples_are_not_what_is_judged(small: Work) -> None:
    first, again, other = (small.inputs("same-step", seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def rows(ours: float, openvino: float, bf16: float, layers: float, setting: str = "same-step") -> list[Row]:
    seconds = {
        "echoedge int8": ours, "openvino int8": openvino, "openvino int8, bf16": bf16, "openvino int8 layers, bf16": layers,
    }  # fmt: skip
    return [Row(2, 448, setting, name, value, value, 40.0) for name, value in seconds.items()]


def test_bars_are_against_the_better_of_a_rival() -> None:
    what = "same-step, 2 blocks, 448 tokens, int8 over openvino"
    assert bars(rows(0.9, 1.5, 1.0, 0.1)) == [(what, pytest.approx(0.9), 0.9)]
    assert bars(rows(0.9, 0.8, 1.0, 0.1)) == [(what, pytest.approx(0.9 / 0.8), 0.9)]


def test_bars_hold_rows_of_one_setting_and_depth_against_each_other() -> None:
    ours, *theirs = rows(0.9, 1.5, 1.0, 0.1)
    elsewhere = [replace(row, setting="published") for row in theirs]
    deeper = [replace(row, layers=30) for row in theirs]
    assert not bars([ours, *elsewhere, *deeper])
    assert [what.split(",")[0] for what, _, _ in bars(rows(0.9, 1.5, 1.0, 0.1, setting="published"))] == ["published"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        _once(tmp_path / "made", fail)
    assert not (tmp_path / "made").exists()
    assert [file.name for file in _once(tmp_path / "made", lambda folder: (folder / "all").touch()).iterdir()] == ["all"]
    assert _once(tmp_path / "made", fail) == tmp_path / "made"


def test_what_runs_by_default_is_known() -> None:
    assert set(by_default()) <= set(PEERS)
    assert "torch fp32" in by_default()


def test_a_run_is_kept_as_the_page_shows_it(tmp_path: Path) -> None:
    fp32 = Row(2, 448, "same-step", "torch fp32", 3.6, 7.0, float("inf"))  # of itself it has no PSNR
    record(tmp_path / "peers.json", [*rows(0.9, 1.5, 1.0, 0.1), fp32], "make bench-peers", "Two threads.")
    kept = read_records(tmp_path)["peers"].figures
    assert [row["int8_over_this"] for row in kept["blocks"]] == pytest.approx([1.0, 0.6, 0.9, 9.0, 0.25])
    assert kept["blocks"][-1]["psnr_db"] is None
    assert [(row["rival"], row["int8"], row["int8_bf16"]) for row in kept["ratios"]] == [("openvino", pytest.approx(0.9), None)]
    committed = read_records(REPOSITORY / RECORDS)["peers"].figures  # the same fields, so that the page can show either
    assert all(set(kept[table][0]) == set(committed[table][0]) for table in kept)


def test_starts_are_kept_as_the_page_shows_them() -> None:
    row = row_of("animate", {"this": (1.6044, 1.8), "beside": (6.3, 6.6)})
    assert row == {"command": "animate", "wall_s": 1.604, "cpu_s": 1.8, "beside_wall_s": 6.3, "beside_cpu_s": 6.6}
    assert row_of("animate", {"this": (1.6, 1.8)})["beside_wall_s"] is None
    assert set(row) == set(read_records(REPOSITORY / RECORDS)["start"].figures["commands"][0])
