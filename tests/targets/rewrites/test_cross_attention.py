"""targets/rewrites/cross_attention.py: three modalities, weighed head by head."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from echoedge.core.model.attention import CrossAttention, LayerConditions
from echoedge.targets.rewrites.cross_attention import PortableCrossAttention

from ...core.tiny import randomised, tiny_config
from .common import B, off


def cross_attention(coupled: bool) -> tuple[CrossAttention, Tensor, LayerConditions, tuple[Tensor, Tensor, Tensor]]:
    """A cross-attention of random weights and arguments for it: text with a masked row, weights that differ by modality and frame,
    audio that a third of the tokens do not hear."""
    config = tiny_config()
    attention = randomised(CrossAttention(config, coupled))
    dim, frames, tokens = config.dim, 3, 6
    lengths = {"text": 5, "image": 7, "audio": frames * config.audio.tokens}
    keys = {f"{name}_{side}": torch.randn(B, length, dim) for name, length in lengths.items() for side in "kv"}
    bias = torch.zeros(B, 5)
    bias[:, -2], bias[:, -1] = 2.0, -1e9
    text, image, audio = (0.5 + torch.rand(B, frames, 1, 1) for _ in range(3))
    hears = (torch.arange(tokens) < 4).float().view(1, 1, tokens, 1)
    return attention, torch.randn(B, frames * tokens, dim), LayerConditions(text_bias=bias, **keys), (text, image, audio * hears)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_cross_attention(coupled: bool) -> None:
    attention, *arguments = cross_attention(coupled)
    expected = attention(*arguments)
    ours = PortableCrossAttention(copy.deepcopy(attention))
    assert off(ours(*arguments), expected) < 1e-10  # measured: 2e-15 of 3
    assert ours.state_dict().keys() == attention.state_dict().keys()
    ours.coupled = not coupled
    assert off(ours(*arguments), expected) > 1e-3
    ours.coupled, ours.norm_q = coupled, attention.norm_q  # queries without their scale
    assert off(ours(*arguments), expected) > 1e-3


@pytest.mark.parametrize("swapped", [(0, 1), (1, 2)])
@torch.no_grad()
def test_cross_attention_weighs_each_modality(swapped: tuple[int, int]) -> None:
    attention, x, conditions, weights = cross_attention(False)
    ours, order = PortableCrossAttention(copy.deepcopy(attention)), [0, 1, 2]
    order[swapped[0]], order[swapped[1]] = order[swapped[1]], order[swapped[0]]
    expected = attention(x, conditions, weights)
    assert off(ours(x, conditions, weights), expected) < 1e-5  # measured: 4.2e-7 of 2
    assert off(ours(x, conditions, tuple(weights[i] for i in order)), expected) > 1e-2
