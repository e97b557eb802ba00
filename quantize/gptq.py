"""GPTQ: rounds a layer's inputs one after the other and lets the ones not yet rounded make up for the error, as far as the
layer's own inputs are correlated (Frantar et al., 2022).

Minimises ‖(W - Ŵ) X‖² with H = X Xᵀ, the second moments of the inputs on calibration samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rounding import Grid, Rounded, searched_scale

DAMPING = 0.01  # of H's mean diagonal, added to it
BLOCK = 128  # columns whose error is carried to the rest at once


def inverse_factor(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Upper triangular U with Uᵀ U = (H + damping)⁻¹, float32. Inputs that were never seen count as independent."""
    h = moments.double().clone()
    diagonal = h.diagonal()
    mean = diagonal.mean()
    if mean <= 0:
        return torch.eye(len(h))
    diagonal += damping * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    return torch.linalg.cholesky(inverse, upper=True).float()


def gptq(weight: Tensor, moments: Tensor, grid: Grid, ordered: bool = True) -> Rounded:
    """weight [out, in] float32; moments [in, in] of its inputs.

    Scales are searched beforehand, each input weighed by its power. With `ordered`, inputs of more power are rounded first, when
    there are most others left to make up for them; the stored layout does not change.
    """
    out, width = weight.shape
    power = moments.diagonal()
    scale = searched_scale(grid.groups(weight), grid, power.clamp_min(1e-12).view(-1, grid.group))  # [out, groups]
    order = power.argsort(descending=True) if ordered else torch.arange(width)
    factor = inverse_factor(moments[order][:, order])
    steps = scale.repeat_interleave(grid.group, 1)[:, order]
    left = weight[:, order].clone()
    codes = torch.empty(out, width, dtype=torch.int8)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        errors = torch.empty(out, stop - start)
        for column in range(start, stop):
            step = steps[:, column]
            code = (left[:, column] / step).round().clamp_(grid.low, grid.high)
            codes[:, column] = code.to(torch.int8)
            error = (left[:, column] - code * step) / factor[column, column]
            errors[:, column - start] = error
            left[:, column + 1 : stop] -= error[:, None] * factor[column, column + 1 : stop]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    restored = torch.empty_like(codes)
    restored[:, order] = codes
    return Rounded(restored, scale)
