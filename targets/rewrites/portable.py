"""Rewrites of the reference's modules into forms that mobile compilers keep in one piece.

Each rewrite takes a module of the reference and returns one that computes the same with the same weights, in operators that XNNPACK
delegates: means as products with a constant, RoPE by halves, the tanh form of GELU through a sigmoid, attention as 3D matrix
products in query chunks, cross-attention that leaves the heads' layout once; those of encoders and autoencoders are in
`portable_media`. `make_portable` applies them all to a copy; tests prove each equal to what it replaces. Constants are float32:
rewrite first, then convert.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.model.attention import Attention, CrossAttention, LayerConditions, Rotary, SelfAttention
from ...core.model.conditions import AudioToTokens, token_slices
from ...core.model.transformer import PatchEmbedding, patchify
from ...core.model.vae import CausalConv3d, ChannelNorm, NearestDouble
from ..idle import drop_idle

LOGITS = 50_000_000  # attention logits that exist at once, 200 MB and as much again for their softmax

GELU = Literal["exact", "fast"]


def query_chunk(heads: int, queries: int, keys: int) -> int:
    """Rows of attention logits that exist at once: all where `LOGITS` allow, else a share of them in chunks of one size.

    Larger chunks are faster, for keys and values are packed once per chunk; products and softmax already run from cache.
    """
    chunks = -(-queries // max(1, LOGITS // (heads * keys)))
    return -(-queries // chunks)


class ChannelMean(nn.Module):
    """Mean over the last dimension, plus `more`, as a product with 1/D; buffers, so that weight quantisation leaves them alone.

    A sum behind the product would be an operator of its own, and one that Core ML's compiler stumbles over.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, dim: int, more: float | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((1, dim), 1.0 / dim), persistent=False)
        self.register_buffer("bias", None if more is None else torch.full((1,), more), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PortableLayerNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        dim = norm.normalized_shape[0]
        self.mean, self.mean_square = ChannelMean(dim), ChannelMean(dim, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean(x)
        x = x * torch.rsqrt(self.mean_square(x * x))
        return x if self.weight is None else x * self.weight + self.bias


class PortableRMSNorm(nn.Module):
    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.mean_square, self.weight = ChannelMean(norm.normalized_shape[0], norm.eps), norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(self.mean_square(x * x)) * self.weight


class PortableGELU(nn.Module):
    """GELU's tanh form: 0.5 (1 + tanh u) = sigmoid(2u)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.5957691216057308 * x * (0.044715 * x * x + 1.0))


class HalfRotary(nn.Module):
    """Rotary embedding for channels ordered (even | odd): the pair (2i, 2i+1) lies at (i, i + d/2)."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        n = cos.shape[0]
        cos, sin = cos.view(1, n, 1, half), sin.view(1, n, 1, half)
        even, odd = x[..., :half], x[..., half:]
        return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1)


class ChunkedAttention(nn.Module):
    """Attention as 3D products, `query_chunk` queries at a time. `scaled`: queries come multiplied by 1/√d."""

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """q, k, v [B, N, H, d] -> [B, N, H, d]. `bias` [1, 1, N], of keys, is added to the logits."""
        b, n, h, d = q.shape
        q = (q if self.scaled else q * d**-0.5).permute(0, 2, 1, 3).reshape(b * h, n, d)
        k = k.permute(0, 2, 3, 1).reshape(b * h, d, n)
        v = v.permute(0, 2, 1, 3).reshape(b * h, n, d)
        rows = query_chunk(b * h, n, n)
        chunks = [q] if rows == n else [q[:, start : start + rows] for start in range(0, n, rows)]

        def attend(chunk: Tensor) -> Tensor:
            logits = torch.bmm(chunk, k)
            return torch.bmm(torch.softmax(logits if bias is None else logits + bias, -1), v)

        parts = [attend(chunk) for chunk in chunks]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out.view(b, h, n, d).permute(0, 2, 1, 3)


class PortableCrossAttention(CrossAttention):
    """Cross-attention whose three outputs are weighed and summed head by head, and go back into channels once.

    1/√d lies in the weights of the queries' norm. Where the coupled form cuts one softmax into three, the decoupled one has three.
    """

    def __init__(self, attention: CrossAttention) -> None:
        nn.Module.__init__(self)
        self.heads, self.coupled = attention.heads, attention.coupled
        for name, child in attention.named_children():
            setattr(self, name, child)
        _scale_queries(self)

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


class PortableAudioToTokens(nn.Module):
    """preview's slices of audio tokens, cut and joined where the reference looks them up."""

    def __init__(self, audio: AudioToTokens) -> None:
        super().__init__()
        self.proj, self.norm = audio.proj, audio.norm

    def forward(self, features: Tensor, latent_frames: int, present: Tensor | None = None) -> Tensor:
        """[B, L, channels], present [B, L] -> [B, F·17, D]."""
        tokens = self.norm(self.proj(features))
        if present is not None:
            tokens = tokens * present.view(*present.shape, 1)
        parts = []
        for row in token_slices(tokens.shape[1], latent_frames):
            inside = [index for index in row if index >= 0]  # one behind the other
            parts.append(tokens[:, inside[0] : inside[-1] + 1])
            missing = len(row) - len(inside)
            if missing:
                parts.append(tokens[:, :missing] * 0.0)
        while len(parts) > 1:  # the backend joins no more than five at once
            parts = [torch.cat(parts[i : i + 4], 1) if len(parts) > i + 1 else parts[i] for i in range(0, len(parts), 4)]
        return parts[0]


class PortablePatchEmbedding(nn.Module):
    """The patch embedding as two matrix products: one for the noisy latents, one for mask and masked latents."""

    def __init__(self, patch: PatchEmbedding, noise_channels: int) -> None:
        super().__init__()
        dim, channels = patch.weight.shape[:2]
        self.noise = _linear(patch.weight[:, :noise_channels].flatten(1), None)
        self.given = _linear(patch.weight[:, noise_channels:].flatten(1), None)
        self.bias = patch.bias

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:  # noqa: ARG002 (the reference's signature)
        return (self.noise if first == 0 else self.given)(patchify(x))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def halve_rotary(attention: Any) -> Any:
    """Reorders the rows of q and k (and their norms) within each head to (even | odd), so that RoPE needs no strided access, and
    scales the queries' norm by 1/√d; in place. Returns the attention; one that has been reordered already is left alone."""
    if isinstance(attention.rotary, HalfRotary):
        return attention
    dim = attention.q.weight.shape[0]
    head = dim // attention.heads
    within = torch.cat([torch.arange(0, head, 2), torch.arange(1, head, 2)])
    order = (torch.arange(attention.heads)[:, None] * head + within).flatten()
    for linear in (attention.q, attention.k):
        linear.weight = nn.Parameter(linear.weight.detach()[order], requires_grad=False)
        linear.bias = nn.Parameter(linear.bias.detach()[order], requires_grad=False)
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight = nn.Parameter(norm.weight.detach()[order], requires_grad=False)
    _scale_queries(attention)
    attention.rotary = HalfRotary()
    attention.attention = ChunkedAttention(scaled=True)
    return attention


def _scale_queries(attention: Any) -> None:
    """Multiplies the weights of the queries' norm by 1/√d, in place of the queries."""
    weight = attention.norm_q.weight.detach()
    attention.norm_q.weight = nn.Parameter(weight * (len(weight) // attention.heads) ** -0.5, requires_grad=False)


def _rewrite(module: nn.Module, noise_channels: int, gelu: GELU) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    from .portable_media import media_rule

    rules: dict[type[nn.Module], Any] = {
        nn.LayerNorm: PortableLayerNorm,
        nn.RMSNorm: PortableRMSNorm,
        CrossAttention: PortableCrossAttention,
        AudioToTokens: PortableAudioToTokens,
        PatchEmbedding: lambda patch: PortablePatchEmbedding(patch, noise_channels),
    }
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return PortableGELU() if gelu == "exact" else nn.GELU()
    rule = rules.get(type(module))
    return rule(module) if rule else media_rule(module)


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
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    module = copy.deepcopy(module, shared).eval()
    if inputs is not None:
        drop_idle(module, inputs, keep_shapes=True)
    for part in list(module.modules()):
        if isinstance(part, SelfAttention):
            halve_rotary(part)
    for part in reversed(list(module.modules())):  # children first
        for name, child in list(part.named_children()):
            replacement = _rewrite(child, noise_channels, gelu)
            if replacement is not None:
                setattr(part, name, replacement)
    module = _rewrite(module, noise_channels, gelu) or module
    if inputs is not None:
        drop_idle(module, inputs)
    return module


REWRITTEN = (nn.LayerNorm, nn.RMSNorm, CausalConv3d, ChannelNorm, NearestDouble, PatchEmbedding, Rotary, Attention)
