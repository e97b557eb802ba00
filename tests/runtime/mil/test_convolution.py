"""runtime/engines/mil/ops/convolution.py beside sums that are written out, and beside torch where a file comes out of it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn

ONE, TWO, THREE = drawn(2, 4, 9), drawn(2, 4, 7, 8), drawn(1, 4, 5, 6, 7)
INPUTS = {"one": ONE, "two": TWO, "three": THREE}
W1, W2, W3, BIAS = drawn(6, 4, 3), drawn(6, 2, 3, 2), drawn(6, 4, 3, 3, 3), drawn(6)
T1, T2, T3 = drawn(4, 6, 3), drawn(4, 3, 4, 3), drawn(4, 6, 2, 3, 3)


def convolved(x: np.ndarray, w: np.ndarray, pads: list[tuple[int, int]], strides: list[int], dilations: list[int], groups: int = 1):
    """The sum of the definition, float64."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    taps, size = w.shape[2:], w.shape[1]
    out = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], taps, strides, dilations, strict=True)]
    found = np.zeros((x.shape[0], w.shape[0], *out))
    per = w.shape[0] // groups
    for group, tap in itertools.product(range(groups), itertools.product(*map(range, taps))):
        window = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, out, strides, strict=True))
        part = padded[(slice(None), slice(group * size, (group + 1) * size), *window)]
        found[:, group * per : (group + 1) * per] += np.einsum(
            "nc...,oc->no...", part, w[(slice(group * per, (group + 1) * per), slice(None), *tap)]
        )
    return found


OPS = {
    "valid": lambda one: mb.conv(x=one, weight=W1, pad_type="valid", dilations=[2]),
    "uneven": lambda two: mb.conv(x=two, weight=W2, bias=BIAS, pad_type="custom", pad=[1, 0, 2, 1], strides=[2, 1], groups=2),
    "same": lambda two: mb.conv(x=two, weight=W2, pad_type="same", strides=[2, 3], groups=2),
    "same_lower": lambda two: mb.conv(x=two, weight=W2, pad_type="same_lower", strides=[2, 3], groups=2),
    "causal": lambda three: mb.conv(x=three, weight=W3, bias=BIAS, pad_type="custom", pad=[2, 0, 1, 1, 1, 1], strides=[1, 2, 1]),
}
# Of `same`: 7 rows by steps of 2 with 3 taps lack 2; 8 columns by steps of 3 with 2 taps lack none.
EXPECTED = {
    "valid": convolved(ONE, W1, [(0, 0)], [1], [2]),
    "uneven": convolved(TWO, W2, [(1, 0), (2, 1)], [2, 1], [1, 1], 2) + BIAS[:, None, None],
    "same": convolved(TWO, W2, [(1, 1), (0, 0)], [2, 3], [1, 1], 2),
    "same_lower": convolved(TWO, W2, [(1, 1), (0, 0)], [2, 3], [1, 1], 2),
    "causal": convolved(THREE, W3, [(2, 0), (1, 1), (1, 1)], [1, 2, 1], [1, 1, 1]) + BIAS[:, None, None, None],
}


@pytest.mark.parametrize("target", [16, 18])
def test_convolutions_are_the_sum_of_their_definition(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, EXPECTED, target=target)


def test_what_same_puts_behind_and_before(tmp_path: Path) -> None:
    x, w = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4), np.array([[[1.0, 10.0]]], np.float32)
    ops = {kind: lambda x, kind=kind: mb.conv(x=x, weight=w, pad_type=kind) for kind in ("same", "same_lower")}
    expected = {"same": [[[21, 32, 43, 4]]], "same_lower": [[[10, 21, 32, 43]]]}
    check(tmp_path, ops, {"x": x}, {name: np.array(y, np.float32) for name, y in expected.items()}, bar=0)


