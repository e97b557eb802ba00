"""Matrix products and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import operators


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in], weight [out, in], bias [out] -> [..., out]."""
    return F.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    if transpose_x and x.ndim > 1:
        x = x.transpose(-1, -2)
    if transpose_y and y.ndim > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


def einsum(values: list[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """query [B, ..., L, E], key [B, ..., S, E], value [B, ..., S, V], mask broadcast to [B, ..., L, S] -> [B, ..., L, V]. A query
    that a mask of booleans lets see nothing has no defined answer: 0/0 in the documented formula, so not-a-number here."""
    found = F.scaled_dot_product_attention(query, key, value, attn_mask)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        found = found.masked_fill(~attn_mask.any(-1, keepdim=True), torch.nan)
    return found


OPERATORS = operators(
    "computes", linear=linear, matmul=matmul, einsum=einsum, scaled_dot_product_attention=scaled_dot_product_attention
)
