"""Functions of two values at a time, which broadcast; comparisons; choices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import operators


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return run


def real_div(x: Tensor, y: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError("how it rounds the quotient of integers is documented nowhere; floor_div is defined")
    return x / y


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


_PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "floor_div": torch.floor_divide, "mod": torch.remainder, "pow": torch.pow,
    "maximum": torch.maximum, "minimum": torch.minimum, "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt,
    "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le, "logical_and": torch.logical_and,
    "logical_or": torch.logical_or, "logical_xor": torch.logical_xor,
}  # fmt: skip

OPERATORS = operators(
    "computes", real_div=real_div, **{name: _elementwise(function) for name, function in _PLAIN.items()}
) | operators("moves", select=select)
