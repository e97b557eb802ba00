"""targets/rewrites/upsampling.py: doubling and its convolution in one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.core.model.tiny_vae import Grow
from echoedge.core.model.vae import NearestDouble
from echoedge.targets.rewrites.upsampling import PortableGrow, PortableUpsampling

from ...core.tiny import randomised
from .common import off, relative


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@torch.no_grad()
def test_upsampling_is_nearest_doubling_and_its_convolution(size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 3, 3, padding=1)
    nn.init.normal_(conv.weight)
    x = torch.randn(2, 6, *size)
    theirs = conv(NearestDouble()(x))
    ours = PortableUpsampling(conv)
    assert off(ours(x), theirs) < 5e-5  # measured: 5.7e-6 of 31
    assert off(ours(x).transpose(2, 3), theirs.transpose(2, 3).flip(-1)) > 0.1
    ours.conv.weight.copy_(ours.conv.weight.flip(3))  # parities swapped
    assert off(ours(x), theirs) > 0.1


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_growth_and_the_convolution_behind_it(stride: int) -> None:
    grow, conv = randomised(Grow(6, stride)), randomised(nn.Conv2d(6, 4, 3, padding=1, bias=False))
    x = torch.randn(3, 6, 4, 5)
    assert relative(PortableGrow(grow, conv)(x), conv(grow(x))) < 1e-5  # measured: 2.3e-7
    assert relative(PortableGrow(grow, conv)(x.flip(3)).flip(3), conv(grow(x))) > 0.1
