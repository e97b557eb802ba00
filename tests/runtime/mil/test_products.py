"""runtime/engines/mil/ops/products.py beside numpy, and beside what coremltools computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from .programs import caught, check, drawn, saved

INPUTS = {
    "x": drawn(2, 5, 4),
    "y": drawn(2, 4, 5),
    "v": drawn(4),
    "m": drawn(4, 5),
    "q": drawn(1, 2, 5, 4),
    "k": drawn(1, 2, 6, 4),
    "w": drawn(1, 2, 6, 3),
    "mask": drawn(1, 1, 5, 6),
    "a": drawn(1, 3, 2, 5),
    "b": drawn(1, 5, 2, 4),
    "i": np.arange(12, dtype=np.int32).reshape(3, 4),
}
WEIGHT, BIAS = drawn(7, 4, seed=3), drawn(7, seed=3)
SEEN = np.array([[True, True, False, True, False, True]] * 5)
OPS = {
    "linear": lambda x: mb.linear(x=x, weight=WEIGHT, bias=BIAS),
    "unbiased": lambda x: mb.linear(x=x, weight=WEIGHT),
    "matmul": lambda x, y: mb.matmul(x=x, y=y),
    "transposed": lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
    "whole_numbers": lambda i: mb.matmul(x=i, y=i, transpose_y=True),
    "vector": lambda v, m: mb.matmul(x=v, y=m),
    "einsum": lambda a, b: mb.einsum(values=(a, b), equation="nchw,nwhu->nchu"),
}
ATTENTION = {
    "attention": lambda q, k, w: mb.scaled_dot_product_attention(query=q, key=k, value=w),
    "masked": lambda q, k, w: mb.scaled_dot_product_attention(query=q, key=k, value=w, attn_mask=SEEN),
    "weighed": lambda q, k, w, mask: mb.scaled_dot_product_attention(query=q, key=k, value=w, attn_mask=mask),
}


def attention(added: np.ndarray | float = 0.0) -> np.ndarray:
    """The documented formula, in float64."""
    logits = INPUTS["q"].astype(np.float64) @ np.swapaxes(INPUTS["k"], -1, -2) / 2.0 + added
    share = np.exp(logits - logits.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True) @ INPUTS["w"]


EXPECTED = {"attention": attention(), "masked": attention(np.where(SEEN, 0.0, -np.inf)), "weighed": attention(INPUTS["mask"])}


@pytest.mark.parametrize("target", [16, 18])
def test_products_are_those_of_coremltools(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, {name: x for name, x in INPUTS.items() if name not in "qkw"}, target=target)


def test_attention_is_the_documented_formula(tmp_path: Path) -> None:
    check(tmp_path, ATTENTION, INPUTS, EXPECTED)


def test_a_query_that_sees_nothing_is_not_a_number(tmp_path: Path) -> None:
    seen = SEEN.copy()
    seen[2] = False
    ops = {"masked": lambda q, k, w: mb.scaled_dot_product_attention(query=q, key=k, value=w, attn_mask=seen)}
    inputs = {name: INPUTS[name] for name in "qkw"}
    found = saved(tmp_path, ops, inputs).run(inputs)["masked"]
    assert np.isnan(found[:, :, 2]).all() and np.isfinite(np.delete(found, 2, 2)).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"linear": lambda x: mb.linear(x=x, weight=WEIGHT)},
        {"matmul": lambda x, y: mb.matmul(x=y, y=x, transpose_x=True, transpose_y=True)},
        {"einsum": lambda a, b: mb.einsum(values=(mb.reverse(x=a, axes=[3]), b), equation="nchw,nwhu->nchu")},
    ],
)
def test_a_wrong_product_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"masked": ATTENTION["attention"]},
        {"weighed": lambda q, k, w: mb.scaled_dot_product_attention(query=q, key=k, value=w, attn_mask=INPUTS["mask"] * 2)},
        {"attention": lambda q, k, w: mb.scaled_dot_product_attention(query=mb.mul(x=q, y=0.5), key=k, value=w)},
    ],
)
def test_a_wrong_attention_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, ATTENTION, wrong, INPUTS, EXPECTED)
