"""Palettes: 4, 6 or 8 bits a weight into a table of float16 values that `rows` output channels share."""

from __future__ import annotations

from ..grid import Palette
from .base import Scheme


def palette_of(outputs: int, bits: int, rows: int) -> Palette:
    """Groups are all of one size: the smallest from `rows` on that divides the outputs, all of them at most."""
    return Palette(bits, next(size for size in range(min(rows, outputs), outputs + 1) if outputs % size == 0))


def _scheme(bits: int) -> Scheme:
    def stored(outputs: int, inputs: int, _: int, rows: int) -> int:
        tables = outputs // palette_of(outputs, bits, rows).rows
        return -(-outputs * inputs * bits // 8) + tables * 2 * (1 << bits)

    return Scheme(grid=lambda outputs, _, __, rows: palette_of(outputs, bits, rows), bytes=stored)


PAL4, PAL6, PAL8 = _scheme(4), _scheme(6), _scheme(8)
