"""Weight schemes: one a file, registered here. How a target's files hold the integers is the target's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .base import Scheme as Scheme
from .fp32 import FP32
from .int4 import INT4
from .int8 import INT8

Weights = Literal["fp32", "int8", "int4"]
SCHEMES: Mapping[Weights, Scheme] = {"fp32": FP32, "int8": INT8, "int4": INT4}


def weight_bytes(outputs: int, inputs: int, weights: Weights, group: int = 32) -> int:
    """Bytes of a stored weight matrix with its scales."""
    return SCHEMES[weights].bytes(outputs, inputs, group)
