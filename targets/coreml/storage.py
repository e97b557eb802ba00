"""Rounded weights in the forms that Core ML reads: integers with scales, and tables with indices.

    iOS 18    constexpr_blockwise_shift_scale: 4 or 8 bits, a scale for each channel and block of inputs
              constexpr_lut_to_dense: a table for each group of channels
    iOS 17    constexpr_affine_dequantize: 8 bits, a scale for each channel

Scales and tables are of half precision, as what they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...quantize.grid import Grid, Palette, Palettised, Rounded
from ...quantize.weights import linear_layers
from .names import LARGEST


@dataclass(frozen=True)
class Stored:
    """A rounded weight on its way into a file. `ios`: which forms there are."""

    rounded: Rounded | Palettised
    grid: Grid | Palette
    ios: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rounded.codes.shape)


@dataclass
class Storing:
    """What `quantise` calls for each layer: the layer computes with what its codes stand for, and they are kept here."""

    ios: int
    _kept: dict[int, Stored] = field(default_factory=dict)

    def __call__(self, rounded: Rounded | Palettised, grid: Grid | Palette) -> Tensor:
        values = rounded.values()
        self._kept[values.data_ptr()] = Stored(rounded, grid, self.ios)
        return values

    def take(self, module: nn.Module, prefix: str = "") -> dict[str, Stored]:
        """The rounded weights of `module`'s layers by the names of their parameters; they are kept no longer."""
        found = {}
        for name, layer in linear_layers(module).items():
            stored = None if layer.weight is None else self._kept.pop(layer.weight.data_ptr(), None)
            if stored is not None:
                found[f"{prefix}{name}.weight" if name else f"{prefix}weight"] = stored
        return found


def constant(tensor: Tensor | Stored, name: str, before: Any, axes: int = 2) -> Any:
    """A weight as an operator of a program that is open, in front of the operator `before`; a rounded one with so many `axes`, of
    which those behind the second have one element."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    if isinstance(tensor, Tensor):
        return mb.const(val=numbers(tensor), name=name, before_op=before)
    rounded, bits = tensor.rounded, tensor.grid.bits
    more = (1,) * (axes - 2)
    codes = rounded.codes.numpy().reshape(*rounded.codes.shape, *more)
    if isinstance(rounded, Palettised):
        table = numbers(rounded.table)
        table = table.reshape(len(table), *(1,) * (axes - 1), -1, 1)
        indices = codes.astype(types.string_to_nptype(f"uint{bits}"))
        return mb.constexpr_lut_to_dense(indices=indices, lut=table, name=name, before_op=before)
    scale = numbers(rounded.scale)
    if tensor.ios < 18:
        zero = np.zeros(len(codes), np.int8)
        return mb.constexpr_affine_dequantize(
            quantized_data=codes, zero_point=zero, scale=scale[:, 0], axis=np.int32(0), name=name, before_op=before
        )
    if bits == 4:
        codes = codes.astype(types.np_int4_dtype)
    scale = scale.reshape(*scale.shape, *more)
    return mb.constexpr_blockwise_shift_scale(data=codes, scale=scale, name=name, before_op=before)


def numbers(tensor: Tensor) -> Any:
    """In half precision, or whole numbers of 32 bits; what half precision does not hold becomes ±`LARGEST`."""
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        return tensor.to(torch.int32).numpy() if tensor.dtype == torch.int64 else tensor.numpy()
    if tensor.dtype != torch.float16:
        over = tensor.abs() > torch.finfo(torch.float16).max
        tensor = torch.where(over, torch.copysign(torch.tensor(LARGEST), tensor), tensor).half()
    return tensor.contiguous().numpy()
