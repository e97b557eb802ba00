"""Self-attention of CLIP and wav2vec2 as a library has them, as 3D matrix products."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .attention import ChunkedAttention


class PortableHeads(nn.Module):
    """Self-attention of the library's CLIP and wav2vec2 layers; `results` is how many values their callers unpack."""

    def __init__(self, attention: Any, results: int) -> None:
        super().__init__()
        self.heads, self.results = attention.num_heads, results
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj
        self.attention = ChunkedAttention()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor | None, ...]:
        """[B, N, D] -> [B, N, D]; attention_mask: a bias of the keys [1, 1, N]."""
        b, n, dim = hidden_states.shape
        split = (b, n, self.heads, dim // self.heads)
        q, k, v = (project(hidden_states).view(split) for project in (self.q_proj, self.k_proj, self.v_proj))
        y = self.out_proj(self.attention(q, k, v, attention_mask).reshape(b, n, dim))
        return (y, *(None,) * (self.results - 1))
