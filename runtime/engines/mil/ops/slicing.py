"""Parts of values, and values with parts replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import operators, positive


def _slices(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None,
    begin_mask: list[bool] | None,
    end_mask: list[bool] | None,
    squeeze_mask: list[bool] | None,
) -> list[range]:
    """The places that are taken along each axis, as Python's slices take them; one place where an axis is dropped."""
    if not len(begin) == len(end) == x.ndim:
        raise ValueError(f"begin {begin} and end {end} are not {x.ndim} numbers each, as many as axes")
    none = [False] * x.ndim
    steps, taken = stride or [1] * x.ndim, []
    masks = zip(begin_mask or none, end_mask or none, squeeze_mask or none, strict=True)
    for size, first, last, step, (from_first, to_last, single) in zip(x.shape, begin, end, steps, masks, strict=True):
        if single:
            place = positive(0 if from_first else first, size)
            taken.append(range(place, place + 1))
        else:
            taken.append(range(*slice(None if from_first else first, None if to_last else last, step).indices(size)))
    return taken


def _taken(x: Tensor, axis: int, places: range) -> Tensor:
    if places.step > 0:
        return x[(slice(None),) * axis + (slice(places.start, max(places.start, places.stop), places.step),)]
    return x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))


def slice_by_index(
    x: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    for axis, places in enumerate(_slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)):
        if places != range(x.shape[axis]):
            x = _taken(x, axis, places)
    dropped = [axis for axis, drop in enumerate(squeeze_mask or []) if drop]
    return x.squeeze(tuple(dropped)) if dropped else x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: list[int],
    end: list[int],
    stride: list[int] | None = None,
    begin_mask: list[bool] | None = None,
    end_mask: list[bool] | None = None,
    squeeze_mask: list[bool] | None = None,
) -> Tensor:
    """x as it is, but for the slice, which becomes `update`."""
    places = _slices(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    shape = [len(each) for axis, each in enumerate(places) if not (squeeze_mask and squeeze_mask[axis])]
    if list(update.shape) != shape:
        raise ValueError(f"the slice is {shape} and its update {list(update.shape)}")
    found = x.clone()
    found[torch.meshgrid([torch.tensor(list(each), dtype=torch.int64) for each in places], indexing="ij")] = update.reshape(
        [len(each) for each in places]
    ).to(x.dtype)
    return found


def slice_by_size(x: Tensor, begin: list[int], size: list[int]) -> Tensor:
    """A size of -1 takes what is left."""
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = positive(first, x.shape[axis]) if first else 0
        length = x.shape[axis] - start if count == -1 else count
        if start + length > x.shape[axis]:
            raise ValueError(f"{length} from {start} on are more than the {x.shape[axis]} along axis {axis}")
        x = x.narrow(axis, start, length)
    return x


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """[..., length, ...] -> [..., windows, size, ...]."""
    place = positive(axis, x.ndim)
    return x.unfold(place, size, stride).movedim(-1, place + 1)


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Zero outside `lower` diagonals below the main one and `upper` above it; a negative number keeps all on that side."""
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])[None]
    kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    return x.masked_fill(~kept, 0)


OPERATORS = operators(
    "moves",
    slice_by_index=slice_by_index,
    slice_update=slice_update,
    slice_by_size=slice_by_size,
    sliding_windows=sliding_windows,
    band_part=band_part,
)
