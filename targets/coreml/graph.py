"""The graph that a package was converted from, kept beside it until it has been proven: torch computes it in single precision, with
weights and numbers as the package stores them, and gives what each operator has to make. Names are those of the package's values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, fx

from .operators import half
from .storage import numbers

GRAPHS = ".graphs"  # behind a folder's name: the file of its programs' graphs
_GETITEM = "getitem"
# Attention of single precision leaves other strides than that of half precision, for which the graph was made.
_ANY_STRIDES = dict.fromkeys(("aten.view.default", "aten._unsafe_view.default"), "aten.reshape.default")
Read = Callable[[str], Tensor | None]  # a constant of a package by its name; None where there is none


@dataclass
class Graph:
    """`nodes`: [name, operator, arguments, named arguments] in order, of plain values (see `_plain`); `inputs`: nodes in the order
    of the method's record; `outputs`: nodes by the names of the package's outputs; `numbers`: of weights that the package does not
    hold as they are; `stored`: of the others, by node, the names that they may have in the package, where equal ones are once."""

    nodes: list[Any]
    inputs: list[str]
    outputs: dict[str, str]
    numbers: dict[str, Tensor]
    stored: dict[str, list[str]] = field(default_factory=dict)
    _equal: dict[bytes, list[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, exported: Any, outputs: Sequence[str], held: Mapping[str, str]) -> Self:
        """`exported`: torch's program; `outputs`: names in the package; `held`: weights by node whose numbers are kept here."""
        signature, tensors = exported.graph_signature, {**exported.constants, **exported.state_dict}
        given = {each.arg.name: each.target for each in signature.input_specs if each.target is not None}
        nodes = [
            [node.name, _told(node.target), _plain(node.args), _plain(node.kwargs)]
            for node in exported.graph.nodes
            if node.op == "call_function"
        ]
        return cls(
            nodes, list(signature.user_inputs), dict(zip(outputs, signature.user_outputs, strict=True)),
            {node: tensors[given[node]].detach().clone() for node in held},
        )  # fmt: skip

    def reads(self, node: str, name: str, tensor: Tensor | None) -> None:
        """The weight `node` is the package's constant `name`; `tensor`: its numbers, where others may be equal to them."""
        names = [name]
        if tensor is not None:
            array = numbers(tensor)
            names = self._equal.setdefault(sha256(str((array.shape, array.dtype)).encode() + array.tobytes()).digest(), [])
            names.append(name)
        self.stored[node] = names

    def values(self, inputs: Sequence[Tensor], read: Read) -> Iterator[tuple[str, Tensor]]:
        """Computes the graph: tensors as they are made, by their names in the package; ends early where that lacks a weight."""
        called = {node: name for name, node in self.outputs.items()}
        last = {name: place for place, node in enumerate(self.nodes) for name in _read_by(node[2:])}
        held = dict[str, Any](zip(self.inputs, map(_single, inputs), strict=True))
        for place, (name, told, args, kwargs) in enumerate(self.nodes):
            for needed in _read_by((args, kwargs)):
                if needed not in held:
                    weight = self._weight(needed, read)
                    if weight is None:
                        return
                    held[needed] = weight
            made = _function(told)(*_meant(args, held), **_meant(kwargs, held))
            if isinstance(made, Tensor):
                yield called.get(name, name), made
            if name in last:
                held[name] = made
            for needed in _read_by((args, kwargs)):
                if last[needed] == place:
                    held.pop(needed, None)

    def _weight(self, node: str, read: Read) -> Tensor | None:
        if node in self.numbers:
            return _single(self.numbers[node])
        found = next((value for name in self.stored.get(node, ()) if (value := read(name)) is not None), None)
        return None if found is None else _single(found)


def write_graphs(graphs: Mapping[str, Graph], folder: Path) -> None:
    """Beside `folder`, whose programs they are, by method."""
    parts = ("nodes", "inputs", "outputs", "numbers", "stored")
    with graphs_of(folder).open("wb") as file:
        torch.save({method: {part: getattr(graph, part) for part in parts} for method, graph in graphs.items()}, file)


def read_graphs(folder: Path) -> dict[str, Graph]:
    return {method: Graph(**parts) for method, parts in torch.load(graphs_of(folder), weights_only=True).items()}


def graphs_of(folder: Path) -> Path:
    return folder.with_name(folder.name + GRAPHS)


# ---- plain values ---------------------------------------------------------------------------------------------------------------


def _told(target: Any) -> str:
    return _GETITEM if target is operator.getitem else str(target)


def _function(told: str) -> Callable[..., Any]:
    if told == _GETITEM:
        return operator.getitem
    namespace, name, overload = _ANY_STRIDES.get(told, told).split(".")
    found: Callable[..., Any] = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    return found


def _plain(value: Any) -> Any:
    """Arguments of a node: numbers, texts and lists; another node is {"node"}, a type {"dtype"}; layouts and devices are None."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"named": {name: _plain(each) for name, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str)) else None


def _meant(value: Any, held: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_meant(each, held) for each in value]
    if isinstance(value, float):
        return float(half(value))
    if not isinstance(value, dict):
        return value
    if "node" in value:
        return held[value["node"]]
    if "named" in value:
        return {name: _meant(each, held) for name, each in value["named"].items()}
    return torch.float32 if value["dtype"] == "float16" else getattr(torch, value["dtype"])


def _read_by(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {value["node"]} if "node" in value else _read_by(list(value.get("named", {}).values()))
    return {name for each in value for name in _read_by(each)} if isinstance(value, (list, tuple)) else set()


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor
