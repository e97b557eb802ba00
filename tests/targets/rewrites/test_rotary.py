"""targets/rewrites/rotary.py: reordered channels turn as before."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from echoedge.core.model.attention import Rotary, SelfAttention, rope_tables
from echoedge.targets.rewrites.rotary import HalfRotary, halve_rotary

from ...core.tiny import randomised, tiny_config
from .common import DIM, HEAD, HEADS, B, N, off


def self_attention() -> SelfAttention:
    return randomised(SelfAttention(tiny_config()))


def halves(x: Tensor) -> Tensor:
    """Channels of each head in the order (even | odd)."""
    return torch.cat([x[..., 0::2], x[..., 1::2]], -1)


def test_half_rotary_turns_the_same_pairs() -> None:
    x, tables = torch.randn(B, N, HEADS, HEAD), rope_tables(HEAD, 3, 2, 3)
    expected = halves(Rotary()(x, *tables))
    assert off(HalfRotary()(halves(x), *tables), expected) < 2e-6  # measured: equal
    assert off(HalfRotary()(x, *tables), expected) > 0.1


@torch.no_grad()
def test_halved_rotary_within_self_attention() -> None:
    reference, tables, x = self_attention(), rope_tables(HEAD, 3, 2, 3), torch.randn(B, N, DIM)
    halved = halve_rotary(copy.deepcopy(reference))
    assert off(halved(x, *tables), reference(x, *tables)) < 1e-5  # measured: 3.6e-7 of 1.9
    assert halved.q.weight.equal(halves(reference.q.weight.T.unflatten(1, (HEADS, HEAD))).flatten(1).T)
    for part in ("q", "norm_k"):  # forgetting to permute either side of the dot product shows
        wrong = halve_rotary(copy.deepcopy(reference))
        setattr(wrong, part, getattr(reference, part))
        assert off(wrong(x, *tables), reference(x, *tables)) > 1e-3
