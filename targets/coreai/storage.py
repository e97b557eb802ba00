"""Linear layers as Core AI holds them: integers of 4 or 8 bits and their scales, which one operator turns into weights.

The operator is `coreai.blockwise_shift_scale`, whose result a device's compiler need not write down before the product that it is
for. Scales have the type that the program computes in: those of 4-bit groups are numbers of bfloat16 to begin with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...quantize.weights import linear_layers
from ..stored_weight import StoredWeight

LOGICAL = {4: torch.int4, 8: torch.int8}  # type: ignore[attr-defined]
STORED = {4: "Int4", 8: "Int8"}  # what the library calls them when it counts what a file holds


class PackedLinear(nn.Module):
    """codes: int8 [out, in], of 4 bits two in a byte once they are in a file; scale [out, groups]."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: StoredWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.bits = weight.grid.bits
        self.register_buffer("codes", weight.rounded.codes)
        self.register_buffer("scale", weight.scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.coreai.constexpr_blockwise_shift_scale(self.codes, self.scale, None, None, LOGICAL[self.bits], None)
        return F.linear(x, weight, self.bias)


def settle(module: nn.Module) -> nn.Module:
    """Puts a `PackedLinear` into the place of each linear layer of `module` whose weights are rounded; in place."""
    import coreai_torch._compression.custom_layers  # noqa: F401 (it registers the operator)

    for name, layer in linear_layers(module).items():
        if isinstance(layer.weight, StoredWeight):
            packed = PackedLinear(layer.weight, layer.bias)
            if not name:
                return packed
            module.set_submodule(name, packed)
    return module


@dataclass(frozen=True)
class Holds:
    """What the weights of a module take: how many codes there are by bits, and bytes of them with everything else."""

    codes: Mapping[int, int]
    bytes: int


def held_by(module: nn.Module) -> Holds:
    codes, total = Counter[int](), 0
    packed = {id(part.codes): part.bits for part in module.modules() if isinstance(part, PackedLinear)}
    tensors = {id(x): x for x in (*module.parameters(), *module.buffers())}
    for key, tensor in tensors.items():
        bits = packed.get(key)
        if bits is not None:
            codes[bits] += tensor.numel()
        total += tensor.numel() * bits // 8 if bits is not None else tensor.nbytes
    return Holds(dict(codes), total)
