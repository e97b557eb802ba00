"""runtime/engines/mil/ops/layout.py beside what coremltools computes, and beside numpy and torch where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from echoedge.runtime.engines.mil import compare

from .programs import caught, check, drawn, saved

X = drawn(2, 3, 4, 5)
INPUTS = {"x": X, "y": drawn(2, 3, 4, 5, seed=1), "i": np.arange(24, dtype=np.int32).reshape(2, 3, 4), "one": drawn(1, 3, 1)}
OPS = {
    "reshape": lambda x: mb.reshape(x=x, shape=[0, -1, 4, 5]),
    "transpose": lambda x: mb.transpose(x=x, perm=[0, 2, -1, 1]),
    "expand_dims": lambda i: mb.expand_dims(x=i, axes=[0, -1, 2]),
    "squeeze": lambda one: mb.squeeze(x=one, axes=[-1]),
    "squeeze_all": lambda one: mb.squeeze(x=one),
    "concat": lambda x, y: mb.concat(values=(x, y, x), axis=-2),
    "stack": lambda x, y: mb.stack(values=(x, y), axis=2),
    "split": lambda x: mb.split(x=x, axis=3, split_sizes=[1, 3, 1]),
    "halves": lambda x: mb.split(x=x, axis=2, num_splits=2),
    "tile": lambda i: mb.tile(x=i, reps=[2, 1, 3]),
    "reverse": lambda x: mb.reverse(x=x, axes=[1, -1]),
    "shape": lambda x: mb.shape(x=x),
    "pad": lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], constant_val=0.5),
    "reflect": lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"),
    "replicate": lambda x: mb.pad(x=x, pad=[1, 0, 2, 4, 0, 0], mode="replicate"),
    "flatten2d": lambda x: mb.flatten2d(x=x, axis=2),
}


@pytest.mark.parametrize("target", [16, 18])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, target=target, bar=0)


OTHERS = {
    "interleave": lambda x, y: mb.concat(values=(x, y), axis=1, interleave=True),
    "crop": lambda x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]),
    "depth": lambda z: mb.space_to_depth(x=z, block_size=2),
    "space": lambda z: mb.depth_to_space(x=z, block_size=2),
    "shuffled": lambda z: mb.pixel_shuffle(x=z, upscale_factor=2),
    "unshuffled": lambda z: mb.pixel_unshuffle(x=z, downscale_factor=np.uint32(2)),
    "batches": lambda z: mb.space_to_batch(x=z, block_shape=[2, 2], paddings=[[0, 0], [2, 0]]),
    "unbatched": lambda z: mb.batch_to_space(
        x=mb.space_to_batch(x=z, block_shape=[2, 3], paddings=[[1, 1], [0, 0]]), block_shape=[2, 3], crops=[[1, 1], [0, 0]]
    ),
}
Z = drawn(2, 8, 6, 6)


def of_others() -> dict[str, np.ndarray]:
    x, y, z = X, INPUTS["y"], torch.from_numpy(Z)
    rows = Z.reshape(2, 8, 3, 2, 3, 2)
    deep = Z.reshape(2, 2, 2, 2, 6, 6)  # rows of a block, columns of a block, channels
    wide = np.pad(Z, [(0, 0), (0, 0), (0, 0), (2, 0)])
    return {
        "interleave": np.stack([x, y], 2).reshape(2, 6, 4, 5),
        "crop": x[:, :, 1:, 2:-1],
        "depth": rows.transpose(0, 3, 5, 1, 2, 4).reshape(2, 32, 3, 3),
        "space": deep.transpose(0, 3, 4, 1, 5, 2).reshape(2, 2, 12, 12),
        "shuffled": F.pixel_shuffle(z, 2).numpy(),
        "unshuffled": F.pixel_unshuffle(z, 2).numpy(),
        "batches": np.concatenate([wide[:, :, r::2, c::2] for r in (0, 1) for c in (0, 1)]),
        "unbatched": Z,
    }


def test_those_that_coremltools_does_not_compute(tmp_path: Path) -> None:
    check(tmp_path, OTHERS, INPUTS | {"z": Z}, of_others(), bar=0)


def test_a_shape_out_of_others(tmp_path: Path) -> None:
    inputs = {"x": drawn(6, 4), "a": drawn(2, 3), "b": drawn(9, 4)}
    ops = {"like": lambda x, a, b: mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))}
    check(tmp_path, ops, inputs, {"like": inputs["x"].reshape(2, 3, 4)}, bar=0)


def test_a_zero_in_a_shape_is_counted_from_the_right_since_ios_17(tmp_path: Path) -> None:
    """The documented example: [2, 50] to [1, 0, -1, 0] is [1, 1, 2, 50]."""
    x = drawn(2, 50)
    check(
        tmp_path, {"y": lambda x: mb.reshape(x=x, shape=[1, 0, -1, 0])}, {"x": x}, {"y": x.reshape(1, 1, 2, 50)}, target=17, bar=0
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"transpose": lambda x: mb.transpose(x=x, perm=[0, 2, 3, 1][::-1])},
        {"concat": lambda x, y: mb.concat(values=(x, x, y), axis=-2)},
        {"reflect": lambda x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="replicate")},
        {"tile": lambda i: mb.tile(x=mb.add(x=i, y=1), reps=[2, 1, 3])},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)


def test_a_wrong_part_is_named(tmp_path: Path) -> None:
    parts = {"parts": lambda x: mb.split(x=x, axis=3, split_sizes=[2, 2, 1])}
    expected = dict(zip(("parts_0", "parts_1", "parts_2"), np.split(X, [2, 3], axis=3), strict=True))
    found = compare(saved(tmp_path, parts, INPUTS), expected, INPUTS, 0.0)
    assert found.first is not None and found.first.name == "parts_1" and "shape" in found.first.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"space": OTHERS["shuffled"]},
        {"interleave": lambda x, y: mb.concat(values=(x, y), axis=1)},
        {"batches": OTHERS["unbatched"]},
    ],
)
def test_a_wrong_one_of_the_others_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OTHERS, wrong, INPUTS | {"z": Z}, of_others())
