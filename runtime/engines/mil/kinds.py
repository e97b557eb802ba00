"""Types of values in an ML Program: what an element is, how it is stored, and what torch holds it as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....core.errors import BundleError


@dataclass(frozen=True)
class Kind:
    """An element's type. `bits`: of an element in a file. `stored`: how whole elements lie there (of less than a byte: the bytes).
    `held`: what torch computes with; unsigned 16- and 32-bit integers are held in the next wider type, of which torch has every
    operator. `blob`: the number that weight files have for it."""

    name: str
    bits: int
    stored: torch.dtype
    held: torch.dtype
    blob: int | None

    @property
    def packed(self) -> bool:
        return self.bits < 8


def _sub_byte(name: str, bits: int, blob: int) -> Kind:
    return Kind(name, bits, torch.uint8, torch.int8 if name.startswith("int") else torch.uint8, blob)


KINDS: dict[int, Kind] = {  # by MIL.proto's DataType
    1: Kind("bool", 8, torch.bool, torch.bool, None),
    10: Kind("fp16", 16, torch.float16, torch.float16, 1),
    11: Kind("fp32", 32, torch.float32, torch.float32, 2),
    21: Kind("int8", 8, torch.int8, torch.int8, 4),
    22: Kind("int16", 16, torch.int16, torch.int16, 6),
    23: Kind("int32", 32, torch.int32, torch.int32, 14),
    24: Kind("int64", 64, torch.int64, torch.int64, None),
    25: _sub_byte("int4", 4, 8),
    31: Kind("uint8", 8, torch.uint8, torch.uint8, 3),
    32: Kind("uint16", 16, torch.uint16, torch.int32, 7),
    33: Kind("uint32", 32, torch.uint32, torch.int64, 15),
    35: _sub_byte("uint4", 4, 11),
    36: _sub_byte("uint2", 2, 10),
    37: _sub_byte("uint1", 1, 9),
    38: _sub_byte("uint6", 6, 13),
    39: _sub_byte("uint3", 3, 12),
}
STRING = 2  # MIL.proto's DataType of text
BY_NAME = {kind.name: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class TensorType:
    """What a file says of a value. `shape`: None for a size that is free; None in its place, where even the rank is."""

    kind: Kind
    shape: tuple[int | None, ...] | None
    state: bool = False

    def allows(self, shape: Sequence[int]) -> bool:
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(told in (None, size) for told, size in zip(self.shape, shape, strict=True))

    def __str__(self) -> str:
        sizes = "of any rank" if self.shape is None else "[" + ", ".join("?" if n is None else str(n) for n in self.shape) + "]"
        return f"{self.kind.name} {sizes}"


def type_of(said: Any, what: str) -> TensorType | None:
    """The type in a ValueType message; None for text, which is no tensor. `what`: the value, for messages.

    Raises:
        BundleError: it is of a kind that is not read here.
    """
    form = said.WhichOneof("type")
    if form == "stateType":
        inner = type_of(said.stateType.wrappedType, what)
        if inner is None:
            raise BundleError(f"{what} is a state of text, which no program can compute with; export it again.")
        return TensorType(inner.kind, inner.shape, state=True)
    if form != "tensorType":
        raise BundleError(f"{what} is of {form or 'no type'}; only tensors, text and states of tensors are read here.")
    tensor = said.tensorType
    if tensor.dataType == STRING:
        return None
    if tensor.dataType not in KINDS:
        raise BundleError(f"{what} has elements of type number {tensor.dataType}, which is not one of {', '.join(BY_NAME)}.")
    if any(each.WhichOneof("dimension") == "unknown" and each.unknown.variadic for each in tensor.dimensions):
        return TensorType(KINDS[tensor.dataType], None)
    shape = tuple(each.constant.size if each.WhichOneof("dimension") == "constant" else None for each in tensor.dimensions)
    return TensorType(KINDS[tensor.dataType], shape)


def of_array(dtype: torch.dtype) -> str:
    """The name of the kind that torch holds as `dtype`, for messages."""
    return next((kind.name for kind in KINDS.values() if kind.held == dtype), str(dtype).removeprefix("torch."))


def unpacked(data: torch.Tensor, kind: Kind, count: int) -> torch.Tensor:
    """`count` elements of less than a byte out of bytes, in which they lie from the least significant bit upwards."""
    group = {1: 1, 2: 1, 3: 3, 4: 1, 6: 3}[kind.bits]  # so many bytes hold whole elements
    words = torch.nn.functional.pad(data, (0, -data.numel() % group)).view(-1, group)
    if group > 1:
        words = sum((words[:, place].to(torch.int32) << (8 * place) for place in range(1, group)), words[:, 0].to(torch.int32))
    each, mask = 8 * group // kind.bits, (1 << kind.bits) - 1
    found = torch.stack([(words.reshape(-1) >> (kind.bits * place)) & mask for place in range(each)], 1).reshape(-1)[:count]
    found = found.to(kind.held)
    sign = 1 << (kind.bits - 1)
    return (found ^ sign) - sign if kind.held == torch.int8 else found
