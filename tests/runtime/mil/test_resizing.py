"""runtime/engines/mil/ops/resizing.py beside the documented grids, and beside torch where a file comes out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError

from .programs import caught, check, drawn, saved

X, LINE = drawn(2, 3, 5, 4), np.array([[[0.0, 1.0]]], np.float32)
INPUTS = {"x": X}
OPS = {
    "doubled": lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
    "grown": lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.5, scale_factor_width=2.5),
    "nearest": lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=7, target_size_width=3),
    "corners": lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True),
    "centres": lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
    "unaligned": lambda x: mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3, sampling_mode="UNALIGN_CORNERS"),
    "strict": lambda x: mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3, sampling_mode="STRICT_ALIGN_CORNERS"),
}


def of_torch() -> dict[str, np.ndarray]:
    x = torch.from_numpy(X)
    found = {
        "doubled": F.interpolate(x, scale_factor=(2, 3)),
        "grown": F.interpolate(x, scale_factor=(1.5, 2.5)),
        "nearest": F.interpolate(x, (7, 3)),
        "corners": F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=True),
        "centres": F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
        "unaligned": F.interpolate(x, (7, 3), mode="bilinear"),
        "strict": F.interpolate(x, (7, 3), mode="bilinear", align_corners=True),
    }
    return {name: y.numpy() for name, y in found.items()}


@pytest.mark.parametrize("target", [16, 18])
def test_they_are_those_of_torch(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, of_torch(), target=target)


GRIDS = {  # the examples of Core ML's documentation: a line from 0 to 1 in five and in six samples
    "UNALIGN_CORNERS": ([0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
    "STRICT_ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    "ALIGN_CORNERS": ([0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
    "DEFAULT": ([0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
    "OFFSET_CORNERS": ([0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
}


@pytest.mark.parametrize("mode", GRIDS)
def test_grids_are_the_documented_ones(tmp_path: Path, mode: str) -> None:
    five, six = (np.array(each, np.float32).reshape(1, 1, -1) for each in GRIDS[mode])
    ops = {
        "five": lambda x: mb.resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode),
        "six": lambda x: mb.resize(x=x, shape=[6], resized_dims=np.uint32(1), sampling_mode=mode),
        "kept": lambda x: mb.resize(x=x, shape=[0], resized_dims=np.uint32(1), sampling_mode=mode),
    }
    expected = {"five": five, "six": six}
    if mode not in ("OFFSET_CORNERS",):  # whose two samples of two pixels lie inside
        expected["kept"] = LINE
    else:
        del ops["kept"]
    check(tmp_path, ops, {"x": LINE}, expected)


def test_a_factor_that_no_one_explains_is_refused(tmp_path: Path) -> None:
    """What coremltools makes of a size of 9 out of 6: with 1.50002 place 3 is pixel 1 by the factor, pixel 2 by the sizes."""
    ops = {"grown": lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_width=1.50002)}
    inputs = {"x": drawn(1, 1, 6)}
    with pytest.raises(EngineError, match="which of 6 pixels is nearest at a factor of 1.50002 is documented nowhere"):
        saved(tmp_path, ops, inputs).run(inputs)


def test_an_undocumented_nearest_is_refused(tmp_path: Path) -> None:
    ops = {
        "near": lambda x: mb.resize(
            x=x, shape=[7, 3], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR", sampling_mode="OFFSET_CORNERS"
        )
    }
    with pytest.raises(EngineError, match="resize 'near' .* documented nowhere"):
        saved(tmp_path, ops, INPUTS).run(INPUTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"doubled": lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False)},
        {"corners": OPS["centres"]},
        {"unaligned": lambda x: mb.resize_bilinear(x=x, target_size_height=7, target_size_width=3)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS, of_torch())
