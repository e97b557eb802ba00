"""What a weight scheme is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..grid import Grid


@dataclass(frozen=True)
class Scheme:
    """How the weights of a linear layer are kept. `grid(inputs, group)`: the integers that they are rounded to, None where they
    stay as they are; `bytes(outputs, inputs, group)`: of the matrix with its scales, as files store it."""

    grid: Callable[[int, int], Grid | None]
    bytes: Callable[[int, int, int], int]
