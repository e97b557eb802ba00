"""Attention as 3D matrix products, in chunks of queries, so that not all logits exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LOGITS = 50_000_000  # attention logits that exist at once, 200 MB and as much again for their softmax


def query_chunk(heads: int, queries: int, keys: int) -> int:
    """Rows of attention logits that exist at once: all where `LOGITS` allow, else a share of them in chunks of one size.

    Larger chunks are faster, for keys and values are packed once per chunk; products and softmax already run from cache.
    """
    chunks = -(-queries // max(1, LOGITS // (heads * keys)))
    return -(-queries // chunks)


class ChunkedAttention(nn.Module):
    """Attention as 3D products, `query_chunk` queries at a time. `scaled`: queries come multiplied by 1/√d."""

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """q [B, N, H, d], k and v [B, L, H, d] -> [B, N, H, d]. `bias`, of keys, broadcast against [B·H, N, L], is added to the
        logits."""
        (b, n, h, d), keys = q.shape, k.shape[1]
        q = (q if self.scaled else q * d**-0.5).permute(0, 2, 1, 3).reshape(b * h, n, d)
        k = k.permute(0, 2, 3, 1).reshape(b * h, d, keys)
        v = v.permute(0, 2, 1, 3).reshape(b * h, keys, d)
        rows = query_chunk(b * h, n, keys)
        chunks = [q] if rows == n else [q[:, start : start + rows] for start in range(0, n, rows)]

        def attend(chunk: Tensor) -> Tensor:
            logits = torch.bmm(chunk, k)
            return torch.bmm(torch.softmax(logits if bias is None else logits + bias, -1), v)

        parts = [attend(chunk) for chunk in chunks]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out.view(b, h, n, d).permute(0, 2, 1, 3)


def scale_queries(attention: Any) -> None:
    """Multiplies the weights of the queries' norm by 1/√d, in place of the queries."""
    weight = attention.norm_q.weight.detach()
    attention.norm_q.weight = nn.Parameter(weight * (len(weight) // attention.heads) ** -0.5, requires_grad=False)
