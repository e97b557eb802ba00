"""Layer norm and RMS norm whose means are products with a constant."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelMean(nn.Module):
    """Mean over the last dimension, plus `more`, as a product with 1/D; buffers, so that weight quantisation leaves them alone.

    A sum behind the product would be an operator of its own, and one that Core ML's compiler stumbles over.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, dim: int, more: float | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((1, dim), 1.0 / dim), persistent=False)
        self.register_buffer("bias", None if more is None else torch.full((1,), more), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PortableLayerNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        dim = norm.normalized_shape[0]
        self.mean, self.mean_square = ChannelMean(dim), ChannelMean(dim, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean(x)
        x = x * torch.rsqrt(self.mean_square(x * x))
        return x if self.weight is None else x * self.weight + self.bias


class PortableRMSNorm(nn.Module):
    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.mean_square, self.weight = ChannelMean(norm.normalized_shape[0], norm.eps), norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(self.mean_square(x * x)) * self.weight
