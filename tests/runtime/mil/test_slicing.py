"""runtime/engines/mil/ops/slicing.py beside what coremltools computes, and beside numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError

from .programs import caught, check, drawn, saved

X = drawn(3, 5, 7)
INPUTS = {"x": X, "u": drawn(3, 2, 3), "i": np.arange(35, dtype=np.int32).reshape(5, 7)}
OPS = {
    "plain": lambda x: mb.slice_by_index(x=x, begin=[0, 1, 2], end=[3, 4, 6]),
    "strided": lambda x: mb.slice_by_index(x=x, begin=[0, 0, 1], end=[3, 5, 7], stride=[1, 2, 3]),
    "masked": lambda x: mb.slice_by_index(
        x=x, begin=[9, -3, 0], end=[0, 9, -1], begin_mask=[True, False, False], end_mask=[True, True, False]
    ),
    "backwards": lambda x: mb.slice_by_index(
        x=x, begin=[0, -1, 0], end=[3, -4, 7], stride=[1, -1, 2], begin_mask=[True] + [False] * 2, end_mask=[True, False, True]
    ),
    "single": lambda x: mb.slice_by_index(
        x=x, begin=[0, -2, 0], end=[0, 0, 0], begin_mask=[True, False, True], end_mask=[True] * 3, squeeze_mask=[False, True, False]
    ),
    "whole_numbers": lambda i: mb.slice_by_index(x=i, begin=[1, 1], end=[3, 5]),
    "sized": lambda x: mb.slice_by_size(x=x, begin=[1, 0, 2], size=[2, -1, 3]),
    "windows": lambda x: mb.sliding_windows(x=x, axis=1, size=3, stride=2),
    "lower": lambda x: mb.band_part(x=x, lower=-1, upper=0),
    "band": lambda i: mb.band_part(x=i, lower=1, upper=2),
}


def windows() -> np.ndarray:
    return np.stack([X[:, 0:3], X[:, 2:5]], 1)


@pytest.mark.parametrize("target", [16, 18])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, {name: make for name, make in OPS.items() if name != "windows"}, INPUTS, target=target, bar=0)


def test_windows_that_slide(tmp_path: Path) -> None:
    check(tmp_path, {"windows": OPS["windows"]}, INPUTS, {"windows": windows()}, bar=0)


def test_a_slice_replaced(tmp_path: Path) -> None:
    expected = X.copy()
    expected[:, 1:5:2, 4:7] = INPUTS["u"]
    ops = {
        "updated": lambda x, u: mb.slice_update(
            x=x,
            update=u,
            begin=[0, 1, 4],
            end=[0, 5, 7],
            stride=[1, 2, 1],
            begin_mask=[True, False, False],
            end_mask=[True, False, False],
        )
    }
    given = INPUTS["x"].copy()
    function = check(tmp_path, ops, INPUTS, {"updated": expected}, bar=0)
    function.run(INPUTS)
    assert np.array_equal(INPUTS["x"], given)  # an input is never written to


def test_one_slice_too_long_is_refused(tmp_path: Path) -> None:
    inputs = {"x": X, "at": np.array([2, 0, 0], np.int32)}
    function = saved(tmp_path, {"part": lambda x, at: mb.slice_by_size(x=x, begin=at, size=[2, 1, 1])}, inputs)
    with pytest.raises(EngineError, match="slice_by_size 'part' .* 2 from 2 on are more than the 3 along axis 0"):
        function.run(inputs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"plain": lambda x: mb.slice_by_index(x=x, begin=[0, 2, 2], end=[3, 5, 6])},  # one too far
        {"strided": lambda x: mb.slice_by_index(x=x, begin=[0, 0, 0], end=[3, 5, 6], stride=[1, 2, 3])},
        {"sized": lambda x: mb.slice_by_size(x=x, begin=[0, 0, 2], size=[2, -1, 3])},
        {"lower": lambda x: mb.band_part(x=x, lower=0, upper=-1)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, {name: make for name, make in OPS.items() if name != "windows"}, wrong, INPUTS)
