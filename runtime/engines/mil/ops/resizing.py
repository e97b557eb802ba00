"""Pictures made larger or smaller: nearest pixels, and lines between pixels on the five documented grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import operators


def _grid(size: int, wanted: int, mode: str) -> Tensor:
    """Where each of `wanted` samples lies among `size` pixels, in pixels, float64."""
    at = torch.arange(wanted, dtype=torch.float64)
    spacing = size / wanted
    if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and wanted > 1):
        found = at * ((size - 1) / max(1, wanted - 1))
    elif mode == "ALIGN_CORNERS":
        found = at + (size - 1) / 2
    elif mode == "DEFAULT":
        found = at * spacing
    elif mode == "OFFSET_CORNERS":
        found = (at + 0.5) * (max(1, size - 1) / wanted)
    elif mode == "UNALIGN_CORNERS":
        found = (at + 0.5) * spacing - 0.5
    else:
        raise ValueError(f"there is no sampling_mode {mode!r}")
    return found.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, wanted: int, mode: str) -> Tensor:
    grid = _grid(x.shape[axis], wanted, mode)
    low = grid.floor()
    share = (grid - low).to(x.dtype).reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])
    first = low.to(torch.int64)
    left, right = x.index_select(axis, first), x.index_select(axis, (first + 1).clamp(max=x.shape[axis] - 1))
    return left + (right - left) * share


def _nearest(x: Tensor, axis: int, wanted: int) -> Tensor:
    return x.index_select(axis, torch.arange(wanted) * x.shape[axis] // wanted)


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0) -> Tensor:
    """Of a fractional factor the pixel at floor(place / factor), where that is the one at floor(place · size / new size) too."""
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size, wanted = x.shape[axis], math.floor(x.shape[axis] * factor)
        if any(math.floor(place / factor) != place * size // wanted for place in range(wanted)):
            raise ValueError(f"which of {size} pixels is nearest at a factor of {factor:g} is documented nowhere")
        x = _nearest(x, axis, wanted)
    return x


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    for axis, wanted in ((-2, target_size_height), (-1, target_size_width)):
        x = _nearest(x, axis, wanted)
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    centred = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and centred:
        raise ValueError("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if centred else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        x = _linear(x, axis, math.floor(x.shape[axis] * factor), mode)
    return x


def resize_bilinear(x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT") -> Tensor:
    for axis, wanted in ((-2, target_size_height), (-1, target_size_width)):
        x = _linear(x, axis, wanted, sampling_mode)
    return x


def resize(
    x: Tensor, shape: list[int], resized_dims: int, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The last `resized_dims` axes to the last numbers of `shape`; a 0 there leaves a size as it is."""
    for axis in range(-resized_dims, 0):
        wanted = shape[axis] or x.shape[axis]
        if interpolation_mode == "LINEAR":
            x = _linear(x, axis, wanted, sampling_mode)
        elif interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode == "DEFAULT":
            x = _nearest(x, axis, wanted)
        else:
            raise ValueError(f"which pixel is nearest for {interpolation_mode}, {sampling_mode} is documented nowhere")
    return x


OPERATORS = operators(
    "computes",
    upsample_nearest_neighbor=upsample_nearest_neighbor,
    resize_nearest_neighbor=resize_nearest_neighbor,
    upsample_bilinear=upsample_bilinear,
    resize_bilinear=resize_bilinear,
    resize=resize,
)
