"""Activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import along, operators


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def relu6(x: Tensor) -> Tensor:
    return x.clamp(0.0, 6.0)


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"its mode is {mode!r}; EXACT, TANH_APPROXIMATION and SIGMOID_APPROXIMATION are known")


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * x)


def elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return x.clamp(min=0) + x.clamp(max=0) * along(alpha, 1, x.ndim)


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Positive values up to `beta`; negative ones times `alpha`, up to `beta` too."""
    return torch.where(x > 0, x, alpha * x).clamp(max=beta)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return along(alpha, 1, x.ndim) * softplus(along(beta, 1, x.ndim) * x)


OPERATORS = operators(
    "computes",
    relu=relu,
    relu6=relu6,
    sigmoid=sigmoid,
    silu=silu,
    softplus=softplus,
    softsign=softsign,
    gelu=gelu,
    softmax=softmax,
    leaky_relu=leaky_relu,
    elu=elu,
    prelu=prelu,
    thresholded_relu=thresholded_relu,
    clamped_relu=clamped_relu,
    linear_activation=linear_activation,
    scaled_tanh=scaled_tanh,
    sigmoid_hard=sigmoid_hard,
    softplus_parametric=softplus_parametric,
)
