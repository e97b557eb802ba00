"""What a weight scheme is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..grid import Grid, Palette


@dataclass(frozen=True)
class Scheme:
    """How the weights of a linear layer are kept. `grid(outputs, inputs, group, rows)`: what they are rounded to, None where they
    stay as they are; `bytes(outputs, inputs, group, rows)`: of the matrix with its scales or tables, as files store it. `group`:
    inputs that share a scale; `rows`: outputs that share a table."""

    grid: Callable[[int, int, int, int], Grid | Palette | None]
    bytes: Callable[[int, int, int, int], int]
