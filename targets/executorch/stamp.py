"""Stamping: of a block that a model repeats, one is compiled; the others take its payload and put their own weights into it.

Compiling costs time per operator, not per weight, and a transformer's blocks are one graph with other numbers. XNNPACK's payload
names its constants by the SHA-256 of their bytes, so that exchanging names exchanges weights:

1. template     a block of random weights is lowered to one delegate; each name in its payload is traced to the tensor behind it
2. stamp        another block's tensors are encoded the same way, and its names written over the template's
3. call         the stamped delegate as a module of a parent program, with the tensors that are arguments of the delegate

This leans on a layout that is private to ExecuTorch. Each step checks what it relies on and raises a StampError where that does not
hold; whoever stamps then lowers the plain way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import ExportError
from .gate import CONTENTS, contents

Part = Literal["tensor", "integers", "scales"]


class StampError(ExportError):
    """A block cannot be stamped: the payload is not laid out as expected, or the block is not the template's twin."""


# ---- 1. How XNNPACK stores a tensor ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """One constant as XNNPACK stores it: whose it is, its name there, and its bytes."""

    owner: str  # name of a parameter or buffer
    part: Part
    key: str
    data: bytes


def pack_int4(integers: Tensor) -> Tensor:
    """[out, in] of -8 … 7 -> uint8 [out, in / 2]: offset by 8, the even column in the low half of a byte."""
    shifted = integers.to(torch.uint8) + 8
    return (shifted[:, 1::2] << 4) | shifted[:, ::2]


def encoded(module: nn.Module) -> Iterator[Encoded]:
    """Every parameter and buffer of `module` as XNNPACK stores it, quantised weights as integers and scales."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, IntxUnpackedToInt8Tensor):
            narrow = tensor.target_dtype == torch.int4  # type: ignore[attr-defined]
            grouped = tensor.scale.shape[1] > 1
            integers = pack_int4(tensor.qdata) if narrow else tensor.qdata
            yield _encode(name, "integers", integers)
            yield _encode(name, "scales", tensor.scale.to(torch.bfloat16).view(torch.int16) if grouped else tensor.scale)
        else:
            yield _encode(name, "tensor", tensor.float())


def _encode(owner: str, part: Part, tensor: Tensor) -> Encoded:
    data = tensor.detach().contiguous().numpy().tobytes()
    return Encoded(owner, part, ("scale_" if part == "scales" else "") + hashlib.sha256(data).hexdigest(), data)


def scheme(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """How each parameter is stored: modules of one class and one scheme have one graph."""
    from torchao.quantization import IntxUnpackedToInt8Tensor

    found = []
    for name, tensor in module.named_parameters():
        stored = str(tensor.dtype)
        if isinstance(tensor, IntxUnpackedToInt8Tensor):
            stored = f"{tensor.target_dtype} {list(tensor.block_size)}"
        found.append((name, f"{stored} {list(tensor.shape)}"))
    return tuple(found)


# ---- 2. One delegate ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delegate:
    """A module that was lowered to one delegate and nothing else.

    `arguments` of the delegate, in order: an input of the module by position, a tensor of the module by name, or a constant of the
    graph. `results`: which of the delegate's results are the module's outputs.
    """

    lowered: Any  # LoweredBackendModule
    arguments: tuple[int | str | Tensor, ...]
    results: tuple[int, ...]
    state: dict[str, Tensor]  # the tensors that arguments name


def lower_whole(module: nn.Module, example: Sequence[Tensor], partitioner: Any) -> Delegate:
    """Lowers a portable, perhaps quantised module.

    Raises:
        StampError: the backend did not take all of it in one piece.
    """
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    exported = torch.export.export(module, tuple(example), strict=False)
    config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    program = to_edge_transform_and_lower(exported, partitioner=[partitioner], compile_config=config).exported_program()
    calls: list[Any] = []
    others: list[Any] = []
    for node in program.graph.nodes:
        if node.op == "call_function" and "getitem" not in str(node.target):
            (calls if "executorch_call_delegate" in str(node.target) else others).append(node)
    if len(calls) != 1 or others:
        outside = ", ".join(sorted({str(node.target) for node in others})) or "nothing"
        raise StampError(
            f"{type(module).__name__} became {len(calls)} delegates, with {outside} outside; one with nothing is needed."
        )
    signature = program.graph_signature
    owned = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    positions = {name: index for index, name in enumerate(signature.user_inputs)}
    tensors = {**program.constants, **program.state_dict}
    mine = dict(module.named_parameters()) | dict(module.named_buffers())
    arguments: list[int | str | Tensor] = []
    for node in calls[0].args[1:]:
        if node.name in positions:
            arguments.append(positions[node.name])
        elif node.name in owned and owned[node.name] in mine:
            arguments.append(owned[node.name])
        elif node.name in owned and owned[node.name] in tensors:
            arguments.append(tensors[owned[node.name]].detach())
        else:
            raise StampError(f"The delegate of {type(module).__name__} has an argument of unknown origin, {node.name}.")
    results = tuple(int(node.args[1]) for node in _output(program))
    lowered = getattr(program.graph_module, calls[0].args[0].target)
    state = {name: mine[name].detach() for name in arguments if isinstance(name, str)}
    return Delegate(lowered, tuple(arguments), results, state)


def _output(program: Any) -> Sequence[Any]:
    """The nodes that an exported program returns."""
    return next(node for node in program.graph.nodes if node.op == "output").args[0]


# ---- 3. Calling and stamping ----------------------------------------------------------------------------------------------------


class Call(nn.Module):
    """A delegate as a module: takes what the module took, gives what it gave."""

    def __init__(self, delegate: Delegate, lowered: Any, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.lowered, self.arguments, self.results = lowered, delegate.arguments, delegate.results
        self._names: dict[int, str] = {}
        for index, argument in enumerate(delegate.arguments):
            if not isinstance(argument, int):
                self._names[index] = f"argument_{index}"
                value = state[argument] if isinstance(argument, str) else argument
                self.register_buffer(self._names[index], value.detach().float() if value.is_floating_point() else value.detach())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = [
            inputs[argument] if isinstance(argument, int) else getattr(self, self._names[index])
            for index, argument in enumerate(self.arguments)
        ]
        found = self.lowered(*given)
        return tuple(found[index] for index in self.results)


class _Shape(nn.Module):
    """Takes a delegate's arguments and gives results of its shapes: a graph small enough to be traced thirty times."""

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(arguments[0].new_zeros(shape) for shape in self.shapes)


