"""runtime/engines/mil/ops/reduction.py beside what coremltools computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn, plain, saved

INPUTS = {"x": drawn(2, 3, 4), "p": drawn(2, 3, 4, positive=True), "i": np.arange(12, dtype=np.int32).reshape(3, 4) % 5}
PLAIN = ("sum", "mean", "max", "min", "prod", "sum_square", "l1_norm", "l2_norm", "log_sum_exp")
OPS = {
    **{f"reduce_{name}": plain(f"reduce_{name}", "x", axes=[0, -1], keep_dims=True) for name in PLAIN},
    **{f"reduce_{name}_less": plain(f"reduce_{name}", "x", axes=[1]) for name in PLAIN},
    "reduce_log_sum": lambda p: mb.reduce_log_sum(x=p, axes=[1]),
    "reduce_int": lambda i: mb.reduce_sum(x=i, axes=[0]),
    "reduce_argmax": lambda x: mb.reduce_argmax(x=x, axis=1),
    "reduce_argmin": lambda x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True),
    "cumsum": lambda x: mb.cumsum(x=x, axis=1),
    "cumsum_back": lambda i: mb.cumsum(x=i, axis=0, reverse=True),
    "argsort": lambda x: mb.argsort(x=x, axis=1),
    "argsort_up": lambda x: mb.argsort(x=x, ascending=True),
    "topk": lambda x: mb.topk(x=x, k=2, axis=2),
    "topk_up": lambda x: mb.topk(x=x, k=2, axis=1, ascending=True),
}


@pytest.mark.parametrize("target", [16, 18])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, target=target)


def test_sums_without_their_own_place(tmp_path: Path) -> None:
    i = np.arange(1, 5, dtype=np.int32)
    ops = {
        "before": lambda i: mb.cumsum(x=i, exclusive=True),
        "after": lambda i: mb.cumsum(x=i, exclusive=True, reverse=True),
        "all": lambda i: mb.reduce_max(x=i),
    }
    found = saved(tmp_path, ops, {"i": i}).run({"i": i})
    assert found["before"].tolist() == [0, 1, 3, 6] and found["after"].tolist() == [9, 7, 4, 0] and found["all"].tolist() == 4


def test_means_of_halves_are_summed_in_float32(tmp_path: Path) -> None:
    x = np.full((1, 4096), 100.0, np.float16)  # their sum is above 65504
    assert saved(tmp_path, {"mean": lambda x: mb.reduce_mean(x=x, axes=[1])}, {"x": x}).run({"x": x})["mean"].tolist() == [100.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"reduce_mean_less": lambda x: mb.reduce_sum(x=x, axes=[1])},
        {"reduce_l2_norm": lambda x: mb.reduce_l2_norm(x=x, axes=[0, 1], keep_dims=True)},
        {"cumsum": lambda x: mb.cumsum(x=x, axis=1, reverse=True)},
        {"reduce_argmax": lambda x: mb.reduce_argmin(x=x, axis=1)},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)
