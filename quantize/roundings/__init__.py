"""How a weight matrix is rounded to what its scheme has for it: one way a file, registered here.

`ROUNDINGS` to integers, `PALETTE_ROUNDINGS` to codes and tables: name -> function of a weight [out, in] float32, its grid or
palette, and second moments of its inputs, one matrix for each of `gptq.parts_of`, empty for roundings that do not look at data.
`rounded` takes either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from ..grid import Grid, Palette, Palettised, Rounded
from . import gptq, hqq, kmeans, nearest, searched

Rounding = Literal["nearest", "searched", "hqq", "gptq"]
NEEDS_SAMPLES: tuple[Rounding, ...] = ("gptq",)  # roundings that look at what a layer is given
DATA_FREE: Rounding = "searched"  # what stands in for them
ROUNDINGS: Mapping[Rounding, Callable[[Tensor, Grid, Sequence[Tensor]], Rounded]] = {
    "nearest": lambda weight, grid, _: nearest.nearest(weight, grid),
    "searched": lambda weight, grid, _: searched.searched(weight, grid),
    "hqq": lambda weight, grid, _: hqq.hqq(weight, grid),
    "gptq": lambda weight, grid, moments: gptq.gptq(weight, moments, grid),
}
PALETTE_ROUNDINGS: Mapping[Rounding, Callable[[Tensor, Palette, Sequence[Tensor]], Palettised]] = {
    "nearest": lambda weight, palette, _: kmeans.kmeans(weight, palette),
    "searched": lambda weight, palette, _: kmeans.kmeans(weight, palette),
    "gptq": lambda weight, palette, moments: gptq.gptq_palette(weight, moments, palette),
}


def rounded(weight: Tensor, grid: Grid | Palette, rounding: Rounding, moments: Sequence[Tensor]) -> Rounded | Palettised:
    """Raises KeyError: the rounding is not one of palettes, which recipes refuse before (`Rule`)."""
    if isinstance(grid, Palette):
        return PALETTE_ROUNDINGS[rounding](weight, grid, moments)
    return ROUNDINGS[rounding](weight, grid, moments)