def call(delegate: Delegate, external: str | None = None) -> Call:
    """The delegate with the weights that it was lowered with. `external`: the data file that is to hold them."""
    lowered, data = delegate.lowered, delegate.lowered.named_data_store_output
    entries = {key: (data.buffers[entry.buffer_index], entry.alignment) for key, entry in data.pte_data.items()}
    return Call(delegate, _lowered(lowered, lowered.original_module, lowered.processed_bytes, entries, external), delegate.state)


class Template:
    """One block of random weights, lowered; `stamp` makes it any other block of the same scheme.

    `module` is portable, quantised and random throughout, so that no two of its tensors are equal by chance.

    Raises:
        StampError: it is not one delegate, or a constant of the payload cannot be traced to a tensor of the module.
    """

    def __init__(self, module: nn.Module, example: Sequence[Tensor], partitioner: Any) -> None:
        from executorch.exir import EdgeCompileConfig, to_edge

        self.delegate = lower_whole(module, example, partitioner)
        self.scheme = scheme(module)
        data = self.delegate.lowered.named_data_store_output
        self.alignment = {key: entry.alignment for key, entry in data.pte_data.items()}
        self.owners: dict[str, list[tuple[str, Part]]] = {key: [] for key in self.alignment}
        for item in encoded(module):
            if item.key in self.owners:
                self.owners[item.key].append((item.owner, item.part))
        strangers = [key for key, owners in self.owners.items() if not owners]
        if strangers or data.external_data:
            raise StampError(f"{len(strangers)} of {len(self.owners)} constants of the payload belong to no tensor of the block.")
        payload = self.delegate.lowered.processed_bytes
        missing = [key for key in self.owners if key.encode() not in payload]
        if missing:
            raise StampError(f"{len(missing)} of {len(self.owners)} constants are not named in the payload.")
        self._pattern = re.compile(b"|".join(re.escape(key.encode()) for key in sorted(self.owners, key=len, reverse=True)))
        delegate = self.delegate
        results = [tuple(node.meta["val"].shape) for node in _output(delegate.lowered.original_module)]
        state = delegate.state
        arguments = tuple(
            example[a] if isinstance(a, int) else state[a].detach() if isinstance(a, str) else a for a in delegate.arguments
        )
        twin = torch.export.export(_Shape(results), arguments, strict=False)
        self._twin = to_edge(
            twin, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
        ).exported_program()

    def stamp(self, module: nn.Module, external: str | None = None) -> Call:
        """The template with the weights of `module`.

        Raises:
            StampError: `module` is stored in another way, or two tensors that are one in the template differ.
        """
        found = scheme(module)
        if found != self.scheme:
            other = next((f"{a} instead of {b}" for a, b in zip(found, self.scheme, strict=False) if a != b), "other parameters")
            raise StampError(f"The block is not the template's twin: {other}.")
        mine = {(item.owner, item.part): item for item in encoded(module)}
        names: dict[bytes, bytes] = {}
        entries: dict[str, tuple[bytes, int]] = {}
        for key, owners in self.owners.items():
            items = [mine[owner] for owner in owners]
            if len({item.key for item in items}) != 1:
                raise StampError(f"{owners[0][0]} and {owners[1][0]} are one tensor in the template and two in the block.")
            names[key.encode()] = items[0].key.encode()
            entries[items[0].key] = (items[0].data, max(self.alignment[key], entries.get(items[0].key, (b"", 1))[1]))
        if any(len(old) != len(new) for old, new in names.items()):
            raise StampError("A constant's name in the template has another length than the block's.")
        payload = self._pattern.sub(lambda match: names[match[0]], self.delegate.lowered.processed_bytes)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        state = {name: tensors[name] for name in self.delegate.state}
        return Call(self.delegate, _lowered(self.delegate.lowered, self._twin, payload, entries, external), state)


def _lowered(like: Any, program: Any, payload: bytes, entries: dict[str, tuple[bytes, int]], external: str | None) -> Any:
    from executorch.exir._serialize._named_data_store import NamedDataStore
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    store = NamedDataStore()
    for key, (data, alignment) in entries.items():
        store.add_named_data(key, data, alignment, external_tag=external)
    data = store.get_named_data_store_output()
    lowered = LoweredBackendModule(program, like.backend_id, payload, like.compile_specs, data)
    lowered.meta = {**(like.meta or {}), CONTENTS: (like.meta or {}).get(CONTENTS) or contents(like.original_module)}
    return lowered
