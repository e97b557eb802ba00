"""targets/rewrites/guarded_norm.py: the same norms, of numbers whose squares half precision does not hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.core.model.vae import ChannelNorm
from echoedge.targets.rewrites.guarded_norm import GuardedChannelNorm, GuardedRMSNorm

from ...core.tiny import randomised
from .common import DIM, B, N, off, relative


@torch.no_grad()
def test_rms_norm() -> None:
    norm, x = randomised(nn.RMSNorm(DIM, 1e-6)), 3 * torch.randn(B, N, DIM) + 2
    assert off(GuardedRMSNorm(norm)(x), norm(x)) < 1e-5  # measured: 7.2e-7 of 4
    assert off(GuardedRMSNorm(nn.RMSNorm(DIM, 1e-6))(x), norm(x)) > 0.1  # other weights


@pytest.mark.parametrize("size", [0.0, 1e-5, 1e-3])
@torch.no_grad()
def test_rms_norm_keeps_its_epsilon(size: float) -> None:
    norm, x = nn.RMSNorm(DIM, 1e-6), size * torch.randn(B, N, DIM)
    assert off(GuardedRMSNorm(norm)(x), norm(x)) < 1e-5
    assert size == 0 or off(GuardedRMSNorm(nn.RMSNorm(DIM, 1e-4))(x), norm(x)) > 1e-3


@pytest.mark.parametrize("size", [1.0, 300.0, 1e4])
@torch.no_grad()
def test_half_precision_bears_large_numbers(size: float) -> None:
    norm, x = randomised(nn.RMSNorm(DIM, 1e-6)), size * torch.randn(B, N, DIM).clamp(-5, 5)
    expected = norm(x.half().float())
    assert relative(GuardedRMSNorm(norm).half()(x.half()).float(), expected) < 2e-3  # measured: 7.7e-4
    x = x.half()
    plain = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + norm.eps)  # squares of 300 are infinite
    assert bool((plain == 0).all()) == (size > 1.0)


@torch.no_grad()
def test_channel_norm() -> None:
    norm, x = randomised(ChannelNorm(16, 3)), torch.randn(1, 2, 16, 3, 5)
    x[0, 0, :, 1, 1] = 0
    ours = GuardedChannelNorm(norm)
    assert off(ours(x), norm(x)) < 1e-5
    assert off(GuardedChannelNorm(ChannelNorm(16, 3))(x), norm(x)) > 0.1
    for size in (1e-3, 300.0, 1e4):
        given = (size * x).half()
        assert relative(ours.half()(given).float(), norm(given.float())) < 3e-3
