"""Weight schemes: one kind a file, registered here. How a target's files hold what weights are rounded to is the target's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .base import Scheme as Scheme
from .fp32 import FP32
from .int4 import INT4
from .int8 import INT8
from .palette import PAL4, PAL6, PAL8

Weights = Literal["fp32", "int8", "int4", "pal8", "pal6", "pal4"]
SCHEMES: Mapping[Weights, Scheme] = {"fp32": FP32, "int8": INT8, "int4": INT4, "pal8": PAL8, "pal6": PAL6, "pal4": PAL4}
PALETTES: Mapping[Weights, int] = {"pal8": 8, "pal6": 6, "pal4": 4}  # their bits


def weight_bytes(outputs: int, inputs: int, weights: Weights, group: int = 32, rows: int = 16) -> int:
    """Bytes of a stored weight matrix with its scales or tables."""
    return SCHEMES[weights].bytes(outputs, inputs, group, rows)
