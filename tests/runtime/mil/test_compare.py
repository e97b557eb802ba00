"""runtime/engines/mil/compare.py and observed.py: the first operator that differs, and how near results are to overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from echoedge.core.errors import EngineError
from echoedge.runtime.engines.mil import Observations, compare
from echoedge.runtime.engines.mil.observed import difference

from .programs import drawn, saved

WEIGHT, INPUTS = drawn(4, 4), {"x": drawn(3, 4)}


def chain(scale: float, weight: np.ndarray = WEIGHT, last: str = "tanh") -> dict:
    """One operator after the other, each an output, so that where a difference starts is known."""

    def build(x: object) -> list:
        first = mb.mul(x=x, y=scale)
        second = mb.linear(x=first, weight=weight)
        third = getattr(mb, last)(x=second)
        return [first, second, third, mb.reduce_sum(x=third, axes=[1])]

    return {"step": build}


def test_the_first_that_differs_is_named_and_nothing_after_it_is_run(tmp_path: Path) -> None:
    right = saved(tmp_path, chain(0.5), INPUTS, name="right")
    same = compare(saved(tmp_path, chain(0.5), INPUTS, name="same"), right, INPUTS, 0.0)
    assert (same.results, same.largest, same.first) == (4, 0.0, None)
    changed = WEIGHT.copy()
    changed[2, 1] += 0.01
    found = compare(saved(tmp_path, chain(0.5, changed), INPUTS, name="changed"), right, INPUTS, 1e-4)
    assert found.first is not None and (found.first.name, found.first.type, found.results) == ("step_1", "linear", 2)
    assert "linear 'step_1' differs by 0.00" in str(found.first) and "the bar is 0.0001" in str(found.first)
    assert compare(saved(tmp_path, chain(0.5, changed), INPUTS, name="again"), right, INPUTS, 0.1).first is None
    other = compare(saved(tmp_path, chain(0.5, last="sigmoid"), INPUTS, name="other"), right, INPUTS, 0.1)
    assert other.first is not None and (other.first.name, other.first.type) == ("step_2", "sigmoid")


def test_a_run_in_half_precision_beside_one_in_float32(tmp_path: Path) -> None:
    halves = {"x": INPUTS["x"].astype(np.float16)}
    ops = {"sum": lambda x: mb.add(x=x, y=np.float16(1000.0)), "back": lambda x: mb.tanh(x=x)}
    function = saved(tmp_path, ops, halves)
    found = compare(function, function, halves, 1.0, precision="fp16", expected_precision="fp32")
    assert found.first is None and 1e-6 < found.largest < 1e-3


def test_results_by_name(tmp_path: Path) -> None:
    function = saved(tmp_path, chain(0.5), INPUTS)
    good = function.run(INPUTS, "fp32")
    assert compare(function, {"step_3": good["step_3"]}, INPUTS, 0.0).results == 1
    shifted = compare(function, {"step_3": good["step_3"] + 1}, INPUTS, 1e-3).first
    assert shifted is not None and shifted.name == "step_3"
    shorter = compare(function, {"step_3": good["step_3"][:2]}, INPUTS, 1e-3).first
    assert shorter is not None and shorter.reason == "has the shape [3] and not [2]"
    with pytest.raises(EngineError, match="makes none of the values that were expected"):
        compare(function, {"elsewhere": good["step_3"]}, INPUTS, 0.0)


def test_two_programs_that_are_not_one(tmp_path: Path) -> None:
    first = saved(tmp_path, {"a": lambda x: mb.relu(x=x)}, INPUTS, name="first")
    with pytest.raises(EngineError, match="one makes 'a' by relu where the other makes 'b' by tanh"):
        compare(first, saved(tmp_path, {"b": lambda x: mb.tanh(x=x)}, INPUTS, name="second"), INPUTS, 0.0)
    longer = saved(tmp_path, {"a": lambda x: mb.relu(x=x), "b": lambda x: mb.tanh(x=x)}, INPUTS, name="longer")
    with pytest.raises(EngineError, match="makes 'b' where 'main' has ended"):
        compare(first, longer, INPUTS, 0.0)
    with pytest.raises(EngineError, match="one makes 'b' by tanh where the other ends"):
        compare(longer, first, INPUTS, 0.0)


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.3, 4.4], [3.0, 4.0], 0.1),
        ([0.0, 2.0], [0.0, 0.0], np.sqrt(2)),  # nothing to be relative to
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [np.nan, 1.1], 0.1 / np.sqrt(2) / 1.1),
        ([np.inf, 1.0], [1.0, 1.0], np.inf),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
    ],
)
def test_how_much_two_results_differ(found: list, expected: list, told: float) -> None:
    assert difference(torch.tensor(found), torch.tensor(expected)) == pytest.approx(told, rel=1e-6)


def test_what_is_observed_of_results(tmp_path: Path) -> None:
    halves = {"x": np.array([[1.0, -300.0, 0.0, 2.0**-20]], np.float16)}

    def build(x: object) -> list:
        squared = mb.square(x=x)
        return [squared, mb.mul(x=squared, y=np.float16(0.5)), mb.cast(x=x, dtype="int32")]

    function = saved(tmp_path, {"step": build}, halves)
    seen = Observations()
    function.run(halves, tap=seen)
    squared, scaled = seen.records  # whole numbers are not noted
    assert (squared.name, squared.type, squared.dtype, squared.shape) == ("step_0", "square", "fp16", (1, 4))
    assert squared.not_finite == (0, 1) == scaled.not_finite and squared.largest == 1.0  # 90000 is beyond half precision
    assert seen.first_not_finite is squared and squared.headroom == 65504
    whole = Observations()
    function.run(halves, "fp32", tap=whole)
    assert whole.first_not_finite is None
    assert [(each.name, round(each.headroom, 3)) for each in whole.tightest()] == [("step_0", 0.728), ("step_1", 1.456)]
    assert whole.records[0].smallest == 2.0**-40 and whole.records[0].subnormal and not squared.subnormal
