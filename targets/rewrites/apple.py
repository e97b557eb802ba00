"""Rewrites for Core ML: attention in one piece, norms that half precision bears, and no tensor of more than five dimensions, which
is what Apple's runtimes take.

`make_apple` applies them to a copy, under the same names of layers; programs are of one clip, and of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import PATCH
from ...core.model.attention import CrossAttention, SelfAttention
from ...core.model.conditions import AudioToTokens, Conditions
from ...core.model.encoders import NanoImageEncoder
from ...core.model.programs import Denoise, DenoiseReusing, PortraitEncoder, SpeechPerFrame, SpeechPerToken
from ...core.model.tiny_vae import MemoryBlock, TinyVAE
from ...core.model.transformer import PatchEmbedding
from ...core.model.vae import CausalConv3d, ChannelNorm, FrameAttention, NearestDouble
from .applied import applied, library_results
from .attention import ChunkedAttention
from .audio_tokens import PortableAudioToTokens
from .fused import fused_attention
from .guarded_norm import GuardedChannelNorm, GuardedRMSNorm
from .memory_block import PortableMemoryBlock
from .patches import PortablePatchEmbedding
from .portrait import PortablePortrait
from .rotary import order_pairs
from .speech import PortableSpeech
from .upsampling import PortableUpsampling, fold_growths
from .whole import JoinedConv3d, WholeCrossAttention, WholeFrameAttention, WholeHeads

MOST_DIMENSIONS = 5


def chunked_attention(heads: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`whole.attention` as products, not all logits at once, for runtimes that lack the operator."""
    b, n, dim = q.shape

    def split(x: Tensor) -> Tensor:  # [B, L, D] -> [B, L, H, d]
        return x.view(b, x.shape[1], heads, dim // heads)

    keys = None if bias is None else bias.view(b, 1, k.shape[1]).repeat_interleave(heads, 0)
    return ChunkedAttention()(split(q), split(k), split(v), keys).reshape(b, n, dim)


# ---- patches, in five dimensions ------------------------------------------------------------------------------------------------


def flat_patches(x: Tensor) -> Tensor:
    """`core.model.transformer.patchify` of one clip, [1, C, F, h, w] -> [1, N, C·4]."""
    _, c, f, h, w = x.shape
    x = x.reshape(c, f * h // PATCH, PATCH, w // PATCH, PATCH).permute(1, 3, 0, 2, 4)  # [F·h/2, w/2, C, 2, 2]
    return x.reshape(1, f * h * w // PATCH**2, c * PATCH**2)


def flat_picture(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    """`core.model.transformer.unpatchify` of one clip, [1, N, 4·C] -> [1, C, F, h, w]."""
    c = x.shape[2] // PATCH**2
    x = x.view(frames * height // PATCH, width // PATCH, PATCH, PATCH, c).permute(4, 0, 2, 1, 3)  # [C, F·h/2, 2, w/2, 2]
    return x.reshape(1, c, frames, height, width)


class FlatPatchEmbedding(PortablePatchEmbedding):
    def forward(self, x: Tensor, first: int, last: int) -> Tensor:  # noqa: ARG002 (the reference's signature)
        return (self.noise if first == 0 else self.given)(flat_patches(x))


class FlatDenoise(Denoise):
    """The step, whose velocity is put together in five dimensions."""

    def __init__(self, program: Denoise) -> None:
        nn.Module.__init__(self)
        self.dit, self.keep_residual = program.dit, program.keep_residual
        for name in ("cos", "sin"):
            self.register_buffer(name, getattr(program, name), persistent=False)

    def forward(
        self, latents: Tensor, time: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        given = Conditions(*conditions)
        x = self.dit.embed(latents, given)
        y = self.dit.run_blocks(x, modulation, modality_weights, given, (self.cos, self.sin))
        velocity = flat_picture(self.dit.head(y, time), *latents.shape[2:])
        return (velocity, y - x) if self.keep_residual else velocity


class FlatReusing(DenoiseReusing):
    def __init__(self, program: DenoiseReusing) -> None:
        nn.Module.__init__(self)
        self.patch_embedding, self.head, self.channels = program.patch_embedding, program.head, program.channels

    def forward(self, latents: Tensor, time: Tensor, residual: Tensor, patch_bias: Tensor) -> Tensor:
        x = self.patch_embedding(latents, 0, self.channels) + patch_bias + residual
        return flat_picture(self.head(x, time), *latents.shape[2:])


class FlatImageEncoder(NanoImageEncoder):
    """nano's portrait encoder, of one portrait."""

    def __init__(self, encoder: NanoImageEncoder) -> None:
        nn.Module.__init__(self)
        self.patch, self.embed = encoder.patch, encoder.embed
        self.position, self.project = encoder.position, encoder.project

    def forward(self, portrait: Tensor) -> Tensor:
        _, c, h, w = portrait.shape
        p = self.patch
        patches = portrait.view(c, h // p, p, w // p, p).permute(1, 3, 0, 2, 4).reshape(1, (h // p) * (w // p), c * p * p)
        return self.project(F.silu(self.embed(patches) + self.position))


# ---- all of them ----------------------------------------------------------------------------------------------------------------

_RULES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.RMSNorm: GuardedRMSNorm,
    ChannelNorm: GuardedChannelNorm,
    Denoise: FlatDenoise,
    DenoiseReusing: FlatReusing,
    NanoImageEncoder: FlatImageEncoder,
    AudioToTokens: PortableAudioToTokens,
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    PortraitEncoder: PortablePortrait,
    CausalConv3d: JoinedConv3d,
    MemoryBlock: PortableMemoryBlock,
    TinyVAE: fold_growths,
}


def make_apple(
    module: nn.Module, inputs: Sequence[Tensor] | None = None, whole: bool = True, noise_channels: int = 16
) -> nn.Module:
    """A copy of `module` with these rewrites applied; see `applied`. `whole`: attention is an operator of its own."""
    attend = fused_attention if whole else chunked_attention

    def before(part: nn.Module) -> None:
        if isinstance(part, SelfAttention):
            order_pairs(part)
            if not whole:
                part.attention = ChunkedAttention()  # type: ignore[assignment]

    def rewrite(part: nn.Module) -> nn.Module | None:
        if isinstance(part, PatchEmbedding):
            return FlatPatchEmbedding(part, noise_channels)
        if (results := library_results(part)) is not None:
            return WholeHeads(part, results, attend)
        if isinstance(part, nn.Sequential) and len(part) == 2 and isinstance(part[0], NearestDouble):
            return PortableUpsampling(part[1])
        if type(part) in (CrossAttention, FrameAttention):
            return {CrossAttention: WholeCrossAttention, FrameAttention: WholeFrameAttention}[type(part)](part, attend)
        rule = _RULES.get(type(part))
        return rule(part) if rule else None

    return applied(module, rewrite, inputs, before)
