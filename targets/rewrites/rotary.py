"""Rotary embedding by halves: channels of a head reordered to (even | odd), so that no access is strided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import ChunkedAttention, scale_queries


class HalfRotary(nn.Module):
    """Rotary embedding for channels ordered (even | odd): the pair (2i, 2i+1) lies at (i, i + d/2)."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        n = cos.shape[0]
        cos, sin = cos.view(1, n, 1, half), sin.view(1, n, 1, half)
        even, odd = x[..., :half], x[..., half:]
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1)


def halve_rotary(attention: Any) -> Any:
    """`order_pairs` for compilers without attention as an operator: the queries' norm is scaled by 1/√d, and attention is products
    in chunks; in place. Returns the attention; one that has been reordered already is left alone."""
    if isinstance(attention.rotary, HalfRotary):
        return attention
    order_pairs(attention)
    scale_queries(attention)
    attention.attention = ChunkedAttention(scaled=True)
    return attention


def order_pairs(attention: Any) -> None:
    """Reorders the rows of q and k (and their norms) within each head to (even | odd), so that RoPE needs no strided access; in
    place."""
    dim = attention.q.weight.shape[0]
    head = dim // attention.heads
    within = torch.cat([torch.arange(0, head, 2), torch.arange(1, head, 2)])
    order = (torch.arange(attention.heads)[:, None] * head + within).flatten()
    for linear in (attention.q, attention.k):
        linear.weight = nn.Parameter(linear.weight.detach()[order], requires_grad=False)
        linear.bias = nn.Parameter(linear.bias.detach()[order], requires_grad=False)
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight = nn.Parameter(norm.weight.detach()[order], requires_grad=False)
    attention.rotary = HalfRotary()
