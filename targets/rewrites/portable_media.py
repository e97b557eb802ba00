"""Portable forms of what hears, sees and draws: wav2vec2, CLIP's visual tower, both autoencoders. Registered in `portable`.

Everything ends in operators that XNNPACK takes into one delegate: attention as 3D products, resizing and stretching as products
with constant matrices, 1D convolutions as 2D ones, means as products, nearest doubling and the convolution behind it as one
transposed convolution, convolutions over time in pairs of frames. Each computes what it replaces but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.model.pretrained_image import CLIP_MEAN, CLIP_STD
from ...core.model.pretrained_speech import ABSENT
from ...core.model.programs import PortraitEncoder, SpeechPerFrame, SpeechPerToken
from ...core.model.tiny_vae import Grow, MemoryBlock, TinyVAE
from ...core.model.vae import CausalConv3d, ChannelNorm, NearestDouble, Stream
from .portable import ChunkedAttention

# -- transformers ----------------------------------------------------------------------------------------------------------------


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


# -- portraits -------------------------------------------------------------------------------------------------------------------


def resize_matrix(size: int, target: int) -> Tensor:
    """The [target, size] matrix that resizes one axis bicubically as torch does in float32, without antialiasing."""
    return F.interpolate(torch.eye(size)[None, None], size=(target, size), mode="bicubic", align_corners=False)[0, 0]


class PortablePortrait(nn.Module):
    """CLIP's visual tower for portraits of one size: resized by one matrix for the columns and one for the rows."""

    columns: Tensor
    rows: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, portrait: PortraitEncoder) -> None:
        super().__init__()
        encoder = portrait.encoder
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        constants = {
            "columns": resize_matrix(portrait.width, encoder.image_size),
            "rows": resize_matrix(portrait.height, encoder.image_size),
            "scale": 0.5 / std,
            "shift": (0.5 - mean) / std,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.patch_embedding, self.pre_norm, self.blocks = encoder.patch_embedding, encoder.pre_norm, encoder.blocks
        self.cls_embedding, self.pos_embedding = encoder.cls_embedding, encoder.pos_embedding

    def forward(self, portrait: Tensor) -> Tensor:
        """[1, 3, H, W] in [-1, 1] -> [1, 1 + patches, dim]."""
        x = F.linear(portrait, self.columns).transpose(2, 3)  # [1, 3, W', H]
        x = F.linear(x, self.rows).transpose(2, 3) * self.scale + self.shift
        x = self.patch_embedding(x)  # [1, dim, h, w]
        x = x.view(1, x.shape[1], x.shape[2] * x.shape[3]).transpose(1, 2)
        x = self.pre_norm(torch.cat([self.cls_embedding, x], 1) + self.pos_embedding)
        for block in self.blocks:
            x = block(x, attention_mask=None, causal_attention_mask=None)[0]
        return x


# -- speech ----------------------------------------------------------------------------------------------------------------------


def stretch_matrix(size: int, target: int) -> Tensor:
    """The [target, size] matrix that stretches a sequence linearly, its ends on the ends, as torch does in float32."""
    return F.interpolate(torch.eye(size)[None], size=target, mode="linear", align_corners=True)[0].T.contiguous()


class PortableSequenceConv(nn.Module):
    """A 1D convolution as a 2D one over pictures of one row, [N, C, 1, L] -> [N, out, 1, L']."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        self.conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, (1, kernel), (1, stride), (0, int(padding)), groups=conv.groups,
            bias=conv.bias is not None, device="meta",
        )  # fmt: skip
        self.conv.weight = _frozen(conv.weight.detach()[:, :, None])
        if conv.bias is not None:
            self.conv.bias = _frozen(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PortableGivenNorm(nn.Module):
    """The norm of a convolution's channels over time, with the statistics of a sound of which x [1, C, 1, L] is a part: the mean
    and the covariance's factor of its windows, moments [1, K + 1, K] (core/sampling/hearing.py)."""

    kernel: Tensor
    ones: Tensor
    eps: Tensor

    def __init__(self, conv: nn.Conv1d, norm: nn.GroupNorm) -> None:
        super().__init__()
        taps = conv.kernel_size[0]
        self.register_buffer("kernel", conv.weight.detach()[:, 0].contiguous(), persistent=False)  # [C, K]
        self.register_buffer("ones", torch.ones(1, taps), persistent=False)
        self.register_buffer("eps", torch.full((1,), norm.eps), persistent=False)
        self.conv_bias = None if conv.bias is None else _frozen(conv.bias.detach())
        self.weight, self.bias = (_frozen(value.detach().view(1, -1, 1, 1)) for value in (norm.weight, norm.bias))

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        mean = F.linear(moments[:, :1], self.kernel, self.conv_bias).view(1, -1, 1, 1)
        deviations = F.linear(moments[:, 1:], self.kernel)  # [1, K, C]
        variance = F.linear((deviations * deviations).transpose(1, 2), self.ones, self.eps)  # [1, C, 1]
        return (x - mean) * torch.rsqrt(variance).view(1, -1, 1, 1) * self.weight + self.bias


class PortableSpeech(nn.Module):
    """wav2vec2 for readings of one length: every layer once per video frame (flash), or the last one's rows (preview)."""

    stretch: Tensor | None

    def __init__(self, ear: SpeechPerFrame | SpeechPerToken) -> None:
        super().__init__()
        encoder = ear.encoder
        rows = encoder.config.rows(ear.frames * ear.samples_per_frame)
        matrix = stretch_matrix(rows, ear.frames) if isinstance(ear, SpeechPerFrame) else None
        self.register_buffer("stretch", matrix, persistent=False)
        convolutions: list[Any] = list(encoder.feature_extractor.conv_layers)
        first, *later = convolutions
        self.first, self.first_norm = PortableSequenceConv(first.conv), PortableGivenNorm(first.conv, first.layer_norm)
        parts: list[nn.Module] = [nn.GELU()]
        for layer in later:
            parts += [PortableSequenceConv(layer.conv), nn.GELU()]
        self.features = nn.Sequential(*parts)
        self.projection_norm = encoder.feature_projection.layer_norm
        self.projection = encoder.feature_projection.projection
        self.positions = PortableSequenceConv(encoder.encoder.pos_conv_embed.conv)
        self.norm, self.layers = encoder.encoder.layer_norm, encoder.encoder.layers

    def forward(self, waveform: Tensor, moments: Tensor, present: Tensor) -> Tensor:
        """[1, samples], [1, K + 1, K], [1, rows] -> [1, frames, layers, dim] or [1, rows, dim]."""
        x = self.features(self.first_norm(self.first(waveform.view(1, 1, 1, waveform.shape[1])), moments))  # [1, C, 1, rows]
        x = x.view(1, x.shape[1], x.shape[3])
        if self.stretch is not None:
            x = F.linear(x, self.stretch)  # [1, C, frames]
        x = self.projection(self.projection_norm(x.transpose(1, 2)))  # [1, L, D]
        length, dim = x.shape[1:]
        x = x * present.view(1, length, 1)
        bias = ((1.0 - present) * ABSENT).view(1, 1, length)
        near = self.positions(x.transpose(1, 2).reshape(1, dim, 1, length))[..., :length]
        x = self.norm(x + F.gelu(near).reshape(1, dim, length).transpose(1, 2))
        outputs = []
        for layer in self.layers:
            x = layer(x, attention_mask=bias)[0]
            outputs.append(x.view(1, length, 1, dim))
        return x if self.stretch is None else _joined(outputs, 2)


# -- autoencoders ----------------------------------------------------------------------------------------------------------------


class PortableConv3d(nn.Module):
    """A causal 3D convolution as 2D ones, two frames at a time.

    With kernels g0, g1, g2 for the frames d0 … d3 the two new frames are y0 = g0·d0 + g1·d1 + g2·d2 and y1 = g0·d1 + g1·d2 + g2·d3:
    six convolutions. Four give the same sums (Winograd's F(2, 3), in time), with four kernels, of which the last one is also what a
    clip's first frame takes:

        m0 = g0·(d0-d2)   m1 = (g0+g1+g2)/2·(d1+d2)   m2 = (g0-g1+g2)/2·(d2-d1)   m3 = g2·(d1-d3)
        y0 = m0+m1+m2     y1 = m1-m2-m3

    A frame that is alone takes three, a clip's first one, whose past is zero, only g2.
    """

    def __init__(self, conv: CausalConv3d) -> None:
        super().__init__()
        self.taps, self.frame_stride = conv.taps, conv.frame_stride
        kernels = [conv.weight.detach()[:, :, tap].contiguous() for tap in range(conv.taps)]
        self.newest = _conv2d(kernels[-1], conv.bias, conv.padding)
        self.older = nn.ModuleList(_conv2d(kernel, None, conv.padding) for kernel in kernels[:-1])
        self.in_pairs = conv.taps == 3 and conv.frame_stride == 1
        if self.in_pairs:
            outer = kernels[0] + kernels[2]
            self.sum = _conv2d((outer + kernels[1]) / 2, conv.bias, conv.padding)
            self.difference = _conv2d((outer - kernels[1]) / 2, None, conv.padding)
            self.newest_alone = _conv2d(kernels[2], None, conv.padding)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        b, t, c, h, w = x.shape
        if self.taps == 1 or (past is None and t == 1 and self.frame_stride == 1):
            return self.newest(x.reshape(b * t, c, h, w)).view(b, t, -1, h, w)
        frames = _frames(x)
        if self.frame_stride == 1:
            before = [x.new_zeros(b, c, h, w)] * (self.taps - 1) if past is None else _frames(past)
            frames = before + frames
        count = (len(frames) - self.taps) // self.frame_stride + 1
        paired = count // 2 * 2 if self.in_pairs else 0
        results = [y for index in range(0, paired, 2) for y in self._two(*frames[index : index + 4])]
        results += [self._one(frames, index) for index in range(paired, count)]
        return _joined([y.view(b, 1, *y.shape[1:]) for y in results], 1)

    def _one(self, frames: list[Tensor], index: int) -> Tensor:
        start = index * self.frame_stride
        *older, newest = frames[start : start + self.taps]
        y = self.newest(newest)
        for conv, frame in zip(self.older, older, strict=True):
            y = y + conv(frame)
        return y

    def _two(self, d0: Tensor, d1: Tensor, d2: Tensor, d3: Tensor) -> tuple[Tensor, Tensor]:
        m0, m1 = self.older[0](d0 - d2), self.sum(d1 + d2)
        m2, m3 = self.difference(d2 - d1), self.newest_alone(d1 - d3)
        return m0 + m1 + m2, m1 - m2 - m3

    step = CausalConv3d.step


class PortableChannelNorm(nn.Module):
    """RMS norm over channels; the sum of squares is a 1×1 convolution with ones."""

    ones: Tensor

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        channels = norm.gamma.numel()
        self.register_buffer("ones", torch.ones(1, channels, 1, 1), persistent=False)
        self.scale = _frozen((norm.gamma.detach() * channels**0.5).view(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        x = x.reshape(b * t, c, h, w)
        squares = F.conv2d(x * x, self.ones)
        return (x * torch.rsqrt(squares + 1e-24) * self.scale).view(b, t, c, h, w)


class PortableUpsampling(nn.Module):
    """Nearest doubling and the 3×3 convolution behind it as one transposed convolution, [N, C, H, W] -> [N, out, 2H, 2W].

    A pixel of the doubled image sees two of the three low-resolution rows and columns around it, one of them with the sum of two
    taps. A transposed convolution of stride 2 and size 4 has just these: 4/9 of the products, and the doubled image never exists.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        # folds[p][k]: whether row k of the kernel is part of row p of the transposed one; output row 2i + a reads input row i + d
        # through p = a + 1 - 2d
        folds = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]).to(conv.weight)
        out, channels = conv.weight.shape[:2]
        self.conv = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=conv.bias is not None, device="meta")
        self.conv.weight = _frozen(torch.einsum("pk,ockl,ql->copq", folds, conv.weight.detach(), folds).contiguous())
        if conv.bias is not None:
            self.conv.bias = _frozen(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PortableGrow(nn.Module):
    """The tiny decoder's growth and the 3×3 convolution behind it: the doubling is folded as in `PortableUpsampling`."""

    def __init__(self, grow: Grow, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.frames, self.upsample = grow.stride, grow.conv, PortableUpsampling(conv)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.upsample(self.frames(x).reshape(n * self.stride, c, h, w))


class PortableMemoryBlock(MemoryBlock):
    """The tiny autoencoder's memory block for one clip, its first convolution split into what reads a frame and what reads the one
    before: frames that have none before them are not convolved with zeros. x: [T, C, H, W]."""

    def __init__(self, block: MemoryBlock) -> None:
        nn.Module.__init__(self)
        layers: list[Any] = list(block.conv)
        first, *later = layers
        channels = first.weight.shape[0]
        weight = first.weight.detach()
        self.present = _conv2d(weight[:, :channels].contiguous(), first.bias, 1)
        self.before = _conv2d(weight[:, channels:].contiguous(), None, 1)
        self.later = nn.Sequential(*later)

    def forward(self, x: Tensor, batch: int, stream: Stream) -> Tensor:
        if batch != 1:
            raise ConfigError(f"{batch} clips at once; a compiled autoencoder draws one.")
        count, past = x.shape[0], stream.take()
        last = x if count == 1 else x[count - 1 :]
        stream.kept.append(last)
        y = self.present(x)
        if past is not None:
            y = y + self.before(past if count == 1 else torch.cat([past, x[: count - 1]]))
        elif count > 1:
            y = torch.cat([y[:1], y[1:] + self.before(x[: count - 1])])
        return F.relu(self.later(y) + x)


def fold_growths(vae: TinyVAE) -> TinyVAE:
    """The tiny autoencoder with each growth and the convolution behind it as one module; in place. Layers keep their numbers."""
    layers: list[Any] = list(vae.decoder)
    for index, layer in enumerate(layers[:-1]):
        if isinstance(layer, Grow):
            vae.decoder[index] = PortableGrow(layer, layers[index + 1])
            vae.decoder[index + 1] = nn.Identity()
    return vae


# -- registration ----------------------------------------------------------------------------------------------------------------

RULES: dict[type[nn.Module], Any] = {
    SpeechPerFrame: PortableSpeech,
    SpeechPerToken: PortableSpeech,
    PortraitEncoder: PortablePortrait,
    CausalConv3d: PortableConv3d,
    ChannelNorm: PortableChannelNorm,
    MemoryBlock: PortableMemoryBlock,
    TinyVAE: fold_growths,
}
_LIBRARY_RESULTS = {"CLIPAttention": 2, "Wav2Vec2Attention": 3}  # of classes of transformers, which is not imported for this


def media_rule(module: nn.Module) -> nn.Module | None:
    """What replaces `module`, or None where it can stay."""
    kind = type(module)
    if kind.__module__.startswith("transformers.") and kind.__name__ in _LIBRARY_RESULTS:
        return PortableHeads(module, _LIBRARY_RESULTS[kind.__name__])
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], NearestDouble):
        return PortableUpsampling(module[1])
    rule = RULES.get(kind)
    return rule(module) if rule else None


def _frames(x: Tensor) -> list[Tensor]:
    """[B, T, C, H, W] -> T times [B, C, H, W]; a single one without a slice, which would be the whole and leave the delegate."""
    b, t, c, h, w = x.shape
    return [(x if t == 1 else x[:, index : index + 1]).reshape(b, c, h, w) for index in range(t)]


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    """Concatenation; of one tensor itself, because XNNPACK takes no concatenation of one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)


def _conv2d(weight: Tensor, bias: Tensor | None, padding: int) -> nn.Conv2d:
    """A convolution with these tensors themselves."""
    out, channels, size, _ = weight.shape
    conv = nn.Conv2d(channels, out, size, padding=padding, bias=bias is not None, device="meta")
    conv.weight = _frozen(weight)
    if bias is not None:
        conv.bias = _frozen(bias)
    return conv
