"""Half-quadratic quantisation, as torchao has it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import Grid, Rounded


def hqq(weight: Tensor, grid: Grid) -> Rounded:
    """Half-quadratic quantisation of the scale alone, as torchao has it, on the kernel's scales."""
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_scale_only_hqq

    _, scale = _choose_qparams_and_quantize_scale_only_hqq(weight, [1, grid.group], grid.low, grid.high)
    scale = grid.scale(scale)
    return Rounded(grid.codes(grid.groups(weight), scale).view_as(weight).to(torch.int8), scale)
