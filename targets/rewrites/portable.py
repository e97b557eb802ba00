"""Rewrites of the reference's modules into forms that mobile compilers keep in one piece, all of them applied.

Each file beside this one takes a module of the reference and returns one that computes the same with the same weights, in operators
that XNNPACK takes into one delegate. `make_portable` applies them to a copy; tests prove each equal to what it replaces but for
rounding. Constants are float32: rewrite first, then convert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.model.attention import Attention, CrossAttention, Rotary, SelfAttention
from ...core.model.conditions import AudioToTokens
from ...core.model.programs import PortraitEncoder, SpeechPerFrame, SpeechPerToken
from ...core.model.tiny_vae import MemoryBlock, TinyVAE
from ...core.model.transformer import PatchEmbedding
from ...core.model.vae import CausalConv3d, ChannelNorm, NearestDouble
from .applied import applied, library_results
from .audio_tokens import PortableAudioToTokens
from .causal_convolution import PortableConv3d
from .channel_norm import PortableChannelNorm
from .cross_attention import PortableCrossAttention
from .gelu import PortableGELU
from .heads import PortableHeads
from .memory_block import PortableMemoryBlock
from .norms import PortableLayerNorm, PortableRMSNorm
from .patches import PortablePatchEmbedding
from .portrait import PortablePortrait
from .rotary import halve_rotary
from .speech import PortableSpeech
from .upsampling import PortableUpsampling, fold_growths

GELU = Literal["exact", "fast"]
RULES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.LayerNorm: PortableLayerNorm,
    nn.RMSNorm: PortableRMSNorm,
    CrossAttention: PortableCrossAttention,
    AudioToTokens: PortableAudioToTokens,
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    PortraitEncoder: PortablePortrait,
    CausalConv3d: PortableConv3d,
    ChannelNorm: PortableChannelNorm,
    MemoryBlock: PortableMemoryBlock,
    TinyVAE: fold_growths,
}


def _rewrite(module: nn.Module, noise_channels: int, gelu: GELU) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return PortableGELU() if gelu == "exact" else nn.GELU()
    if isinstance(module, PatchEmbedding):
        return PortablePatchEmbedding(module, noise_channels)
    if (results := library_results(module)) is not None:
        return PortableHeads(module, results)
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], NearestDouble):
        return PortableUpsampling(module[1])
    rule = RULES.get(type(module))
    return rule(module) if rule else None


def make_portable(
    module: nn.Module, noise_channels: int = 16, inputs: Sequence[Tensor] | None = None, gelu: GELU = "exact"
) -> nn.Module:
    """A copy of `module` with every rewrite applied; the original is left alone. Rewriting a rewritten module changes nothing.

    Weights that stay as they are share the original's memory. With `inputs` the copy keeps what it reads on inputs of these shapes
    and nothing else: it takes no others. `gelu`: what becomes of the tanh form, itself (six operators) or the exact error function
    (one operator), which differs by up to 4.7e-4.

    Raises:
        ConfigError: there is no such `gelu`.
    """
    if gelu not in get_args(GELU):
        raise ConfigError(f"There is no gelu {gelu!r}. Choose from {', '.join(get_args(GELU))}.")

    def halve(part: nn.Module) -> None:
        if isinstance(part, SelfAttention):
            halve_rotary(part)

    return applied(module, partial(_rewrite, noise_channels=noise_channels, gelu=gelu), inputs, halve)


REWRITTEN = (nn.LayerNorm, nn.RMSNorm, CausalConv3d, ChannelNorm, NearestDouble, PatchEmbedding, Rotary, Attention)
