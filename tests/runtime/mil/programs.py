"""Programs of coremltools' builder, saved as packages, and what coremltools itself computes where their inputs are constants."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.load import load
from coremltools.converters.mil.mil import Function as MilFunction
from coremltools.converters.mil.mil import Program, types
from coremltools.models.utils import save_spec

from echoedge.runtime.engines.mil import Compared, Function, Package, compare

Make = Callable[..., Any]
TARGETS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
TYPES = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}
ROUNDING = 2e-6  # of float32, relative; the largest that was measured over all families is 6e-7
HALF = 1e-3  # of half precision: 4e-4 was measured


def plain(name: str, *inputs: str, **fixed: Any) -> Make:
    """The builder's operator `name` of inputs x and y, which are those of the program that are called `inputs`."""
    operator, parameters = getattr(mb, name), [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in inputs]

    def make(**given: Any) -> Any:
        return operator(**dict(zip("xy", (given[each] for each in inputs), strict=False)), **fixed)

    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return make


def _named(ops: Mapping[str, Make], given: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that `ops` make of `given`, which they take by name; of an operator with several results NAME_0, NAME_1, ..."""
    found = {}
    for name, make in ops.items():
        made = make(**{each: given[each] for each in inspect.signature(make).parameters if each in given})
        for place, var in enumerate(made if isinstance(made, tuple | list) else [made]):
            var.name = f"{name}_{place}" if isinstance(made, tuple | list) else name
            found[var.name] = var
    return found


def program(ops: Mapping[str, Make], inputs: Mapping[str, np.ndarray], target: int) -> Program:
    """A program whose results are all outputs. Inputs have the types and shapes of `inputs`."""
    specs = {name: mb.TensorSpec(x.shape, dtype=TYPES[str(x.dtype)]) for name, x in inputs.items()}
    with MilFunction(specs, TARGETS[target]) as function:
        function.set_outputs(list(_named(ops, function.inputs).values()))
    made = Program()
    made.add_function("main", function)
    return made


def save(made: Program, path: Path, target: int) -> Path:
    weights = path.parent / f"{path.stem}_weights"
    weights.mkdir()
    save_spec(load(made, str(weights), specification_version=target - 9), str(path), weights_dir=str(weights))
    shutil.rmtree(weights)
    return path


def saved(folder: Path, ops: Mapping[str, Make], inputs: Mapping[str, np.ndarray], target: int = 18, name: str = "one") -> Function:
    return Package.open(save(program(ops, inputs, target), folder / f"{name}.mlpackage", target)).function()


def folded(ops: Mapping[str, Make], inputs: Mapping[str, np.ndarray], target: int = 18) -> dict[str, np.ndarray]:
    """What coremltools computes itself, for those that it does."""
    with MilFunction({}, TARGETS[target]):
        made = _named(ops, {name: mb.const(val=x) for name, x in inputs.items()})
    return {name: np.asarray(var.val) for name, var in made.items() if var.val is not None}


def check(
    folder: Path,
    ops: Mapping[str, Make],
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray] | None = None,
    target: int = 18,
    bar: float = ROUNDING,
) -> Function:
    """Every result of the saved program is what coremltools computes, or `expected` says."""
    function = saved(folder, ops, inputs, target)
    known = folded(ops, inputs, target) if expected is None else dict(expected)
    assert set(known) == set(function.outputs)
    found = compare(function, known, inputs, bar)
    assert found.first is None, found.first
    assert found.results == len(known)
    return function


def caught(
    folder: Path,
    ops: Mapping[str, Make],
    wrong: Mapping[str, Make],
    inputs: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray] | None = None,
    target: int = 18,
) -> Compared:
    """A program in which `wrong` operators stand: the first that differs has the name of one of them."""
    function = saved(folder, {**ops, **wrong}, inputs, target, name="wrong")
    found = compare(function, folded(ops, inputs, target) if expected is None else expected, inputs, ROUNDING)
    assert found.first is not None, "nothing was caught"
    assert found.first.name == next(name for name in ops if name in wrong), found.first
    return found


def drawn(*shape: int, seed: int = 0, positive: bool = False) -> np.ndarray:
    found = np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)
    return np.abs(found) + np.float32(0.1) if positive else found
