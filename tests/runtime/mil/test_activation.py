"""runtime/engines/mil/ops/activation.py beside what coremltools computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn, plain

INPUTS = {"x": 2 * drawn(2, 3, 4, 5)}
ALPHA, BETA = np.array([0.1, 0.3, 0.5], np.float32), np.array([1.5, 1.0, 0.5], np.float32)
PLAIN = ("relu", "relu6", "sigmoid", "softplus", "softsign")
OPS = {
    **{name: plain(name, "x") for name in PLAIN},
    "gelu": lambda x: mb.gelu(x=x),
    "gelu_tanh": lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
    "gelu_sigmoid": lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
    "softmax": lambda x: mb.softmax(x=x),
    "softmax_of_axis": lambda x: mb.softmax(x=x, axis=1),
    "leaky_relu": lambda x: mb.leaky_relu(x=x, alpha=0.2),
    "elu": lambda x: mb.elu(x=x, alpha=0.7),
    "prelu": lambda x: mb.prelu(x=x, alpha=ALPHA),
    "clamped_relu": lambda x: mb.clamped_relu(x=x, alpha=0.2, beta=1.5),
    "linear_activation": lambda x: mb.linear_activation(x=x, alpha=0.2, beta=1.5),
    "scaled_tanh": lambda x: mb.scaled_tanh(x=x, alpha=0.2, beta=1.5),
    "sigmoid_hard": lambda x: mb.sigmoid_hard(x=x, alpha=0.2, beta=0.4),
    "softplus_parametric": lambda x: mb.softplus_parametric(x=x, alpha=ALPHA, beta=BETA),
}


@pytest.mark.parametrize("target", [16, 17])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, target=target)


def test_those_that_coremltools_does_not_compute(tmp_path: Path) -> None:
    x = INPUTS["x"]
    ops = {"silu": lambda x: mb.silu(x=x), "thresholded_relu": lambda x: mb.thresholded_relu(x=x, alpha=0.5)}
    check(tmp_path, ops, INPUTS, {"silu": x / (1 + np.exp(-x)), "thresholded_relu": np.where(x >= 0.5, x, 0)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"softmax_of_axis": lambda x: mb.softmax(x=x, axis=2)},
        {"gelu": lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION")},
        {"prelu": lambda x: mb.prelu(x=x, alpha=ALPHA[::-1].copy())},
        {"scaled_tanh": lambda x: mb.scaled_tanh(x=x, alpha=1.5, beta=0.2)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)
