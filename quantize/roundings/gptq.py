"""GPTQ: rounds a layer's inputs one after the other and lets the ones not yet rounded make up for the error, as far as the
layer's own inputs are correlated (Frantar et al., 2022).

Minimises ‖(W - Ŵ) X‖² with H = X Xᵀ, the second moments of the inputs on calibration samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..grid import Grid, Palette, Palettised, Rounded, halfway
from .kmeans import fitted_table
from .searched import searched_scale

DAMPING = 0.01  # of H's mean diagonal, added to it
BLOCK = 128  # columns whose error is carried to the rest at once
WIDEST = 2304  # inputs that make up for each other: wider layers fall into parts, each of at most 21 MB of moments

Nearest = Callable[[int, Tensor], tuple[Tensor, Tensor]]  # a column's number and what is left of it -> codes, what they stand for


def parts_of(inputs: int) -> list[slice]:
    """Where a layer's inputs are cut: about equal parts, none wider than WIDEST."""
    width = -(-inputs // -(-inputs // WIDEST))
    return [slice(start, min(start + width, inputs)) for start in range(0, inputs, width)]


def inverse_factor(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Upper triangular U with Uᵀ U = (H + damping · mean diagonal)⁻¹, float32; the identity where nothing was seen."""
    h = moments.double()
    mean = h.diagonal().mean()
    if mean <= 0:
        return torch.eye(len(h))
    h = h + torch.eye(len(h), dtype=h.dtype) * damping * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True).float()


def gptq(weight: Tensor, moments: Sequence[Tensor], grid: Grid, ordered: bool = True) -> Rounded:
    """weight [out, in] float32; moments of its inputs, [width, width] for each of `parts_of`.

    Scales are searched beforehand, each input weighed by its power. With `ordered`, inputs of more power are rounded first, when
    there are most others left to make up for them; the stored layout does not change.
    """
    power = torch.cat([part.diagonal() for part in moments])
    importance = power.clamp_min(1e-12).view(-1, grid.group)
    scale = searched_scale(grid.groups(weight), grid, importance)  # [out, groups]
    steps = scale.repeat_interleave(grid.group, 1).T.contiguous()  # by column

    def nearest(column: int, values: Tensor) -> tuple[Tensor, Tensor]:
        code = (values / steps[column]).round_().clamp_(grid.low, grid.high)
        return code, code * steps[column]

    return Rounded(_codes(weight, _turns(moments, ordered), nearest, torch.int8), scale)


def gptq_palette(weight: Tensor, moments: Sequence[Tensor], palette: Palette) -> Palettised:
    """As `gptq`, into tables that are fitted beforehand: each input weighs what its error costs when all later ones have made up
    for it as well as they can, which is its power where inputs are independent."""
    turns = list(_turns(moments, ordered=True))
    importance = torch.empty(weight.shape[1])
    for order, factor in turns:
        importance[order] = factor.diagonal() ** -2
    table = fitted_table(weight, palette, importance)
    half = halfway(table)

    def nearest(_: int, values: Tensor) -> tuple[Tensor, Tensor]:
        code = torch.searchsorted(half, values.view(len(table), -1))
        return code.view(-1), table.gather(1, code).view(-1)

    return Palettised(_codes(weight, turns, nearest, torch.uint8), table)


def _turns(moments: Sequence[Tensor], ordered: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each part: its columns in the order that they are rounded in, and the factor for that."""
    start = 0
    for part in moments:
        order = part.diagonal().argsort(descending=True) if ordered else torch.arange(len(part))
        yield order + start, inverse_factor(part[order][:, order])
        start += len(part)


def _codes(weight: Tensor, turns: Iterable[tuple[Tensor, Tensor]], nearest: Nearest, dtype: torch.dtype) -> Tensor:
    codes = torch.empty(weight.shape, dtype=dtype)
    for order, factor in turns:
        codes[:, order] = _rounded_in_turn(weight[:, order], order.tolist(), factor, nearest).to(dtype)
    return codes


def _rounded_in_turn(left: Tensor, numbers: Sequence[int], factor: Tensor, nearest: Nearest) -> Tensor:
    """Codes [out, width] of weights `left`, columns of these numbers, from the first to the last."""
    out, width = left.shape
    left = left.T.contiguous()  # by column
    codes = torch.empty(width, out, dtype=torch.int16)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        errors = torch.empty(stop - start, out)
        for column in range(start, stop):
            code, value = nearest(numbers[column], left[column])
            codes[column] = code
            error = (left[column] - value) / factor[column, column]
            errors[column - start] = error
            left[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1.0)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1.0)
    return codes.T
