"""The tanh form of GELU through a sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PortableGELU(nn.Module):
    """GELU's tanh form: 0.5 (1 + tanh u) = sigmoid(2u)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.5957691216057308 * x * (0.044715 * x * x + 1.0))
