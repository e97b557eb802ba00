"""Cross-attention that leaves the layout of heads once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.model.attention import CrossAttention, LayerConditions
from .attention import scale_queries


class PortableCrossAttention(CrossAttention):
    """Cross-attention whose three outputs are weighed and summed head by head, and go back into channels once.

    1/√d lies in the weights of the queries' norm. Where the coupled form cuts one softmax into three, the decoupled one has three.
    """

    def __init__(self, attention: CrossAttention) -> None:
        nn.Module.__init__(self)
        self.heads, self.coupled = attention.heads, attention.coupled
        for name, child in attention.named_children():
            setattr(self, name, child)
        scale_queries(self)

    def forward(self, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """As the reference's: x [B, N, D], weights of text, image, audio [B, F, 1 or S, 1] -> [B, N, D]."""
        b, n, dim = x.shape
        h, d, f = self.heads, dim // self.heads, weights[0].shape[1]
        q = self.norm_q(self.q(x)).view(b, n, h, d).permute(0, 2, 1, 3).reshape(b * h, n, d)
        by_frame = q.reshape(b * h * f, n // f, d)

        def keys(k: Tensor) -> Tensor:  # [B, L, D] -> [B·H, d, L]
            return k.view(b, -1, h, d).permute(0, 2, 3, 1).reshape(b * h, d, -1)

        def values(v: Tensor) -> Tensor:  # [B, L, D] -> [B·H, L, d]
            return v.view(b, -1, h, d).permute(0, 2, 1, 3).reshape(b * h, -1, d)

        heard_keys = conditions.audio_k.view(b, f, -1, h, d).permute(0, 3, 1, 4, 2).reshape(b * h * f, d, -1)
        heard_values = conditions.audio_v.view(b, f, -1, h, d).permute(0, 3, 1, 2, 4).reshape(b * h * f, -1, d)

        read = torch.bmm(q, keys(conditions.text_k))  # [B·H, N, L]
        read = (read.view(b, h, n, -1) + conditions.text_bias.view(b, 1, 1, -1)).view(b * h, n, -1)
        seen = torch.bmm(q, keys(conditions.image_k))
        heard = torch.bmm(by_frame, heard_keys)  # [B·H·F, S, L]
        if self.coupled:
            text, image = read.shape[-1], read.shape[-1] + seen.shape[-1]
            joint = torch.softmax(torch.cat([read, seen, heard.view(b * h, n, -1)], -1), -1)
            read, seen, heard = joint[..., :text], joint[..., text:image], joint[..., image:].reshape(heard.shape)
        else:
            read, seen, heard = (torch.softmax(logits, -1) for logits in (read, seen, heard))

        parts = (
            torch.bmm(read, values(conditions.text_v)),
            torch.bmm(seen, values(conditions.image_v)),
            torch.bmm(heard, heard_values),
        )
        weighed = [
            part.view(b * h, f, -1, d) * (weight if b == 1 else weight.repeat_interleave(h, 0))
            for part, weight in zip(parts, weights, strict=True)
        ]  # [B·H, F, S, d]
        out = weighed[0] + weighed[1] + weighed[2]
        return self.o(out.view(b, h, n, d).permute(0, 2, 1, 3).reshape(b, n, dim))
