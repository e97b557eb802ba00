"""Values out of numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import operators


def fill(shape: list[int], value: Tensor | None = None) -> Tensor:
    return torch.zeros(shape) if value is None else value.reshape([1] * len(shape)).expand(shape)


def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(list(ref_tensor.shape), value)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """From `start` on, without `end`."""
    count = torch.ceil((end.double() - start.double()) / step.double()).clamp(min=0)
    return start + torch.arange(int(count)).to(start.dtype) * step


def one_hot(
    indices: Tensor, one_hot_vector_size: int, axis: int = -1, on_value: Tensor | None = None, off_value: Tensor | None = None
) -> Tensor:
    """A new axis, where the place of an index holds `on_value` and all others `off_value`; of an index outside, all others."""
    on = torch.tensor(1, dtype=torch.int32) if on_value is None else on_value
    off = torch.zeros((), dtype=on.dtype) if off_value is None else off_value
    found = indices[..., None] == torch.arange(one_hot_vector_size)
    return torch.where(found, on, off).movedim(-1, axis)


OPERATORS = operators("moves", fill=fill, range_1d=range_1d, one_hot=one_hot) | operators("converts", fill_like=fill_like)
