"""benchmarks/peers.py: everyone is given the same work, and bars are held against the right rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echoedge.core.config import NANO, ClipSpec
from echoedge.core.model.transformer import Block

from ..core.tiny import randomised
from .peers import PEERS, Row, Work, _once, bars, by_default, psnr

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
