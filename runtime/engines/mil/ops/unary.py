"""Functions of one value at a time, and casts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..kinds import BY_NAME
from .base import operators


def _elementwise(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor) -> Tensor:
        return function(x)

    return run


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return torch.reciprocal(x + epsilon)


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return torch.rsqrt(x + epsilon)


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(alpha, beta)


def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=int(alpha) if not x.is_floating_point() else alpha)


def cast(x: Tensor, dtype: str) -> Tensor:
    """Fractions are cut off towards zero; integers that do not fit wrap around."""
    if dtype not in BY_NAME or BY_NAME[dtype].packed:
        raise ValueError(f"there is no type {dtype!r} to cast to")
    kind = BY_NAME[dtype]
    if kind.stored == kind.held:
        return x.to(kind.held)
    return x.to(kind.held) & (2**kind.bits - 1)  # unsigned, held wider


def quantize(input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    kind = BY_NAME[output_dtype]
    least, most = torch.iinfo(kind.stored).min, torch.iinfo(kind.stored).max
    found = torch.round(input / _spread(scale, input, axis))
    if zero_point is not None:
        found = found + _spread(zero_point, input, axis)
    return found.clamp(least, most).to(kind.held)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    found = input.to(torch.float32)
    if zero_point is not None:
        found = found - _spread(zero_point, input, axis)
    return (found * _spread(scale, input, axis)).to(scale.dtype)


def _spread(values: Tensor, x: Tensor, axis: int | None) -> Tensor:
    wide = values.to(torch.float32)
    if wide.ndim == 0:
        return wide
    if axis is None:
        raise ValueError("a scale for each channel needs an axis")
    return wide.reshape([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])


def identity(x: Tensor) -> Tensor:
    return x


_PLAIN = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan, "atanh": torch.atanh, "ceil": torch.ceil,
    "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2, "floor": torch.floor,
    "logical_not": torch.logical_not, "round": torch.round, "sign": torch.sign, "sin": torch.sin, "sinh": torch.sinh,
    "sqrt": torch.sqrt, "square": torch.square, "tan": torch.tan, "tanh": torch.tanh,
}  # fmt: skip

OPERATORS = (
    operators("computes", **{name: _elementwise(function) for name, function in _PLAIN.items()})
    | operators("computes", inverse=inverse, log=log, rsqrt=rsqrt, clip=clip, threshold=threshold)
    | operators("converts", cast=cast, quantize=quantize, dequantize=dequantize)
    | operators("moves", identity=identity)
)
