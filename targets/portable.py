"""Rewrites of the reference's modules into forms that mobile compilers keep in one piece.

Each rewrite takes a module of the reference and returns one that computes the same with the same weights, in operators that XNNPACK
delegates: means as products with a constant, RoPE by halves, the tanh form of GELU through a sigmoid, attention as 3D matrix
products in query chunks; those of encoders and autoencoders are in `portable_media`. `make_portable` applies them all to a copy;
tests prove each equal to what it replaces. Constants are float32: rewrite first, then convert.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.attention import Attention, Rotary, SelfAttention
from ..core.transformer import PatchEmbedding, patchify
from ..core.vae import CausalConv3d, ChannelNorm, NearestDouble

QUERY_CHUNK = 768  # rows of attention logits that exist at once


class ChannelMean(nn.Module):
    """Mean over the last dimension as a product with 1/D; a buffer, so that weight quantisation leaves it alone."""

    weight: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((1, dim), 1.0 / dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class PortableLayerNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.mean, self.eps = ChannelMean(norm.normalized_shape[0]), norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean(x)
        x = x * torch.rsqrt(self.mean(x * x) + self.eps)
        return x if self.weight is None else x * self.weight + self.bias


class PortableRMSNorm(nn.Module):
    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.mean, self.eps, self.weight = ChannelMean(norm.normalized_shape[0]), norm.eps, norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(self.mean(x * x) + self.eps) * self.weight


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
    """Attention as 3D products, QUERY_CHUNK queries at a time."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, n, h, d = q.shape
        q = (q * d**-0.5).permute(0, 2, 1, 3).reshape(b * h, n, d)
        k = k.permute(0, 2, 3, 1).reshape(b * h, d, n)
        v = v.permute(0, 2, 1, 3).reshape(b * h, n, d)
        chunks = [q] if n <= QUERY_CHUNK else [q[:, start : start + QUERY_CHUNK] for start in range(0, n, QUERY_CHUNK)]
        parts = [torch.bmm(torch.softmax(torch.bmm(chunk, k), -1), v) for chunk in chunks]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return out.view(b, h, n, d).permute(0, 2, 1, 3)


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
    """Reorders the rows of q and k (and their norms) within each head to (even | odd), so that RoPE needs no strided access;
    in place. Returns the attention; one that has been reordered already is left alone."""
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
    attention.rotary = HalfRotary()
    attention.attention = ChunkedAttention()
    return attention


def _rewrite(module: nn.Module, noise_channels: int) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    from .portable_media import media_rule

    rules: dict[type[nn.Module], Any] = {
        nn.LayerNorm: PortableLayerNorm,
        nn.RMSNorm: PortableRMSNorm,
        PatchEmbedding: lambda patch: PortablePatchEmbedding(patch, noise_channels),
    }
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return PortableGELU()
    rule = rules.get(type(module))
    return rule(module) if rule else media_rule(module)


def make_portable(module: nn.Module, noise_channels: int = 16) -> nn.Module:
    """A copy of `module` with every rewrite applied; the original is left alone. Rewriting a rewritten module changes nothing.

    Weights that stay as they are share the original's memory."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    module = copy.deepcopy(module, shared).eval()
    for part in list(module.modules()):
        if isinstance(part, SelfAttention):
            halve_rotary(part)
    for part in reversed(list(module.modules())):  # children first
        for name, child in list(part.named_children()):
            replacement = _rewrite(child, noise_channels)
            if replacement is not None:
                setattr(part, name, replacement)
    return _rewrite(module, noise_channels) or module


REWRITTEN = (nn.LayerNorm, nn.RMSNorm, CausalConv3d, ChannelNorm, NearestDouble, PatchEmbedding, Rotary, Attention)
