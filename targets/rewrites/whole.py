"""Rewrites for compilers that have attention, rotary embedding, norms and GELU as operators of their own: they stay whole, and no
module knows a clip's shape, so that one program serves every shape.

`make_whole` applies them to a copy, as `make_portable` does for mobile compilers, under the same names of layers; tests prove each
equal to what it replaces. Operators of ONNX that torch's own library lacks are called through `torch.onnx.ops`, which computes them
in PyTorch too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.config import PATCH, TEMPORAL_STRIDE
from ...core.model.attention import CrossAttention, LayerConditions, SelfAttention
from ...core.model.conditions import AudioToTokens
from ...core.model.programs import SpeechPerFrame, SpeechPerToken
from ...core.model.tiny_vae import MemoryBlock, TinyVAE
from ...core.model.transformer import PatchEmbedding
from ...core.model.vae import CausalConv3d, ChannelNorm, FrameAttention, NearestDouble
from .applied import applied, library_results
from .channel_norm import PortableChannelNorm
from .memory_block import PortableMemoryBlock
from .patches import PortablePatchEmbedding
from .speech import PortableSpeech
from .tensors import conv2d_of
from .upsampling import PortableUpsampling, fold_growths


def attention(heads: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v of q [B, N, D], k and v [B, L, D] -> [B, N, D]. `bias` [B, 1, 1, L]: it is spread over the
    queries, for runtimes on the CPU take no other."""
    from torch.onnx import ops

    wide = None if bias is None else bias.expand(q.shape[0], 1, q.shape[1], k.shape[1])
    found: Tensor = ops.attention(q, k, v, wide, q_num_heads=heads, kv_num_heads=heads)[0]
    return found


Attend = Callable[[int, Tensor, Tensor, Tensor, Tensor | None], Tensor]  # as `attention`


class WholeSelfAttention(nn.Module):
    """The transformer's self-attention: heads are never split apart outside an operator."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.heads, self.attentions = attention.heads, 1
        self.q, self.k, self.v, self.o = attention.q, attention.k, attention.v, attention.o
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, N, D], cos and sin [N, d/2] -> [B, N, D]. Turned in float32, whatever the rest is."""
        from torch.onnx import ops

        def turned(y: Tensor) -> Tensor:
            found: Tensor = ops.rotary_embedding(y.float(), cos[None], sin[None], num_heads=self.heads, interleaved=True)
            return found.to(x.dtype)

        q, k = turned(self.norm_q(self.q(x))), turned(self.norm_k(self.k(x)))
        return self.o(attention(self.heads, q, k, self.v(x)))


class WholeCrossAttention(CrossAttention):
    """Cross-attention as three attentions; coupled, whose one softmax runs over all keys, as two: of values whose weight a whole
    frame has, and of those whose weight each token has."""

    def __init__(self, original: CrossAttention, attend: Attend = attention) -> None:
        nn.Module.__init__(self)
        self.heads, self.coupled, self.attend = original.heads, original.coupled, attend
        self.attentions = 2 if self.coupled else 3
        for name, child in original.named_children():
            setattr(self, name, child)

    def forward(self, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """As the reference's: x [B, N, D], weights of text, image [B, F, 1, 1], audio [B, F, S, 1] -> [B, N, D]."""
        b, n, dim = x.shape
        f, s = weights[2].shape[1:3]
        torch._check(n == f * s)
        q = self.norm_q(self.q(x))
        attended = self._coupled if self.coupled else self._apart
        return self.o(attended(q, conditions, weights, b, f, s).reshape(b, n, dim))

    def _frames(self, x: Tensor, frames: int) -> Tensor:
        """[B, F·T, D] -> [B·F, T, D]."""
        b, rows, dim = x.shape
        each = rows // frames
        torch._check(each * frames == rows)
        return x.reshape(b * frames, each, dim)

    def _apart(self, q: Tensor, c: LayerConditions, weights: tuple[Tensor, ...], b: int, f: int, s: int) -> Tensor:
        bias = c.text_bias.reshape(b, 1, 1, -1)
        parts = (
            self.attend(self.heads, q, c.text_k, c.text_v, bias),
            self.attend(self.heads, q, c.image_k, c.image_v, None),
            self.attend(self.heads, q.reshape(b * f, s, q.shape[2]), self._frames(c.audio_k, f), self._frames(c.audio_v, f), None),
        )
        read, seen, heard = (part.reshape(b, f, s, q.shape[2]) * w for part, w in zip(parts, weights, strict=True))
        return read + seen + heard

    def _coupled(self, q: Tensor, c: LayerConditions, weights: tuple[Tensor, ...], b: int, f: int, s: int) -> Tensor:
        dim, text, image = q.shape[2], c.text_k.shape[1], c.image_k.shape[1]
        audio_k, audio_v = self._frames(c.audio_k, f), self._frames(c.audio_v, f)

        def every(x: Tensor) -> Tensor:  # [B, L, D] -> [B·F, L, D]
            return x[:, None].expand(b, f, x.shape[1], dim).reshape(b * f, x.shape[1], dim)

        keys = torch.cat([every(c.text_k), every(c.image_k), audio_k], 1)
        of_frame = [every(v) * w.reshape(b * f, 1, 1) for v, w in zip((c.text_v, c.image_v), weights, strict=False)]
        read = torch.cat([*of_frame, torch.zeros_like(audio_v)], 1)
        heard = torch.cat([audio_v.new_zeros(b * f, text + image, dim), audio_v], 1)
        added = [c.text_bias[:, None].expand(b, f, text).reshape(b * f, text), audio_k.new_zeros(b * f, image)]
        logits = torch.cat([*added, torch.zeros_like(audio_k[:, :, 0])], 1)
        bias = logits[:, None, None]
        own = q.reshape(b * f, s, dim)
        out = self.attend(self.heads, own, keys, read, bias)
        return out + self.attend(self.heads, own, keys, heard, bias) * weights[2].reshape(b * f, s, 1)


class WholeHeads(nn.Module):
    """Self-attention of the library's CLIP and wav2vec2 layers; `results` is how many values their callers unpack."""

    def __init__(self, original: Any, results: int, attend: Attend = attention) -> None:
        super().__init__()
        self.heads, self.results, self.attentions, self.attend = original.num_heads, results, 1, attend
        self.q_proj, self.k_proj = original.q_proj, original.k_proj
        self.v_proj, self.out_proj = original.v_proj, original.out_proj

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor | None, ...]:
        """[B, N, D] -> [B, N, D]; attention_mask: a bias of the keys [1, 1, N]."""
        n = hidden_states.shape[1]
        bias = None if attention_mask is None else attention_mask.reshape(1, 1, 1, n)
        q, k, v = (project(hidden_states) for project in (self.q_proj, self.k_proj, self.v_proj))
        return (self.out_proj(self.attend(self.heads, q, k, v, bias)), *(None,) * (self.results - 1))


class WholeFrameAttention(nn.Module):
    """The VAE's attention among the pixels of each frame, of one head."""

    def __init__(self, original: FrameAttention, attend: Attend = attention) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = original.norm, original.to_qkv, original.proj
        self.attentions, self.attend = 1, attend

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C, H, W] -> the same."""
        b, t, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x).reshape(b * t, c, h, w)).reshape(b * t, 3 * c, h * w).transpose(1, 2)  # [B·T, HW, 3C]
        y = self.attend(1, qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :], None)
        return x + self.proj(y.transpose(1, 2).reshape(b * t, c, h, w)).view(b, t, c, h, w)


class JoinedConv3d(nn.Module):
    """The VAE's causal convolution of one clip as a 2D one over the channels of the frames that it sees, its kernels side by side
    once and for all; fewer operators than in pairs of frames (`causal_convolution`), which runtimes with fast convolutions prefer.
    """

    def __init__(self, conv: CausalConv3d) -> None:
        super().__init__()
        self.taps, self.frame_stride = conv.taps, conv.frame_stride
        self.newest = conv2d_of(conv.taps_weight(1).contiguous(), conv.bias, conv.padding)
        self.joined = conv2d_of(conv.taps_weight(conv.taps).detach().contiguous(), conv.bias, conv.padding)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """As the reference's, of one clip."""
        frames = x.squeeze(0)  # [T, C, H, W]
        if self.taps == 1 or (past is None and len(frames) == 1 and self.frame_stride == 1):
            return self.newest(frames)[None]
        if self.frame_stride == 1:
            before = frames.new_zeros(self.taps - 1, *frames.shape[1:]) if past is None else past.squeeze(0)
            frames = torch.cat([before, frames])
        last = (len(frames) - self.taps) // self.frame_stride * self.frame_stride
        seen = [frames[tap : last + tap + 1 : self.frame_stride] for tap in range(self.taps)]
        return self.joined(torch.cat(seen, 1))[None]

    step = CausalConv3d.step


class AnyPatchEmbedding(PortablePatchEmbedding):
    """The patch embedding as matrix products, of clips of any shape."""

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:  # noqa: ARG002 (the reference's signature)
        return (self.noise if first == 0 else self.given)(patches_of(x))


def patches_of(x: Tensor) -> Tensor:
    """As `core.model.transformer.patchify`, in shapes that are products of F, h/2 and w/2 alone."""
    b, c, f, h, w = x.shape
    rows, columns = h // PATCH, w // PATCH
    x = x.reshape(b, c, f, rows, PATCH, columns, PATCH).permute(0, 2, 3, 5, 1, 4, 6)  # [B, F, h/2, w/2, C, 2, 2]
    return x.reshape(b, f * rows * columns, c * PATCH**2)


def picture_of(x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """As `core.model.transformer.unpatchify`, of h/2 rows and w/2 columns of tokens."""
    b, _, channels = x.shape
    c = channels // PATCH**2
    x = x.reshape(b, frames, rows, columns, PATCH, PATCH, c).permute(0, 6, 1, 2, 4, 3, 5)  # [B, C, F, h/2, 2, w/2, 2]
    return x.reshape(b, c, frames, PATCH * rows, PATCH * columns)


class AnyAudioToTokens(nn.Module):
    """preview's slices of audio tokens for any number of latent frames, each heard by eight rows.

    Frame i hears the rows 8i - 11 to 8i + 5; what lies outside is dropped and as many zero tokens follow at the end
    (`core.model.conditions.token_slices`), which shifts the rows of the first two frames.
    """

    SHIFT, WIDE, ROWS = 11, 17, 2 * TEMPORAL_STRIDE

    def __init__(self, audio: AudioToTokens) -> None:
        super().__init__()
        self.proj, self.norm = audio.proj, audio.norm

    def forward(self, features: Tensor, latent_frames: int, present: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """[B, 8·F, channels], present [B, 8·F] -> [B, F·17, D]."""
        tokens = self.norm(self.proj(features))
        if present is not None:
            tokens = tokens * present[..., None]
        b, rows, dim = tokens.shape
        frames = rows // self.ROWS
        zero = tokens.new_zeros(b, 1, dim)
        starts = torch.arange(frames)[:, None] * self.ROWS - self.SHIFT  # [F, 1]
        index = starts.clamp_min(0) + torch.arange(self.WIDE)[None]
        last = starts + self.WIDE  # the row behind the slice
        index = torch.where(index < last, index, rows)  # [F, 17]; behind the tokens lies a zero
        return torch.cat([tokens, zero], 1)[:, index.reshape(-1)]


RULES: Mapping[type[nn.Module], Callable[[Any], nn.Module]] = {
    SelfAttention: WholeSelfAttention,
    CrossAttention: WholeCrossAttention,
    AudioToTokens: AnyAudioToTokens,
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    CausalConv3d: JoinedConv3d,
    ChannelNorm: PortableChannelNorm,
    FrameAttention: WholeFrameAttention,
    MemoryBlock: PortableMemoryBlock,
    TinyVAE: fold_growths,
}


def make_whole(module: nn.Module, noise_channels: int = 16, inputs: Sequence[Tensor] | None = None) -> nn.Module:
    """A copy of `module` with these rewrites applied; see `applied`."""

    def rewrite(part: nn.Module) -> nn.Module | None:
        if isinstance(part, PatchEmbedding):
            return AnyPatchEmbedding(part, noise_channels)
        if (results := library_results(part)) is not None:
            return WholeHeads(part, results)
        if isinstance(part, nn.Sequential) and len(part) == 2 and isinstance(part[0], NearestDouble):
            return PortableUpsampling(part[1])
        rule = RULES.get(type(part))
        return rule(part) if rule else None

    return applied(module, rewrite, inputs)
