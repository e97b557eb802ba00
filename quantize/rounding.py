"""How a weight matrix is rounded: to the nearest step, or with steps that are searched for the smallest error.

Symmetric integers of 4 or 8 bits, one scale per output channel and group of inputs: weight ≈ codes · scale. Scales are rounded to
what XNNPACK computes with before a code is chosen: bfloat16 for groups, float32 for whole channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-8  # a scale must be positive, also of a group of zeros
SHRINKS = 12  # candidates of `searched_scale`, down to LEAST of the whole range
LEAST = 0.4
AT_ONCE = 1 << 17  # weights searched together, so that they stay in the processor's cache: five times as fast as all of them


@dataclass(frozen=True)
class Grid:
    """The integers of `bits` bits in groups of `group` inputs; `group` is the number of inputs where a channel has one scale.

    `kernel`: the type in which the backend keeps the scales.
    """

    bits: int
    group: int
    kernel: torch.dtype

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


def full_range(grouped: Tensor, grid: Grid) -> Tensor:
    """The scale [out, groups] at which the largest magnitude of a group lies half a step beyond the largest code."""
    return grid.scale(grouped.abs().amax(-1) * 2 / (grid.high - grid.low))


def nearest(weight: Tensor, grid: Grid) -> Rounded:
    """[out, in] float32, the scale of each group set by its largest magnitude."""
    grouped = grid.groups(weight)
    scale = full_range(grouped, grid)
    return Rounded(grid.codes(grouped, scale).view_as(weight).to(torch.int8), scale)


def searched_scale(grouped: Tensor, grid: Grid, importance: Tensor | None = None) -> Tensor:
    """The scale [out, groups] of the smallest squared error, weighed by `importance` [groups, group] where given.

    Clipping a group's largest weights buys finer steps for the others. SHRINKS ranges are tried, then the scale that fits the best
    one's codes. Never worse than `full_range`.
    """
    rows = max(1, AT_ONCE // grouped[0].numel())
    return torch.cat([_searched_rows(some, grid, importance) for some in grouped.split(rows)])


def _searched_rows(grouped: Tensor, grid: Grid, importance: Tensor | None) -> Tensor:
    weigh = torch.ones(()) if importance is None else importance

    def tried(scale: Tensor) -> tuple[Tensor, Tensor]:
        codes = grid.codes(grouped, scale)
        return codes, ((grouped - codes * scale[..., None]).square_() * weigh).sum(-1)

    widest = best = full_range(grouped, grid)
    _, least = tried(best)
    for step in range(1, SHRINKS + 1):
        scale = grid.scale(widest * (1.0 - (1.0 - LEAST) * step / SHRINKS))
        _, error = tried(scale)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    codes, _ = tried(best)
    fitted = grid.scale((grouped * codes * weigh).sum(-1) / (codes.square() * weigh).sum(-1).clamp_min(1e-30))
    _, error = tried(fitted)
    return torch.where(error < least, fitted, best)


def searched(weight: Tensor, grid: Grid, importance: Tensor | None = None) -> Rounded:
    """As `nearest`, with `searched_scale`. `importance` [in]: how much the square of an input's error counts."""
    grouped = grid.groups(weight)
    scale = searched_scale(grouped, grid, None if importance is None else importance.view(-1, grid.group))
    return Rounded(grid.codes(grouped, scale).view_as(weight).to(torch.int8), scale)


def hqq(weight: Tensor, grid: Grid) -> Rounded:
    """Half-quadratic quantisation of the scale alone, as torchao has it, on the kernel's scales."""
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_scale_only_hqq

    _, scale = _choose_qparams_and_quantize_scale_only_hqq(weight, [1, grid.group], grid.low, grid.high)
    scale = grid.scale(scale)
    return Rounded(grid.codes(grid.groups(weight), scale).view_as(weight).to(torch.int8), scale)
