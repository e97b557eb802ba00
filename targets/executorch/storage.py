"""Rounded weights in the one form that XNNPACK executes correctly: torchao's tensors with 8-bit dynamic activations.

Weight-only schemes are not offered: XNNPACK lowers them without an error and computes garbage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...quantize.grid import Grid, Palette, Palettised, Rounded, integers_of


def stored_weight(rounded: Rounded | Palettised, grid: Grid | Palette) -> Tensor:
    """Rounded weights as torchao's configuration for dynamic 8-bit activations would leave them.

    Raises:
        ConfigError: they are those of a palette.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor

    rounded, grid = integers_of(rounded, grid)
    return IntxUnpackedToInt8Tensor(
        qdata=rounded.codes,
        scale=rounded.scale,
        zero_point=torch.zeros_like(rounded.scale, dtype=torch.int8),
        target_dtype=torch.int4 if grid.bits == 4 else torch.int8,  # type: ignore[attr-defined]
        block_size=(1, grid.group),
        dtype=torch.float32,
        activation_quantization="int8_asym_per_token",
    )
