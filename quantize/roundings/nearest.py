"""Every weight to the nearest step, the largest of a group at the end of the range."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import Grid, Rounded


def full_range(grouped: Tensor, grid: Grid) -> Tensor:
    """The scale [out, groups] at which the largest magnitude of a group lies half a step beyond the largest code."""
    return grid.scale(grouped.abs().amax(-1) * 2 / (grid.high - grid.low))


def nearest(weight: Tensor, grid: Grid) -> Rounded:
    """[out, in] float32, the scale of each group set by its largest magnitude."""
    grouped = grid.groups(weight)
    scale = full_range(grouped, grid)
    return Rounded(grid.codes(grouped, scale).view_as(weight).to(torch.int8), scale)
