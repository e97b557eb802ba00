"""runtime/engines/mil/ops/binary.py beside what coremltools computes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError

from .programs import Make, caught, check, drawn, plain, saved

INPUTS = {
    "x": drawn(2, 3, 4), "y": drawn(3, 1, seed=1), "p": drawn(2, 3, 4, positive=True), "i": np.array([[7, -7, 5]], np.int32),
    "j": np.array([[2], [-3]], np.int32), "near": np.round(drawn(2, 3, 4)), "far": np.round(drawn(2, 3, 4, seed=2)),
}  # fmt: skip
ORDERS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
LOGIC = ("logical_and", "logical_or", "logical_xor")


def numbered(make: Make) -> Make:
    """The same as a number, which outputs have to be."""

    @functools.wraps(make)
    def found(**given: Any) -> Any:
        return mb.cast(x=make(**given), dtype="int32")

    return found


def logical(name: str) -> Make:
    operator = getattr(mb, name)
    return lambda x, y: operator(x=mb.greater(x=x, y=0.3), y=mb.greater(x=y, y=0.0))


OPS = {
    **{name: plain(name, "x", "y") for name in ("add", "sub", "mul", "real_div", "maximum", "minimum", "mod")},
    "floor_div": plain("floor_div", "x", "y"),
    **{f"int_{name}": plain(name, "i", "j") for name in ("add", "mul", "floor_div", "mod", "maximum")},
    "pow": lambda p, y: mb.pow(x=p, y=y),
    **{name: numbered(plain(name, "near", "far")) for name in ORDERS},
    **{name: numbered(logical(name)) for name in LOGIC},
    "select": lambda x, near, far: mb.select(cond=mb.greater(x=x, y=0.1), a=near, b=far),
}


@pytest.mark.parametrize("target", [17, 18])
def test_they_compute_what_coremltools_computes(tmp_path: Path, target: int) -> None:
    function = check(tmp_path, OPS, INPUTS, target=target)
    assert function.run(INPUTS)["int_floor_div"].tolist() == [[3, -4, 2], [-3, 2, -2]]  # towards minus infinity


@pytest.mark.parametrize(
    "wrong",
    [
        {"sub": lambda x, y: mb.sub(x=y, y=x)},
        {"greater": numbered(plain("greater_equal", "near", "far"))},
        {"select": lambda x, near, far: mb.select(cond=mb.greater(x=x, y=0.1), a=far, b=near)},
        {"int_mod": lambda i, j: mb.sub(x=i, y=mb.mul(x=j, y=mb.cast(x=mb.real_div(x=as_float(i), y=as_float(j)), dtype="int32")))},
    ],
)
def test_a_wrong_one_is_named(tmp_path: Path, wrong: dict) -> None:
    caught(tmp_path, OPS, wrong, INPUTS)


def as_float(var: Any) -> Any:
    return mb.cast(x=var, dtype="fp32")


def test_a_quotient_of_integers_is_refused(tmp_path: Path) -> None:
    function = saved(tmp_path, {"ratio": lambda i, j: mb.real_div(x=i, y=j)}, {name: INPUTS[name] for name in "ij"})
    with pytest.raises(EngineError, match="real_div 'ratio' in function 'main' cannot be run: .* floor_div is defined"):
        function.run({name: INPUTS[name] for name in "ij"})
