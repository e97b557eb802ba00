"""runtime/engines/mil/ops/normalization.py beside what coremltools computes, and beside torch where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn, saved

X = drawn(2, 3, 4, 5) + 3
INPUTS = {"x": X}
GAMMA, BETA, MEAN, VARIANCE = (drawn(3, seed=seed, positive=seed != 1) for seed in range(4))
LAST, LAST_TWO = drawn(5, seed=9), drawn(4, 5, seed=9)
FOLDED = {
    "layer": lambda x: mb.layer_norm(x=x, axes=[-1], gamma=LAST, beta=2 * LAST, epsilon=0.1),
    "layer_of_two": lambda x: mb.layer_norm(x=x, axes=[2, 3], gamma=LAST_TWO),
    "layer_of_channels": lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
    "l2": lambda x: mb.l2_norm(x=x, epsilon=0.5),
}
OTHERS = {
    "batch": lambda x: mb.batch_norm(x=x, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=0.01),
    "instance": lambda x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=0.01),
    "local": lambda x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=1.5),
}


def of_torch() -> dict[str, np.ndarray]:
    x, gamma, beta, mean, variance = (torch.from_numpy(each) for each in (X, GAMMA, BETA, MEAN, VARIANCE))
    return {
        "batch": F.batch_norm(x, mean, variance, gamma, beta, eps=0.01).numpy(),
        "instance": F.instance_norm(x, weight=gamma, bias=beta, eps=0.01).numpy(),
        "local": F.local_response_norm(x, 3, 0.5, 0.6, 1.5).numpy(),
    }


@pytest.mark.parametrize("target", [16, 18])
def test_those_that_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, FOLDED, INPUTS, target=target)


def test_those_of_torch(tmp_path: Path) -> None:
    check(tmp_path, OTHERS, INPUTS, of_torch())


def test_a_squared_sum_beyond_half_precision_is_no_overflow(tmp_path: Path) -> None:
    x = (X * 200).astype(np.float16)  # their squares are above 65504
    found = saved(tmp_path, {"layer": lambda x: mb.layer_norm(x=x, axes=[-1])}, {"x": x}).run({"x": x})["layer"]
    assert np.abs(found - F.layer_norm(torch.from_numpy(x).float(), [5]).numpy()).max() < 2e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"layer": lambda x: mb.layer_norm(x=x, axes=[-1], gamma=LAST, beta=2 * LAST, epsilon=1e-5)},
        {"layer_of_channels": lambda x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA)},
        {"l2": lambda x: mb.l2_norm(x=x, epsilon=0.6)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, FOLDED, wrong, INPUTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": lambda x: mb.batch_norm(x=x, mean=VARIANCE, variance=MEAN, gamma=GAMMA, beta=BETA, epsilon=0.01)},
        {"instance": lambda x: mb.instance_norm(x=x, gamma=GAMMA, epsilon=0.01)},
    ],
)
def test_a_wrong_one_of_channels_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OTHERS, wrong, INPUTS, of_torch())
