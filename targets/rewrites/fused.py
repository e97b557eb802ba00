"""Rewrites for compilers that have torch's own attention as one operator, each program for clips of one shape.

`make_fused` applies them to a copy, as `make_portable` does for mobile compilers, under the same names of layers; tests prove each
equal to what it replaces. The coupled form of cross-attention, whose one softmax runs over three sets of keys, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.model.attention import CrossAttention, LayerConditions, SelfAttention
from ...core.model.conditions import AudioToTokens
from ...core.model.programs import PortraitEncoder, SpeechPerFrame, SpeechPerToken
from ...core.model.tiny_vae import TinyVAE
from ...core.model.transformer import PatchEmbedding
from ...core.model.vae import CausalConv3d, FrameAttention, NearestDouble
from .applied import applied, library_results
from .audio_tokens import PortableAudioToTokens
from .patches import PortablePatchEmbedding
from .portrait import PortablePortrait
from .rotary import HalfRotary, order_pairs
from .speech import PortableSpeech
from .upsampling import PortableUpsampling, fold_growths
from .whole import JoinedConv3d


class FloatHalfRotary(HalfRotary):
    """Rotary embedding by halves, in the type of its tables whatever x has."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return super().forward(x.to(cos.dtype), cos, sin).to(x.dtype)


def halve_pairs(part: nn.Module) -> None:
    """Has a self-attention, whose attention stays whole, turn its pairs by halves; in place. Others are left alone."""
    if isinstance(part, SelfAttention) and not isinstance(part.rotary, HalfRotary):
        order_pairs(part)
        part.rotary = FloatHalfRotary()  # type: ignore[assignment]


class FusedCrossAttention(CrossAttention):
    """Decoupled cross-attention as three attentions."""

    def __init__(self, attention: CrossAttention) -> None:
        nn.Module.__init__(self)
        self.heads, self.coupled = attention.heads, attention.coupled
        for name, child in attention.named_children():
            setattr(self, name, child)

    def forward(self, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """As the reference's: x [B, N, D], weights of text, image [B, F, 1, 1], audio [B, F, 1 or S, 1] -> [B, N, D]."""
        b, n, dim = x.shape
        f = weights[0].shape[1]
        q = self.norm_q(self.q(x))

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:  # -> [B, F, S, D]
            rows = q.shape[0]
            q, k, v = (y.reshape(rows, -1, self.heads, dim // self.heads).transpose(1, 2) for y in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(b, f, n // f, dim)

        def by_frame(y: Tensor) -> Tensor:  # [B, F·T, D] -> [B·F, T, D]
            return y.reshape(b * f, -1, dim)

        read = attend(q, conditions.text_k, conditions.text_v, conditions.text_bias.reshape(b, 1, 1, -1))
        seen = attend(q, conditions.image_k, conditions.image_v)
        heard = attend(by_frame(q), by_frame(conditions.audio_k), by_frame(conditions.audio_v))
        out = read * weights[0] + seen * weights[1] + heard * weights[2]
        return self.o(out.reshape(b, n, dim))


class FusedFrameAttention(nn.Module):
    """The VAE's attention among the pixels of each frame, of one head."""

    def __init__(self, attention: FrameAttention) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = attention.norm, attention.to_qkv, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C, H, W] -> the same."""
        b, t, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x).reshape(b * t, c, h, w)).reshape(b * t, 1, 3 * c, h * w).transpose(2, 3)  # [B·T, 1, HW, 3C]
        y = F.scaled_dot_product_attention(qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :])
        return x + self.proj(y.transpose(2, 3).reshape(b * t, c, h, w)).view(b, t, c, h, w)


class FusedHeads(nn.Module):
    """Self-attention of the library's CLIP and wav2vec2 layers; `results` is how many values their callers unpack."""

    def __init__(self, attention: Any, results: int) -> None:
        super().__init__()
        self.heads, self.results = attention.num_heads, results
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor | None, ...]:
        """[B, N, D] -> [B, N, D]; attention_mask: a bias of the keys [1, 1, N]."""
        b, n, dim = hidden_states.shape
        split = (b, n, self.heads, dim // self.heads)
        q, k, v = (project(hidden_states).reshape(split).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        bias = None if attention_mask is None else attention_mask.reshape(1, 1, 1, n)
        y = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).reshape(b, n, dim)
        return (self.out_proj(y), *(None,) * (self.results - 1))


RULES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    AudioToTokens: PortableAudioToTokens,
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    PortraitEncoder: PortablePortrait,
    CausalConv3d: JoinedConv3d,
    FrameAttention: FusedFrameAttention,
    TinyVAE: fold_growths,
}


def _rewrite(module: nn.Module, noise_channels: int) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    if isinstance(module, PatchEmbedding):
        return PortablePatchEmbedding(module, noise_channels)
    if (results := library_results(module)) is not None:
        return FusedHeads(module, results)
    if type(module) is CrossAttention and not module.coupled:
        return FusedCrossAttention(module)
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], NearestDouble):
        return PortableUpsampling(module[1])
    rule = RULES.get(type(module))
    return rule(module) if rule else None


def make_fused(module: nn.Module, noise_channels: int = 16, inputs: Sequence[Tensor] | None = None) -> nn.Module:
    """A copy of `module` with these rewrites applied; see `applied`."""
    return applied(module, partial(_rewrite, noise_channels=noise_channels), inputs, halve_pairs)
