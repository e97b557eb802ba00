"""Reductions along axes, sums that run along one, and orders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import operators, positive


def _over(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
        return function(x, list(range(x.ndim)) if axes is None else [positive(axis, x.ndim) for axis in axes], keep_dims)

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _best(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axis: int = -1, keep_dims: bool = False) -> Tensor:
        return function(x, axis, keep_dims)

    return run


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """`exclusive`: each place has the sum of those before it."""
    turned = x.flip(axis) if reverse else x
    total = turned.cumsum(axis, dtype=x.dtype)
    if exclusive:
        total = total - turned
    return total.flip(axis) if reverse else total


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    return_indices: bool = True,
) -> tuple[Tensor, ...]:
    """`k` of -1 takes all."""
    found = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    count = x.shape[axis] if k == -1 else k
    values, indices = (each.narrow(axis, 0, count) for each in (found.values, found.indices))
    return (values, indices) if return_indices else (values,)


_UNREAD = ("output_dtype", "output_indices_dtype", "sort")  # the file's types say it; all is sorted

OPERATORS = operators(
    "computes",
    _UNREAD,
    reduce_sum=_over(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    reduce_mean=_over(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    reduce_max=_over(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    reduce_min=_over(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    reduce_prod=_over(_product),
    reduce_sum_square=_over(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    reduce_l1_norm=_over(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    reduce_l2_norm=_over(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    reduce_log_sum=_over(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    reduce_log_sum_exp=_over(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    reduce_argmax=_best(torch.argmax),
    reduce_argmin=_best(torch.argmin),
    cumsum=cumsum,
    argsort=argsort,
    topk=topk,
)
