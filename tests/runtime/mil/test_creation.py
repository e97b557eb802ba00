"""runtime/engines/mil/ops/creation.py beside numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn

INPUTS = {
    "x": drawn(2, 3),
    "i": np.array([[1, 3], [0, 7]], np.int32),
    "end": np.array([7], np.int32),
    "last": np.array([2.0], np.float32),
}
OPS = {
    "filled": lambda x: mb.fill(shape=mb.shape(x=x), value=1.5),
    "alike": lambda x: mb.fill_like(ref_tensor=x, value=np.int32(3)),
    "counted": lambda end: mb.range_1d(start=1, end=mb.squeeze(x=end), step=2),
    "stepped": lambda last: mb.range_1d(start=0.0, end=mb.squeeze(x=last), step=0.25),
    "hot": lambda i: mb.one_hot(indices=i, one_hot_vector_size=4),
    "hot_ahead": lambda i: mb.one_hot(indices=i, one_hot_vector_size=4, axis=0, on_value=2.5, off_value=-1.0),
}
HOT = INPUTS["i"][..., None] == np.arange(4)  # a 7 is outside
EXPECTED = {
    "filled": np.full((2, 3), 1.5, np.float32),
    "alike": np.full((2, 3), 3, np.int32),
    "counted": np.array([1, 3, 5], np.int32),
    "stepped": np.arange(0, 2, 0.25, np.float32),
    "hot": HOT.astype(np.int32),
    "hot_ahead": np.where(HOT.transpose(2, 0, 1), np.float32(2.5), np.float32(-1)),
}


@pytest.mark.parametrize("target", [16, 18])
def test_they_are_those_of_numpy(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, EXPECTED, target=target, bar=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"counted": lambda end: mb.range_1d(start=0, end=mb.squeeze(x=end), step=2)},
        {"filled": lambda x: mb.fill(shape=mb.shape(x=x), value=1.25)},
        {"hot": lambda i: mb.one_hot(indices=mb.add(x=i, y=1), one_hot_vector_size=4)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS, EXPECTED)
