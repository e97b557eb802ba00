"""Linear layers as ONNX holds them: matrices that need no turning, integers in blocks, integers of a channel.

`stored_weight` is what `quantise` leaves in a layer: the integers as the rounding gave them, computing what they stand for. At the
end `settle` puts a module in each layer's place that becomes the operators of its kind:

    full precision    MatMul, Add
    blocks, float     com.microsoft.MatMulNBits: 4 or 8 bits, a scale for each block of inputs; inputs rounded to 8 bits block by
                      block, or as they are (its accuracy levels 4 and 1)
    whole             DynamicQuantizeLinear, MatMulInteger: 8 bits, a scale for each channel; inputs rounded to 8 bits, one scale
                      for all of them: the fastest on processors, and coarse where few inputs are large (for the step alone)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...quantize.grid import Grid, Rounded
from ...quantize.recipes import WeightRecipe
from ...quantize.weights import grid_of, linear_layers
from ..hollow import nothing
from ..stored_weight import StoredWeight, stored_weight

Inputs = Literal["blocks", "whole", "float"]  # how a quantised layer's inputs are rounded
ACCURACY: dict[Inputs, int] = {"blocks": 4, "whole": 4, "float": 1}  # of MatMulNBits: 4 is int8, 1 is float32
LARGEST_BLOCK = 128  # of the blocks that kernels have, the fastest on processors; larger groups have equal scales in several
SMALLEST_BLOCK = 16


# ---- layers ---------------------------------------------------------------------------------------------------------------------


class FloatLinear(nn.Module):
    """A layer in full precision, its weight [in, out]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().t(), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias


class BlockLinear(nn.Module):
    """A layer of MatMulNBits. packed: uint8 [out, blocks, bytes of a block], the codes raised to be positive, of 4 bits two in a
    byte, the first one low; scales [out, blocks]."""

    packed: Tensor
    scales: Tensor

    def __init__(self, weight: StoredWeight, bias: Tensor | None, accuracy: int) -> None:
        super().__init__()
        grid, (codes, scale) = weight.grid, (weight.rounded.codes, weight.scale)
        self.bits, self.accuracy = grid.bits, accuracy
        self.out, self.width = codes.shape
        self.block = block_of(grid.group)
        blocks = -(-self.width // self.block)
        middle = 1 << self.bits - 1
        raised = (codes.to(torch.int16) + middle).to(torch.uint8)
        raised = F.pad(raised, (0, blocks * self.block - self.width), value=middle).view(self.out, blocks, self.block)
        self.register_buffer("packed", raised if self.bits == 8 else raised[..., 0::2] | raised[..., 1::2] << 4)
        groups = torch.arange(blocks) * self.block // grid.group
        self.register_buffer("scales", scale[:, groups].contiguous())
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        from torch.onnx import ops

        extra = [] if self.bias is None else [None, None, self.bias]
        attributes: dict[str, Any] = {
            "K": self.width, "N": self.out, "bits": self.bits, "block_size": self.block, "accuracy_level": self.accuracy
        }  # fmt: skip
        shape = (*x.shape[:-1], self.out)
        found: Tensor = ops.symbolic(
            "com.microsoft::MatMulNBits", [x, self.packed, self.scales, *extra], attributes, dtype=x.dtype, shape=shape, version=1
        )
        return found


class WholeLinear(nn.Module):
    """A layer of MatMulInteger. codes: int8 [in, out]; scale [out]."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: StoredWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("codes", weight.rounded.codes.t())
        self.register_buffer("scale", weight.scale[:, 0].contiguous())
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        from torch.onnx import ops

        rounded, scale, zero = ops.symbolic_multi_out(
            "DynamicQuantizeLinear",
            [x.float()],
            dtypes=[torch.uint8, torch.float32, torch.uint8],
            shapes=[x.shape, (), ()],
            version=11,
        )
        shape = (*x.shape[:-1], self.codes.shape[1])
        sums = ops.symbolic("MatMulInteger", [rounded, self.codes, zero], dtype=torch.int32, shape=shape, version=10)
        y = (sums.float() * (scale * self.scale)).to(x.dtype)
        return y if self.bias is None else y + self.bias


def block_of(group: int) -> int:
    """The largest block that kernels have and that a group of inputs divides into. Where that is small, the group is all of a row,
    and blocks are filled up: they share its scale."""
    even = group & -group
    return min(LARGEST_BLOCK, even if even > SMALLEST_BLOCK else max(SMALLEST_BLOCK, 1 << (group - 1).bit_length()))


def settle(module: nn.Module, inputs: Inputs) -> nn.Module:
    """Puts into the place of each linear layer of `module` what becomes its operators; in place."""
    for name, layer in linear_layers(module).items():
        weight = layer.weight
        if weight is None:  # nothing reads it
            continue
        settled: nn.Module
        if not isinstance(weight, StoredWeight):
            settled = FloatLinear(layer)
        elif inputs == "whole" and weight.scale.shape[1] == 1 and weight.grid.bits == 8:
            settled = WholeLinear(weight, layer.bias)
        else:
            settled = BlockLinear(weight, layer.bias, ACCURACY[inputs])
        if not name:
            return settled
        module.set_submodule(name, settled)
    return module


def shape_layers(module: nn.Module, program: str, recipe: WeightRecipe) -> None:
    """Gives every linear layer of `module` the form that `recipe` gives it, rounded from nothing: only the shapes are right. In
    place."""
    for name, layer in linear_layers(module).items():
        rule = recipe.rule_for(program, name)
        grid = None if rule is None or layer.weight is None else grid_of(layer, rule)
        if isinstance(grid, Grid):
            groups = layer.in_features // grid.group
            codes, scale = nothing(layer.weight.shape, torch.int8), nothing((layer.out_features, groups), torch.float32)
            layer.weight = nn.Parameter(stored_weight(Rounded(codes, scale), grid), requires_grad=False)
