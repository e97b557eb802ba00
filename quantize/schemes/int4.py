"""4-bit weights in groups of inputs, each with a bfloat16 scale; int8 where the inputs do not divide into groups."""

from __future__ import annotations

import torch

from ..grid import Grid, Palette
from .base import Scheme
from .int8 import INT8


def _grid(outputs: int, inputs: int, group: int, rows: int) -> Grid | Palette | None:
    return INT8.grid(outputs, inputs, group, rows) if inputs % group else Grid(4, group, torch.bfloat16)


def _bytes(outputs: int, inputs: int, group: int, rows: int) -> int:
    if inputs % group:
        return INT8.bytes(outputs, inputs, group, rows)
    return outputs * inputs // 2 + 2 * outputs * (inputs // group)


INT4 = Scheme(_grid, _bytes)
