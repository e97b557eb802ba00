"""runtime/engines/mil/ops/unary.py beside what coremltools computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError
from echoedge.runtime.engines.mil import compare

from .programs import HALF, caught, check, drawn, folded, plain, saved

INPUTS = {"x": drawn(2, 3, 4), "inside": np.clip(drawn(2, 3, 4), -0.9, 0.9), "p": drawn(2, 3, 4, positive=True)}
PLAIN = (
    "abs",
    "atan",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp2",
    "floor",
    "round",
    "sign",
    "sin",
    "sinh",
    "square",
    "tan",
    "tanh",
)
OPS = {
    **{name: plain(name, "x") for name in PLAIN},
    "acos": lambda inside: mb.acos(x=inside),
    "asin": lambda inside: mb.asin(x=inside),
    "atanh": lambda inside: mb.atanh(x=inside),
    "sqrt": lambda p: mb.sqrt(x=p),
    "log": lambda p: mb.log(x=p),
    "log_shifted": lambda p: mb.log(x=p, epsilon=0.5),
    "inverse": lambda p: mb.inverse(x=p, epsilon=0.25),
    "rsqrt": lambda p: mb.rsqrt(x=p, epsilon=0.125),
    "clip": lambda x: mb.clip(x=x, alpha=-0.5, beta=0.25),
    "threshold": lambda x: mb.threshold(x=x, alpha=0.25),
    "cast": lambda x: mb.cast(x=mb.mul(x=x, y=10.0), dtype="int32"),
    "to_bool": lambda x: mb.cast(x=mb.cast(x=mb.floor(x=x), dtype="bool"), dtype="int32"),
    "not": lambda x: mb.cast(x=mb.logical_not(x=mb.cast(x=mb.floor(x=x), dtype="bool")), dtype="int32"),
}


@pytest.mark.parametrize("target", [17, 18])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    check(tmp_path, OPS, INPUTS, target=target)


def test_in_half_precision_too(tmp_path: Path) -> None:
    halves = {name: x.astype(np.float16) for name, x in INPUTS.items()}
    ones = {name: OPS[name] for name in PLAIN}
    function = saved(tmp_path, ones, halves)
    expected = folded(ones, {name: x.astype(np.float32) for name, x in halves.items()})
    outputs = function.run(halves)
    assert {str(outputs[name].dtype) for name in PLAIN} == {"float16"}
    assert compare(function, expected, halves, HALF, precision="fp16").first is None
    # tanh is rounded once, at its end
    assert np.array_equal(outputs["tanh"], np.tanh(halves["x"].astype(np.float64)).astype(np.float16))


def test_unsigned_casts_wrap(tmp_path: Path) -> None:
    ops = {"wrapped": lambda x: mb.cast(x=mb.cast(x=x, dtype="uint16"), dtype="int32")}
    x = np.array([-1, 5, 65535], np.int32)
    assert saved(tmp_path, ops, {"x": x}).run({"x": x})["wrapped"].tolist() == [65535, 5, 65535]


def test_quantised_and_back(tmp_path: Path) -> None:
    x, scale, zero = drawn(2, 3, 4), np.array([0.02, 0.03, 0.05], np.float32), np.array([3, 0, -4], np.int8)
    ops = {
        "back": lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=scale, zero_point=zero, axis=1, output_dtype="int8"),
            scale=scale,
            zero_point=zero,
            axis=1,
        )
    }
    by, at = scale[None, :, None], zero.astype(np.float32)[None, :, None]
    expected = (np.clip(np.round(x / by) + at, -128, 127) - at) * by
    assert np.abs(saved(tmp_path, ops, {"x": x}).run({"x": x})["back"] - expected).max() < 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        {"floor": lambda x: mb.ceil(x=x)},
        {"rsqrt": lambda p: mb.rsqrt(x=p, epsilon=0.5)},
        {"clip": lambda x: mb.clip(x=x, alpha=-0.5, beta=0.5)},
        {"cast": lambda x: mb.cast(x=mb.round(x=mb.mul(x=x, y=10.0)), dtype="int32")},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path) -> None:
    x = drawn(2, 3, 4)
    with pytest.raises(EngineError, match=r"The operator random_normal \(value 'noise' in function 'main'\) is not known"):
        saved(tmp_path, {"noise": lambda: mb.random_normal(shape=[2, 3])}, {"x": x})
