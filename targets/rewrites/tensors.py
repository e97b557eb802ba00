"""Tensors as the rewrites hand them on: views that stay in one delegate, parameters of inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def frames_of(x: Tensor) -> list[Tensor]:
    """[B, T, C, H, W] -> T times [B, C, H, W]; a single one without a slice, which would be the whole and leave the delegate."""
    b, t, c, h, w = x.shape
    return [(x if t == 1 else x[:, index : index + 1]).reshape(b, c, h, w) for index in range(t)]


def joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    """Concatenation; of one tensor itself, because XNNPACK takes no concatenation of one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def conv2d_of(weight: Tensor, bias: Tensor | None, padding: int) -> nn.Conv2d:
    """A convolution with these tensors themselves."""
    out, channels, size, _ = weight.shape
    conv = nn.Conv2d(channels, out, size, padding=padding, bias=bias is not None, device="meta")
    conv.weight = frozen(weight)
    if bias is not None:
        conv.bias = frozen(bias)
    return conv


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear
