"""GPTQ: rounds a layer's inputs one after the other and lets the ones not yet rounded make up for the error, as far as the
layer's own inputs are correlated (Frantar et al., 2022).

Minimises ‖(W - Ŵ) X‖² with H = X Xᵀ, the second moments of the inputs on calibration samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import Grid, Rounded
from .searched import searched_scale

DAMPING = 0.01  # of H's mean diagonal, added to it
BLOCK = 128  # columns whose error is carried to the rest at once
WIDEST = 2304  # inputs that make up for each other: wider layers fall into parts, each of at most 21 MB of moments


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
    steps = scale.repeat_interleave(grid.group, 1)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    start = 0
    for part in moments:
        columns = slice(start, start + len(part))
        order = part.diagonal().argsort(descending=True) if ordered else torch.arange(len(part))
        factor = inverse_factor(part[order][:, order])
        codes[:, columns][:, order] = _rounded_in_turn(weight[:, columns][:, order], steps[:, columns][:, order], factor, grid)
        start = columns.stop
    return Rounded(codes, scale)


def _rounded_in_turn(left: Tensor, steps: Tensor, factor: Tensor, grid: Grid) -> Tensor:
    """Codes, int8 [out, width], of weights `left` under `steps`, from the first column to the last."""
    out, width = left.shape
    left, steps = left.T.contiguous(), steps.T.contiguous()  # by column
    codes = torch.empty(width, out, dtype=torch.int8)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        errors = torch.empty(stop - start, out)
        for column in range(start, stop):
            code = (left[column] / steps[column]).round_().clamp_(grid.low, grid.high)
            codes[column] = code
            error = (left[column] - code * steps[column]) / factor[column, column]
            errors[column - start] = error
            left[column + 1 : stop].addr_(factor[column, column + 1 : stop], error, alpha=-1.0)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1.0)
    return codes.T
