"""Every operator that is known here, by its type in a file. One family a file."""

from __future__ import annotations

from . import (
    activation,
    binary,
    compression,
    convolution,
    creation,
    gathering,
    layout,
    normalization,
    products,
    reduction,
    resizing,
    slicing,
    states,
    unary,
)
from .base import Operator

FAMILIES = (
    activation, binary, compression, convolution, creation, gathering, layout, normalization, products, reduction, resizing, slicing,
    states, unary,
)  # fmt: skip
OPERATORS: dict[str, Operator] = {name: operator for family in FAMILIES for name, operator in family.OPERATORS.items()}
