"""Scaling and rotation of a layer's inputs before rounding, as AWQ and QuaRot do: to measure what they would buy.

A layer computes W x = (W T) (T⁻¹ x) for any invertible T, and W T may round better. In this transformer only two kinds of layers
can have T⁻¹ folded into the weights in front of them: the cross-attention's query (into the norm's gain and bias) and the
self-attention's output (into the rows of the value: attention mixes tokens, not channels). Elsewhere a modulation by the timestep,
or GELU, stands between. `Transformed` puts T⁻¹ in front of the layer instead, which computes the same. Nothing that is compiled
uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .grid import Grid, Rounded
from .weights import Store

FOLDABLE = ("cross_attn.q", "self_attn.o")
POWERS = tuple(step / 10 for step in range(9))  # of an input's power that its scale takes on; 0 leaves the layer as it is
TURNED = 64  # inputs that a rotation mixes

Round = Callable[[Tensor, Tensor], Rounded]  # weight [out, in], second moments [in, in] -> rounded


class Transformed(nn.Module):
    """A quantised layer of W T behind T⁻¹: x -> layer(x T⁻ᵀ)."""

    def __init__(self, layer: nn.Linear, rounded: Rounded, grid: Grid, inverse: Tensor, store: Store) -> None:
        super().__init__()
        self.layer, self.inverse = layer, inverse
        layer.weight = nn.Parameter(store(rounded, grid), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x @ self.inverse.T)


def output_error(weight: Tensor, rounded: Rounded, moments: Tensor) -> float:
    """‖(W - Ŵ) X‖² per row of X."""
    difference = weight - rounded.values()
    return float(((difference @ moments) * difference).sum())


def awq(layer: nn.Linear, moments: Tensor, grid: Grid, rounding: Round, store: Store) -> Transformed:
    """Activation-aware scaling: inputs of more power get finer steps; the power of `POWERS` with the least output error."""
    weight = layer.weight.detach()
    strength = moments.diagonal().sqrt().clamp_min(1e-6)
    strength = strength / strength.log().mean().exp()
    tried = []
    for power in POWERS:
        scale = strength**power
        scaled, moved = weight * scale, moments / scale / scale[:, None]
        rounded = rounding(scaled, moved)
        tried.append((output_error(scaled, rounded, moved), scale, rounded))
    _, scale, rounded = min(tried, key=lambda one: one[0])
    return Transformed(layer, rounded, grid, (1 / scale).diag(), store)


def hadamard(size: int) -> Tensor:
    """The orthogonal matrix of ±1/√size, for powers of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def rotated(layer: nn.Linear, moments: Tensor, grid: Grid, rounding: Round, store: Store) -> Transformed:
    """Inputs mixed by a Hadamard matrix, TURNED at a time; their number must divide."""
    turn = torch.block_diag(*[hadamard(TURNED)] * (layer.in_features // TURNED))
    return Transformed(layer, rounding(layer.weight.detach() @ turn, turn.T @ moments @ turn), grid, turn.T, store)
