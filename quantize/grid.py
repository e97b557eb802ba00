"""The integers that a weight matrix is rounded to: symmetric, of 4 or 8 bits, one scale per output channel and group of inputs,
weight ≈ codes · scale. Scales are rounded to what kernels compute with before a code is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-8  # a scale must be positive, also of a group of zeros


@dataclass(frozen=True)
class Grid:
    """The integers of `bits` bits in groups of `group` inputs; `group` is the number of inputs where a channel has one scale.

    `kernel`: the type in which the backend keeps the scales.
    """

    bits: int
    group: int
    kernel: torch.dtype

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    def scale(self, scale: Tensor) -> Tensor:
        """As the kernel sees it, float32."""
        return scale.clamp_min(SMALLEST).to(self.kernel).float()

    def groups(self, weight: Tensor) -> Tensor:
        """[out, in] -> [out, in / group, group]."""
        return weight.view(len(weight), -1, self.group)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The nearest codes [out, groups, group] of grouped weights under scales [out, groups]."""
        return (weight / scale[..., None]).round().clamp_(self.low, self.high)


@dataclass(frozen=True)
class Rounded:
    """codes: int8 [out, in]; scale: float32 [out, groups]."""

    codes: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """[out, in], float32."""
        out, width = self.codes.shape
        return (self.codes.view(out, self.scale.shape[1], -1) * self.scale[..., None]).view(out, width)
