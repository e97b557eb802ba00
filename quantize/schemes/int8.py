"""8-bit weights, one float32 scale per output channel."""

from __future__ import annotations

import torch

from ..grid import Grid
from .base import Scheme

INT8 = Scheme(
    grid=lambda _, inputs, *__: Grid(8, inputs, torch.float32), bytes=lambda outputs, inputs, *_: outputs * inputs + 4 * outputs
)
