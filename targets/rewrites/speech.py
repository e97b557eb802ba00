"""wav2vec2, whose 1D convolutions are 2D ones, and whose stretching is a product with a constant matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.model.pretrained_speech import ABSENT
from ...core.model.programs import SpeechPerFrame, SpeechPerToken
from .tensors import frozen, joined


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
        self.conv.weight = frozen(conv.weight.detach()[:, :, None])
        if conv.bias is not None:
            self.conv.bias = frozen(conv.bias)

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
        self.conv_bias = None if conv.bias is None else frozen(conv.bias.detach())
        self.weight, self.bias = (frozen(value.detach().view(1, -1, 1, 1)) for value in (norm.weight, norm.bias))

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
        return x if self.stretch is None else joined(outputs, 2)
