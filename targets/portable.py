"""Rewrites of the reference's modules into forms that mobile compilers keep in one piece.

Each rewrite takes a module of the reference and returns one that computes the same with the same weights, in operators that XNNPACK
delegates: means as products with a constant, RoPE by halves, the tanh form of GELU through a sigmoid, attention as 3D matrix
products in query chunks, causal 3D convolutions as 2D ones, nearest doubling folded into the convolution behind it. `make_portable`
applies them all to a copy; tests prove each equal to what it replaces. Constants are float32: rewrite first, then convert.
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


class PortableConv3d(nn.Module):
    """A causal 3D convolution whose 2D kernels are laid out in advance: all taps, and the newest alone for a clip's first frame."""

    def __init__(self, conv: CausalConv3d) -> None:
        super().__init__()
        self.taps, self.frame_stride = conv.taps, conv.frame_stride
        self.newest = _conv2d(conv.taps_weight(1), conv.bias, conv.padding)
        self.all = _conv2d(conv.taps_weight(conv.taps), conv.bias, conv.padding) if conv.taps > 1 else None

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        b, t, c, h, w = x.shape
        if self.all is None or (past is None and t == 1 and self.frame_stride == 1):
            return self.newest(x.reshape(b * t, c, h, w)).view(b, t, -1, h, w)
        if self.frame_stride == 1:
            x = torch.cat([x.new_zeros(b, self.taps - 1, c, h, w) if past is None else past, x], 1)
        starts = range(0, x.shape[1] - self.taps + 1, self.frame_stride)
        if x.shape[1] == self.taps:
            windows = x
        else:
            windows = torch.cat([x[:, s : s + self.taps].reshape(b, 1, self.taps * c, h, w) for s in starts], 1)
        return self.all(windows.reshape(b * len(starts), self.taps * c, h, w)).view(b, len(starts), -1, h, w)

    step = CausalConv3d.step


class PortableChannelNorm(nn.Module):
    """RMS norm over channels; the sum of squares is a 1×1 convolution with ones."""

    ones: Tensor

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        channels = norm.gamma.numel()
        self.register_buffer("ones", torch.ones(1, channels, 1, 1), persistent=False)
        self.scale = nn.Parameter((norm.gamma.detach() * channels**0.5).view(1, channels, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        x = x.reshape(b * t, c, h, w)
        squares = F.conv2d(x * x, self.ones)
        return (x * torch.rsqrt(squares + 1e-24) * self.scale).view(b, t, c, h, w)


class PortableUpsampling(nn.Module):
    """Nearest doubling and the 3×3 convolution behind it as one convolution at low resolution and a shuffle of pixels.

    An output pixel of parity (a, b) sees two of the three low-resolution rows and columns around it, so four sets of 3×3 kernels,
    folded from the original one, give the four pixels of each 2×2 block. The doubled image never exists.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        # folds[a][row of the low-resolution kernel][row of the original kernel]
        folds = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
        weight = torch.einsum("aik,ockl,bjl->abocij", folds, conv.weight.detach(), folds)  # [2, 2, out, in, 3, 3]
        self.conv = _conv2d(weight.flatten(0, 2), conv.bias.detach().repeat(4), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out, 2H, 2W]."""
        n, _, h, w = x.shape
        y = self.conv(x)
        c = y.shape[1] // 4
        return y.view(n, 2, 2, c, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c, 2 * h, 2 * w)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def _conv2d(weight: Tensor, bias: Tensor, padding: int) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], padding=padding)
    conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv


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
    rules: dict[type[nn.Module], Any] = {
        nn.LayerNorm: PortableLayerNorm,
        nn.RMSNorm: PortableRMSNorm,
        CausalConv3d: PortableConv3d,
        ChannelNorm: PortableChannelNorm,
        PatchEmbedding: lambda patch: PortablePatchEmbedding(patch, noise_channels),
    }
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return PortableGELU()
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], NearestDouble):
        return PortableUpsampling(module[1])
    rule = rules.get(type(module))
    return rule(module) if rule else None


def make_portable(module: nn.Module, noise_channels: int = 16) -> nn.Module:
    """A copy of `module` with every rewrite applied; the original is left alone. Rewriting a rewritten module changes nothing."""
    module = copy.deepcopy(module).eval()
    module.requires_grad_(False)
    for part in list(module.modules()):
        if isinstance(part, SelfAttention):
            halve_rotary(part)
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            replacement = _rewrite(child, noise_channels)
            if replacement is not None:
                setattr(part, name, replacement)
    return _rewrite(module, noise_channels) or module


REWRITTEN = (nn.LayerNorm, nn.RMSNorm, CausalConv3d, ChannelNorm, NearestDouble, PatchEmbedding, Rotary, Attention)
