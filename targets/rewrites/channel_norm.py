"""The VAE's norm over channels, whose sum of squares is a convolution with ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.model.vae import ChannelNorm
from .tensors import frozen


class PortableChannelNorm(nn.Module):
    """RMS norm over channels; the sum of squares is a 1×1 convolution with ones."""

    ones: Tensor

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        channels = norm.gamma.numel()
        self.register_buffer("ones", torch.ones(1, channels, 1, 1), persistent=False)
        self.scale = frozen((norm.gamma.detach() * channels**0.5).view(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        x = x.reshape(b * t, c, h, w)
        squares = F.conv2d(x * x, self.ones)
        return (x * torch.rsqrt(squares + 1e-24) * self.scale).view(b, t, c, h, w)
