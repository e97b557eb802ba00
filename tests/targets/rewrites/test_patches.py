"""targets/rewrites/patches.py: the patch embedding as products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.core.model.transformer import PatchEmbedding
from echoedge.targets.rewrites.patches import PortablePatchEmbedding

from ...core.tiny import randomised
from .common import DIM, B, off


@pytest.mark.parametrize(("first", "last"), [(0, 16), (16, 36)])
@torch.no_grad()
def test_patch_embedding(first: int, last: int) -> None:
    patch = randomised(PatchEmbedding(36, DIM))
    nn.init.normal_(patch.weight)
    x = torch.randn(B, last - first, 3, 4, 6)
    ours = PortablePatchEmbedding(patch, 16)
    assert off(ours(x, first, last), patch(x, first, last)) < 1e-4  # measured: equal, values to 30
    assert torch.equal(ours.bias, patch.bias)
    patch.weight.copy_(patch.weight.flip(-1))
    assert off(ours(x, first, last), patch(x, first, last)) > 1
