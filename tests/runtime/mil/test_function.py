"""runtime/engines/mil/function.py: inputs, precisions, states, functions that share weights, and sizes that are free."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function as MilFunction
from coremltools.converters.mil.mil import Program, types

from echoedge.core.errors import EngineError
from echoedge.runtime.engines.mil import Function, Made, Package

from .programs import TARGETS, drawn, save, saved

X = drawn(2, 3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Function:
    return saved(tmp_path_factory.mktemp("plain"), {"y": lambda x, i: mb.add(x=x, y=mb.cast(x=i, dtype="fp32"))}, given())


def given(**changes: Any) -> dict[str, np.ndarray]:
    return {"x": X, "i": np.array([1, 2, 3], np.int32)} | changes


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"x": X}, "The function 'main' lacks the inputs i. It takes: x, i."),
        (given(z=X), "The function 'main' has no inputs z. It takes: x, i."),
        (given(x=X.astype(np.float64)), "main takes x as fp32 [2, 3], not float64 [2, 3]."),
        (given(x=X.astype(np.float16)), "main takes x as fp32 [2, 3], not float16 [2, 3]."),
        (given(x=X[:, :2]), "main takes x as fp32 [2, 3], not float32 [2, 2]."),
        (given(i=np.array([1, 2, 3])), "main takes i as int32 [3], not int64 [3]."),
    ],
)
def test_inputs_that_it_does_not_take(plain: Function, inputs: dict, told: str) -> None:
    with pytest.raises(EngineError) as error:
        plain.run(inputs)
    assert str(error.value) == told


def test_a_precision_that_there_is_not(plain: Function) -> None:
    with pytest.raises(EngineError, match="There is no precision 'bf16' here. Choose from: fp16, fp32."):
        plain.run(given(), precision="bf16")


def test_inputs_that_may_not_be_written_to_and_outputs_that_may(plain: Function, tmp_path: Path) -> None:
    still, turned = X.copy(), np.asfortranarray(X)
    still.setflags(write=False)
    for x in (still, turned):
        assert np.array_equal(plain.run(given(x=x))["y"], X + given()["i"].astype(np.float32))
    same = saved(tmp_path, {"y": lambda x: mb.identity(x=x)}, {"x": X})
    y = same.run({"x": X})["y"]
    y[:] = 0
    assert X.any()


def test_the_two_precisions(tmp_path: Path) -> None:
    """fp16 rounds every result to what the file declares; fp32 keeps what half precision would lose."""
    x = np.array([1.0], np.float16)
    ops = {"y": lambda x: mb.sub(x=mb.add(x=mb.mul(x=x, y=np.float16(300.0)), y=np.float16(0.0625)), y=np.float16(300.0))}
    function = saved(tmp_path, ops, {"x": x})
    half, whole = function.run({"x": x}), function.run({"x": x}, "fp32")
    assert (half["y"].dtype, half["y"].tolist()) == (np.float16, [0.0])
    assert (whole["y"].dtype, whole["y"].tolist()) == (np.float32, [0.0625])


def test_values_are_forgotten_after_their_last_use(tmp_path: Path) -> None:
    """Of thirty results in a row two are held at a time: what is read and what is made."""

    def build(x: Any) -> Any:
        for _ in range(30):
            x = mb.linear(x=x, weight=np.eye(3, dtype=np.float32))
        return x

    function, seen, alive = saved(tmp_path, {"y": build}, {"x": X}), [], []

    def watch(made: Made) -> None:
        seen.append(weakref.ref(made.value))
        alive.append(sum(each() is not None for each in seen))

    assert np.array_equal(function.run({"x": X}, tap=watch)["y"], X)
    assert len(alive) == 30 and max(alive) == 2


def stateful(folder: Path) -> Function:
    specs = {"x": mb.TensorSpec((2, 3), dtype=types.fp16), "sum": mb.StateTensorSpec((2, 3), dtype=types.fp16)}
    with MilFunction(specs, TARGETS[18]) as function:
        x, kept = function.inputs["x"], function.inputs["sum"]
        added = mb.coreml_update_state(state=kept, value=mb.add(x=mb.read_state(input=kept), y=x))
        doubled = mb.mul(x=added, y=np.float16(2))
        doubled.name = "twice"
        function.set_outputs([doubled])
    made = Program()
    made.add_function("main", function)
    return Package.open(save(made, folder / "state.mlpackage", 18)).function()


def test_states_are_the_callers(tmp_path: Path) -> None:
    function, x = stateful(tmp_path), np.full((2, 3), 1.5, np.float16)
    assert {name: str(kind) for name, kind in function.states.items()} == {"sum": "fp16 [2, 3]"} and set(function.inputs) == {"x"}
    states = function.new_states()
    first = states["sum"]
    for turn in (1, 2, 3):
        assert function.run({"x": x}, states=states)["twice"].tolist() == np.full((2, 3), 3.0 * turn).tolist()
        assert states["sum"].tolist() == np.full((2, 3), 1.5 * turn).tolist()
    assert not first.any()  # what the caller had is not written into
    other = function.new_states()
    function.run({"x": x}, "fp32", other)
    assert other["sum"].dtype == np.float32 and function.run({"x": x}, "fp32", other)["twice"].dtype == np.float32


def test_states_that_are_forgotten_or_others(tmp_path: Path) -> None:
    function, x = stateful(tmp_path), np.zeros((2, 3), np.float16)
    with pytest.raises(EngineError, match=r"keeps sum between runs: give it states, at first those of new_states\(\)"):
        function.run({"x": x})
    with pytest.raises(EngineError, match=r"keeps the state sum as fp16 \[2, 3\], and was given float32 \[2, 3\]"):
        function.run({"x": x}, states={"sum": np.zeros((2, 3), np.float32)})
    with pytest.raises(EngineError, match=r"keeps the state sum as fp16 \[2, 3\], and was given nothing"):
        function.run({"x": x}, states={})


def test_functions_of_one_package(tmp_path: Path) -> None:
    made = Program()
    for name, factor in (("main", 2.0), ("thrice", 3.0)):
        with MilFunction({"x": mb.TensorSpec((2, 3))}, TARGETS[18]) as function:
            scaled = mb.mul(x=function.inputs["x"], y=factor)
            scaled.name = "y"
            function.set_outputs([scaled])
        made.add_function(name, function)
    made.export_as_multifunction, made.default_function_name = True, "thrice"
    package = Package.open(save(made, tmp_path / "two.mlpackage", 18))
    assert sorted(package.functions) == ["main", "thrice"] and package.default == "thrice"
    for name, factor in (("main", 2), ("thrice", 3), (None, 3)):
        assert np.array_equal(package.function(name).run({"x": X})["y"], X * factor)


class Widened(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x * 2], 1).reshape(x.shape[0], 2, -1).mean(-1)


@pytest.mark.parametrize(
    ("sizes", "fits", "told"),
    [
        (ct.RangeDim(3, 6, default=4), (3, 6), r"of the sizes \[2, 3 … 6\], not \[2, 7\]"),
        (ct.EnumeratedShapes([[2, 4], [2, 6]]), (4, 6), r"of the sizes one of \[2, 4\], \[2, 6\], not \[2, 7\]"),
    ],
)
def test_sizes_that_are_free(tmp_path: Path, sizes: Any, fits: tuple, told: str) -> None:
    module = Widened()
    free = {"x": {1: torch.export.Dim("n", min=3, max=6)}}
    exported = torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=free).run_decompositions({})
    shape = sizes if isinstance(sizes, ct.EnumeratedShapes) else (2, sizes)
    made = ct.convert(
        exported,
        inputs=[ct.TensorType(name="x", shape=shape, dtype=np.float32)],
        outputs=[ct.TensorType(name="y", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    made.save(str(tmp_path / "free.mlpackage"))
    function = Package.open(tmp_path / "free.mlpackage").function()
    assert str(function.inputs["x"]) == "fp32 [2, ?]"
    for count in fits:
        x = drawn(2, count)
        assert np.abs(function.run({"x": x})["y"] - module(torch.from_numpy(x)).numpy()).max() < 1e-6
    with pytest.raises(EngineError, match=told):
        function.run({"x": drawn(2, 7)})
