"""Normalisations. Statistics are taken in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import along, operators, positive


def _standard(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def layer_norm(
    x: Tensor, axes: list[int] | None = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """gamma and beta have x's sizes along `axes`, which need not be the last ones."""
    taken = sorted(positive(axis, x.ndim) for axis in axes) if axes is not None else list(range(x.ndim))
    shape = [x.shape[axis] if axis in taken else 1 for axis in range(x.ndim)]
    found = _standard(x, taken, epsilon)
    if gamma is not None:
        found = found * gamma.reshape(shape)
    return found if beta is None else found + beta.reshape(shape)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Over every axis behind the channels."""
    found = _standard(x, list(range(2, x.ndim)), epsilon)
    if gamma is not None:
        found = found * along(gamma, 1, x.ndim)
    return found if beta is None else found + along(beta, 1, x.ndim)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    found = (x - along(mean, 1, x.ndim)) * torch.rsqrt(along(variance, 1, x.ndim) + epsilon)
    if gamma is not None:
        found = found * along(gamma, 1, x.ndim)
    return found if beta is None else found + along(beta, 1, x.ndim)


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Over the last three axes together."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    return torch.nn.functional.local_response_norm(x, size, alpha, beta, k)


OPERATORS = operators(
    "computes",
    layer_norm=layer_norm,
    instance_norm=instance_norm,
    batch_norm=batch_norm,
    l2_norm=l2_norm,
    local_response_norm=local_response_norm,
)
