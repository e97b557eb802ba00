"""targets/rewrites/norms.py: means as products give the same norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.targets.rewrites.norms import PortableLayerNorm, PortableRMSNorm

from ...core.tiny import randomised
from .common import DIM, B, N, off


@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_layer_norm(affine: bool) -> None:
    norm = randomised(nn.LayerNorm(DIM, 1e-6, elementwise_affine=affine))
    x = 3 * torch.randn(B, N, DIM) + 2
    assert off(PortableLayerNorm(norm)(x), norm(x)) < 1e-5  # measured: 7.2e-7 of 4
    wrong = PortableLayerNorm(norm)
    wrong.mean.weight *= 1.01
    assert off(wrong(x), norm(x)) > 1e-3


@torch.no_grad()
def test_layer_norm_keeps_its_epsilon() -> None:
    norm, x = nn.LayerNorm(DIM, 1e-5), 1e-3 * torch.randn(B, N, DIM)
    assert off(PortableLayerNorm(norm)(x), norm(x)) < 1e-5  # measured: 6e-8 of 1.1
    norm.eps = 1e-6
    assert off(PortableLayerNorm(nn.LayerNorm(DIM, 1e-5))(x), norm(x)) > 0.1


@torch.no_grad()
def test_rms_norm() -> None:
    norm, x = randomised(nn.RMSNorm(DIM, 1e-6)), 3 * torch.randn(B, N, DIM) + 2
    assert off(PortableRMSNorm(norm)(x), norm(x)) < 1e-5  # measured: 4.8e-7 of 4
    assert off(PortableRMSNorm(nn.RMSNorm(DIM, 1e-6))(x), norm(x)) > 0.1  # other weights


@torch.no_grad()
def test_rms_norm_keeps_its_epsilon() -> None:
    norm, x = nn.RMSNorm(DIM, 1e-6), 1e-3 * torch.randn(B, N, DIM)
    assert off(PortableRMSNorm(norm)(x), norm(x)) < 1e-5  # measured: 2.4e-7 of 2.7
    assert off(PortableRMSNorm(nn.RMSNorm(DIM, 1e-5))(x), norm(x)) > 0.1