TRANSPOSED = {
    "grown": lambda one: mb.conv_transpose(x=one, weight=T1, bias=BIAS, strides=[2], dilations=[2]),
    "cut": lambda two: mb.conv_transpose(x=two, weight=T2, pad_type="custom", pad=[1, 1, 0, 1], strides=[2, 3], groups=2),
    "sized": lambda two: mb.conv_transpose(
        x=two, weight=T2, pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 3], groups=2, output_shape=[2, 6, 15, 23]
    ),
    "deep": lambda three: mb.conv_transpose(x=three, weight=T3, pad_type="custom", pad=[0, 0, 1, 1, 1, 1], strides=[2, 2, 2]),
}


def transposed() -> dict[str, np.ndarray]:
    one, two, three, *weights = (torch.from_numpy(x) for x in (ONE, TWO, THREE, T1, T2, T3, BIAS))
    found = {
        "grown": F.conv_transpose1d(one, weights[0], weights[3], 2, dilation=2),
        "cut": F.conv_transpose2d(two, weights[1], None, (2, 3), (1, 0), groups=2)[..., :-1],
        "sized": F.conv_transpose2d(two, weights[1], None, (2, 3), 1, output_padding=(1, 1), groups=2),
        "deep": F.conv_transpose3d(three, weights[2], None, 2, (0, 1, 1)),
    }
    return {name: x.numpy() for name, x in found.items()}


def test_transposed_convolutions_are_those_of_torch(tmp_path: Path) -> None:
    check(tmp_path, TRANSPOSED, INPUTS, transposed(), target=17)


POOLS = {
    "average": lambda two: mb.avg_pool(x=two, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
    "average_inside": lambda two: mb.avg_pool(
        x=two, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=True
    ),
    "average_ceil": lambda two: mb.avg_pool(
        x=two, kernel_sizes=[3, 3], strides=[3, 3], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True
    ),
    "largest": lambda two: mb.max_pool(x=two, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]),
    "largest_ceil": lambda one: mb.max_pool(x=one, kernel_sizes=[4], strides=[3], pad_type="valid", ceil_mode=True),
    "largest_deep": lambda three: mb.max_pool(x=three, kernel_sizes=[2, 2, 2], strides=[2, 2, 2], pad_type="valid"),
}


def pooled() -> dict[str, np.ndarray]:
    one, two, three = (torch.from_numpy(x) for x in (ONE, TWO, THREE))
    found = {
        "average": F.avg_pool2d(two, (3, 2), 2, 1),
        "average_inside": F.avg_pool2d(two, (3, 2), 2, 1, count_include_pad=False),
        "average_ceil": F.avg_pool2d(two, 3, 3, 1, ceil_mode=True),
        "largest": F.max_pool2d(two, (3, 2), 2, 1),
        "largest_ceil": F.max_pool1d(one, 4, 3, ceil_mode=True),
        "largest_deep": F.max_pool3d(three, 2, 2),
    }
    return {name: x.numpy() for name, x in found.items()}


def test_pools_are_those_of_torch(tmp_path: Path) -> None:
    check(tmp_path, POOLS, INPUTS, pooled())


@pytest.mark.parametrize(
    ("right", "expected", "wrong"),
    [
        (
            OPS,
            lambda: EXPECTED,
            {
                "causal": lambda three: mb.conv(
                    x=three, weight=W3, bias=BIAS, pad_type="custom", pad=[1, 1, 1, 1, 1, 1], strides=[1, 2, 1]
                )
            },
        ),
        (
            OPS,
            lambda: EXPECTED,
            {"uneven": lambda two: mb.conv(x=two, weight=W2, pad_type="custom", pad=[1, 0, 2, 1], strides=[2, 1], groups=2)},
        ),
        (
            TRANSPOSED,
            transposed,
            {"cut": lambda two: mb.conv_transpose(x=two, weight=T2, pad_type="custom", pad=[1, 1, 1, 0], strides=[2, 3], groups=2)},
        ),
        (POOLS, pooled, {"average_inside": POOLS["average"]}),
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, right: dict, expected, wrong: dict) -> None:
    caught(tmp_path, right, wrong, INPUTS, expected())
