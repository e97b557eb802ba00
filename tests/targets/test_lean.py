"""targets/lean.py, executorch/retraces.py: compilers are quicker within, as they were behind, and nothing of it reaches a file."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._export.utils
from executorch.exir.pass_base import ExportPass, _ExportPassBase
from torch import Tensor, nn
from torch._export.utils import _collect_all_valid_cia_ops
from torch.fx.traceback import NodeSource

from echoedge.core.model.programs import EntryPoint, EntryPoints
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch.lower import lower_program, write_programs
from echoedge.targets.executorch.retraces import quick
from echoedge.targets.lean import YOUNG_OBJECTS, lean


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.softmax(self.inside(x), -1) * x,)


def program() -> EntryPoints:
    torch.manual_seed(0)
    return {"forward": EntryPoint(Small().eval(), {"x": torch.zeros(2, 4)}, ["y"])}


def state() -> tuple[object, ...]:
    found = torch._export.utils._materialize_cpp_cia_ops
    return gc.get_threshold(), "__deepcopy__" in vars(NodeSource), found, _ExportPassBase.call


def test_a_file_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    found = []
    for name, lower, write in (
        ("plain", lower_program.__wrapped__, write_programs.__wrapped__), ("lean", lower_program, write_programs)
    ):  # fmt: skip
        (built,) = write([lower("small", program(), PRESETS["int8"])], tmp_path / f"{name}.pte")
        found.append(built.path.read_bytes())
    assert found[0] == found[1]


def test_everything_is_as_it_was_behind_it_whatever_happens() -> None:
    @quick()
    @lean()
    def fail() -> None:
        found = state()
        assert gc.get_threshold()[0] >= YOUNG_OBJECTS and not any(a == b for a, b in zip(found, before, strict=True))
        raise KeyError

    before = state()
    with pytest.raises(KeyError):
        fail()
    assert state() == before


def test_where_collection_is_off_it_stays_off() -> None:
    before = gc.get_threshold()
    try:
        gc.set_threshold(0)
        with lean():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


def test_an_operator_that_is_registered_within_is_seen() -> None:
    plain = _collect_all_valid_cia_ops()
    with lean():
        assert _collect_all_valid_cia_ops() == _collect_all_valid_cia_ops() == plain
        with torch.library._scoped_library("lean_test", "DEF") as library:
            library.define("twice(Tensor x) -> Tensor")
            library.impl("twice", lambda x: 2 * x, "CompositeImplicitAutograd")
            assert {op.name() for op in _collect_all_valid_cia_ops() - plain} == {"lean_test::twice"}


def test_where_a_node_came_from_is_told_as_without_it() -> None:
    def provenance() -> list[object]:
        exported = torch.export.export(Small().eval(), (torch.zeros(2, 4),)).run_decompositions()
        told = [source.to_dict() for node in exported.graph.nodes for source in node.meta.get("from_node", [])]
        return [(each["name"], each["pass_name"], each["action"], len(each["from_node"])) for each in told]

    with lean():
        quick = provenance()
    assert quick == provenance() and len(quick) > 3


class Halves(ExportPass):
    """Changes what it traces on the way."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return super().call_operator(op, (args[0], 0.5) if "mul.Scalar" in str(op) else args, kwargs, meta)


def test_a_graph_is_traced_where_a_pass_or_a_hook_may_have_changed_it() -> None:
    from executorch.exir import to_edge

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.aten.mul.Scalar(x, 3.0) + x

    module = to_edge(torch.export.export(Scaled().eval(), (torch.ones(2),))).exported_program().graph_module
    with quick():
        first = ExportPass()(module).graph_module
        assert first is not module
        assert ExportPass()(first).graph_module is first
        assert Halves()(first).graph_module is not first
        multiplied = next(node for node in first.graph.nodes if "add" in str(node.target))
        multiplied.args = (multiplied.args[1], multiplied.args[1])
        second = ExportPass()(first).graph_module
        assert second is not first
        assert ExportPass()(second).graph_module is second
    assert ExportPass()(second).graph_module is not second
