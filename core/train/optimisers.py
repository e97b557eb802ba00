"""What a transformer is trained by: AdamW alone, or Muon for its matrices beside it.

Both go by one rate, AdamW's. A group's `share` is by how much of it the group's own rate differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from .muon import Muon

Optimiser = Literal["adamw", "muon"]
Optimisers = Callable[[nn.Module], Sequence[torch.optim.Optimizer]]
BETAS, DECAY = (0.9, 0.98), 0.01
ADAM_RMS = 0.2  # of an update's elements, in rates: what AdamW's usually have (Liu et al., "Muon is scalable", arXiv 2502.16982)


def adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW for all of them."""
    return [torch.optim.AdamW(model.parameters(), lr=0.0, betas=BETAS, weight_decay=DECAY)]


def muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, whose elements move as far in a step as AdamW's would; AdamW for biases, gains, tables and kernels."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim != 2]
    groups = [{"params": [weight], "share": muon_share(*weight.shape)} for weight in matrices]
    return [Muon(groups, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=BETAS, weight_decay=DECAY)]


def muon_share(rows: int, columns: int) -> float:
    """Of AdamW's rate, for a matrix. An orthogonal update of [rows, columns] has elements of 1 / √max(rows, columns) in root mean
    square, and `Muon` makes it √(rows / columns) larger where there are more rows."""
    return ADAM_RMS * math.sqrt(max(rows, columns) / max(1.0, rows / columns))


def set_rate(optimisers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)


OPTIMISERS: dict[Optimiser, Optimisers] = {"adamw": adamw, "muon": muon}
