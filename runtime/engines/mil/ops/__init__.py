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

_FAMILIES = (activation, binary, compression, convolution, creation, gathering, layout)
_MORE = (normalization, products, reduction, resizing, slicing, states, unary)
OPERATORS: dict[str, Operator] = {name: operator for family in (*_FAMILIES, *_MORE) for name, operator in family.OPERATORS.items()}
