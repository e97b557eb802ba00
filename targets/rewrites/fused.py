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

from ...core.model.attention import CrossAttention, SelfAttention
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
from .whole import JoinedConv3d, WholeCrossAttention, WholeFrameAttention, WholeHeads


class FloatHalfRotary(HalfRotary):
    """Rotary embedding by halves, in the type of its tables whatever x has."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return super().forward(x.to(cos.dtype), cos, sin).to(x.dtype)


def halve_pairs(part: nn.Module) -> None:
    """Has a self-attention, whose attention stays whole, turn its pairs by halves; in place. Others are left alone."""
    if isinstance(part, SelfAttention) and not isinstance(part.rotary, HalfRotary):
        order_pairs(part)
        part.rotary = FloatHalfRotary()  # type: ignore[assignment]


def fused_attention(heads: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`whole.attention` as torch's own operator, which converters keep where it is called without a scale."""
    b, n, dim = q.shape

    def split(x: Tensor) -> Tensor:  # [B, L, D] -> [B, H, L, d]
        return x.view(b, x.shape[1], heads, dim // heads).transpose(1, 2)

    return F.scaled_dot_product_attention(split(q), split(k), split(v), bias).transpose(1, 2).reshape(b, n, dim)


RULES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    AudioToTokens: PortableAudioToTokens,
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    PortraitEncoder: PortablePortrait,
    CausalConv3d: JoinedConv3d,
    FrameAttention: partial(WholeFrameAttention, attend=fused_attention),
    TinyVAE: fold_growths,
}


def _rewrite(module: nn.Module, noise_channels: int) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    if isinstance(module, PatchEmbedding):
        return PortablePatchEmbedding(module, noise_channels)
    if (results := library_results(module)) is not None:
        return WholeHeads(module, results, fused_attention)
    if type(module) is CrossAttention and not module.coupled:
        return WholeCrossAttention(module, fused_attention)
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], NearestDouble):
        return PortableUpsampling(module[1])
    rule = RULES.get(type(module))
    return rule(module) if rule else None


def make_fused(module: nn.Module, noise_channels: int = 16, inputs: Sequence[Tensor] | None = None) -> nn.Module:
    """A copy of `module` with these rewrites applied; see `applied`."""
    return applied(module, partial(_rewrite, noise_channels=noise_channels), inputs, halve_pairs)
