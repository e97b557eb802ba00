"""Values by index, and values put at indices. An index outside is refused; Core ML promises that only where a program asks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import operators, positive

_IOS17 = 7  # the operator set from which an index is not counted from the end


def _inside(indices: Tensor, size: int, opset: int) -> Tensor:
    found = indices.to(torch.int64)
    if opset < _IOS17:
        found = torch.where(found < 0, found + size, found)
    outside = (found < 0) | (found >= size)
    if bool(outside.any()):
        raise ValueError(f"index {int(indices[outside][0])} is outside 0 … {size - 1}")
    return found


def gather(x: Tensor, indices: Tensor, opset: int, axis: int = 0, batch_dims: int = 0) -> Tensor:
    """x [batch, D..., axis, ...], indices [batch, N...] -> [batch, D..., N..., ...]."""
    place = positive(axis, x.ndim)
    taken = _inside(indices, x.shape[place], opset)
    shape = [*x.shape[:place], *indices.shape[batch_dims:], *x.shape[place + 1 :]]
    if batch_dims == 0:
        return x.index_select(place, taken.reshape(-1)).reshape(shape)
    count = math.prod(x.shape[:batch_dims])
    flat, by_batch = x.reshape(count, *x.shape[batch_dims:]), taken.reshape(count, -1)
    return torch.stack([flat[n].index_select(place - batch_dims, by_batch[n]) for n in range(count)]).reshape(shape)


def gather_along_axis(x: Tensor, indices: Tensor, opset: int, axis: int = 0) -> Tensor:
    """Sizes of x and indices are equal along the other axes."""
    place = positive(axis, x.ndim)
    return torch.take_along_dim(x, _inside(indices, x.shape[place], opset), place)


def _flat(indices: Tensor, sizes: list[int], opset: int) -> Tensor:
    """Rows of indices [..., len(sizes)] into one index each, of the axes laid flat."""
    found = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for column, size in enumerate(sizes):
        found = found * size + _inside(indices[..., column], size, opset)
    return found


def gather_nd(x: Tensor, indices: Tensor, opset: int, batch_dims: int = 0) -> Tensor:
    """x [batch, D...], indices [batch, N..., k] -> [batch, N..., D[k:]...]."""
    depth, batch = indices.shape[-1], math.prod(x.shape[:batch_dims])
    sizes = list(x.shape[batch_dims : batch_dims + depth])
    rest = x.shape[batch_dims + depth :]
    rows = x.reshape(batch, math.prod(sizes), -1)
    taken = _flat(indices, sizes, opset).reshape(batch, -1)
    found = torch.stack([rows[n].index_select(0, taken[n]) for n in range(batch)])
    return found.reshape([*indices.shape[:-1], *rest])


def _put(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode in ("sub", "div"):
        if mode == "div" and not data.is_floating_point():
            raise ValueError("how it rounds the quotient of integers is documented nowhere")
        updates, mode = (-updates, "add") if mode == "sub" else (1.0 / updates, "mul")
    known = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if mode not in known:
        raise ValueError(f"its mode is {mode!r}; update, sub, div, {', '.join(known)} are known")
    return data.scatter_reduce(axis, indices, updates, known[mode])


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: int = 0,
    mode: str = "add",
) -> Tensor:
    place = positive(axis, data.ndim)
    return _put(data, _inside(indices, data.shape[place], opset), updates, place, mode)


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    opset: int,
    axis: int = 0,
    mode: str = "add",
) -> Tensor:
    """indices [n], updates like data with n along `axis`."""
    place = positive(axis, data.ndim)
    rows = _inside(indices, data.shape[place], opset).reshape([-1 if each == place else 1 for each in range(data.ndim)])
    return _put(data, rows.expand(updates.shape), updates, place, mode)


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, opset: int, mode: str = "add") -> Tensor:
    depth = indices.shape[-1]
    sizes = list(data.shape[:depth])
    rows = data.reshape(math.prod(sizes), -1)
    taken = _flat(indices, sizes, opset).reshape(-1, 1).expand(-1, rows.shape[1])
    return _put(rows, taken, updates.reshape(-1, rows.shape[1]), 0, mode).reshape(data.shape)


def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


_UNREAD = ("validate_indices",)  # they always are

OPERATORS = (
    operators("moves", _UNREAD, gather=gather, gather_along_axis=gather_along_axis, gather_nd=gather_nd)
    | operators("computes", _UNREAD, scatter=scatter, scatter_along_axis=scatter_along_axis, scatter_nd=scatter_nd)
    | operators("moves", non_zero=non_zero)
)
