"""RMS norms for half precision: what is squared is divided by its largest magnitude before, so that no square overflows or is lost.

An RMS norm does not change when its input is scaled, but for its epsilon, which is scaled along.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.model.vae import ChannelNorm
from .tensors import frozen

SMALLEST = 2.0**-14  # of half precision's normal numbers


class GuardedRMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight over the last dimension, of |x| up to all that half precision holds."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        assert norm.eps is not None
        self.root, self.weight = norm.eps**0.5, norm.weight

    def forward(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True).clamp_min(self.root)
        y, epsilon = x / largest, self.root / largest  # both at most 1
        return y * torch.rsqrt((y * y).mean(-1, keepdim=True) + epsilon * epsilon) * self.weight


class GuardedChannelNorm(nn.Module):
    """The VAE's norm over channels, x: [B, T, C, H, W]. Pixels all of zeros stay zero."""

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        self.scale = frozen(norm.gamma.detach().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        x = x.reshape(b * t, c, h, w)
        y = x / x.abs().amax(1, keepdim=True).clamp_min(SMALLEST)
        return (y * torch.rsqrt((y * y).mean(1, keepdim=True).clamp_min(SMALLEST)) * self.scale).view(b, t, c, h, w)
