"""What a weight matrix is rounded to.

Integers: symmetric, of 4 or 8 bits, one scale per output channel and group of inputs, weight ≈ codes · scale.
Palettes: a table of 16, 64 or 256 values for every few output channels, weight ≈ table[code].
Scales and tables are rounded to what kernels compute with before a code is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ConfigError

SMALLEST = 1e-8  # a scale must be positive, also of a group of zeros
HALF_MOST = 65504.0  # float16's largest


@dataclass(frozen=True)
class Grid:
    """The integers of `bits` bits in groups of `group` inputs; `group` is the number of inputs where a channel has one scale.

    `kernel`: the type in which the backend keeps the scales.
    """

    bits: int
    group: int
    kernel: torch.dtype

    @property
    def name(self) -> str:
        """Of the scheme, as layers are counted by it."""
        return f"int{self.bits}"

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    def scale(self, scale: Tensor) -> Tensor:
        """As the kernel sees it, float32."""
        return scale.clamp_min(SMALLEST).to(self.kernel).float()

    def groups(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out, in / group, group]."""
        return weight.view(len(weight), -1, self.group)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The nearest codes [out, groups, group] of grouped weights under scales [out, groups]."""
        return (weight / scale[..., None]).round().clamp_(self.low, self.high)


@dataclass(frozen=True)
class Rounded:
    """codes: int8 [out, in]; scale: float32 [out, groups]."""

    codes: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """[out, in], float32."""
        out, width = self.codes.shape
        return (self.codes.view(out, self.scale.shape[1], -1) * self.scale[..., None]).view(out, width)


@dataclass(frozen=True)
class Palette:
    """Tables of 2^`bits` values, kept in float16, one for each `rows` output channels; `rows` divides their number."""

    bits: int
    rows: int

    @property
    def name(self) -> str:
        return f"pal{self.bits}"

    def groups(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out / rows, rows · in]."""
        return weight.reshape(len(weight) // self.rows, -1)

    def stored(self, table: Tensor) -> Tensor:
        """As a file keeps it, float32."""
        return table.clamp(-HALF_MOST, HALF_MOST).half().float()

    def codes(self, weight: Tensor, table: Tensor) -> Tensor:
        """The codes, uint8 in the shape of `weight`, of the nearest values of ascending tables [out / rows, 2^bits]."""
        found = torch.searchsorted(halfway(table), self.groups(weight), out_int32=True)
        return found.to(torch.uint8).view_as(weight)


def halfway(table: Tensor) -> Tensor:
    """Where the nearest value changes: [groups, 2^bits - 1]."""
    return (table[:, :-1] + table[:, 1:]) / 2


@dataclass(frozen=True)
class Palettised:
    """codes: uint8 [out, in]; table: float32 [out / rows, 2^bits], of float16's values."""

    codes: Tensor
    table: Tensor

    def values(self) -> Tensor:
        """[out, in], float32."""
        return self.table.gather(1, self.codes.view(len(self.table), -1).long()).view(self.codes.shape)


def integers_of(rounded: Rounded | Palettised, grid: Grid | Palette) -> tuple[Rounded, Grid]:
    """For targets that store integers alone.

    Raises:
        ConfigError: weights are those of a palette.
    """
    if isinstance(rounded, Palettised) or isinstance(grid, Palette):
        raise ConfigError(f"Weights are {grid.name}, which this target does not store. Choose int8 or int4.")
    return rounded, grid
