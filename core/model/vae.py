"""The causal 3D video autoencoder of Wan 2.1: one graph, whole clips or frame by frame.

Conventions
    Video is [B, T, 3, H, W] in [-1, 1]; latents are [B, 16, F, H/8, W/8], normalised per channel. T = 4(F-1)+1: the first
    latent frame holds one video frame, each later one holds four. Inside, frames ride in the batch, [B, T, C, H, W] flattened
    to [B·T, C, H, W], and a convolution over three frames is one 2D convolution over their concatenated channels: the same sums
    as conv3d, on operators that every mobile runtime has. Streaming state is explicit. A `Stream` hands each temporal
    convolution the frames it still needs from the past (zeros at the start) and collects what the next chunk will need; there
    is no hidden cache, so a chunk is a pure function and can be exported.

Parameter names are those of `Wan2.1_VAE.pth`. diffusers' AutoencoderKLWan computes the same values, but keeps its caches in Python
lists on the module and its frames in 5D convolutions, neither of which can leave as a streaming mobile program.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TEMPORAL_STRIDE, VAEConfig


class Stream:
    """The past frames that one pass over a chunk reads, and those that it leaves for the next chunk.

    Entries are in execution order. With `past=None` every convolution starts from zeros, which is the start of a clip.
    """

    def __init__(self, past: list[Tensor] | None = None) -> None:
        self.first = past is None
        self.past = past
        self.kept: list[Tensor] = []

    def take(self) -> Tensor | None:
        """The entry of the convolution that runs now; None at the start of a clip."""
        return None if self.past is None else self.past[len(self.kept)]


def _last_frames(past: Tensor | None, x: Tensor, count: int) -> Tensor:
    """The last `count` frames of past + x, [B, count, C, H, W], zeros in front where there are too few."""
    if x.shape[1] == count:
        return x
    if x.shape[1] > count:
        return x[:, x.shape[1] - count :]
    if past is None:
        return F.pad(x, (0, 0, 0, 0, 0, 0, count - x.shape[1], 0))
    have = past.shape[1] - (count - x.shape[1])  # of the past, what is too old
    return torch.cat([past[:, have:] if have else past, x], 1)


class FrameConv(nn.Module):
    """A 2D convolution applied to each frame, x: [B, T, C, H, W]."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        y = self.conv(x.reshape(b * t, c, h, w))
        return y.view(b, t, *y.shape[1:])


class CausalConv3d(nn.Module):
    """Convolution over `kernel[0]` frames ending at the present one, and a square window in space.

    weight: [out, in, kt, k, k], as upstream stores it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int], frame_stride: int = 1) -> None:
        super().__init__()
        kt, k = kernel
        self.taps, self.padding, self.frame_stride = kt, k // 2, frame_stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kt, k, k))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def taps_weight(self, taps: int) -> Tensor:
        """The newest `taps` temporal taps side by side in the channels: [out, taps·in, k, k]."""
        return self.weight[:, :, self.taps - taps :].transpose(1, 2).flatten(1, 2)

    def convolve(self, x: Tensor, taps: int) -> Tensor:
        """x: [B·T, taps·C, H, W], oldest tap first -> [B·T, out, H, W]."""
        return F.conv2d(x, self.taps_weight(taps), self.bias, padding=self.padding)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        """x: [B, T, C, H, W] with `past` [B, kt-1, C, H, W] before it -> [B, T', out, H, W].

        Without a past the taps that would read zeros are left out where a single frame makes them all zero.
        """
        b, t, c, h, w = x.shape
        if self.taps == 1 or (past is None and t == 1 and self.frame_stride == 1):
            return self.convolve(x.reshape(b * t, c, h, w), 1).view(b, t, -1, h, w)
        if self.frame_stride == 1:
            x = torch.cat([x.new_zeros(b, self.taps - 1, c, h, w) if past is None else past, x], 1)
        steps = range(0, x.shape[1] - self.taps + 1, self.frame_stride)
        last = steps[-1]
        windows = torch.cat([x[:, k : last + k + 1 : self.frame_stride] for k in range(self.taps)], 2)  # [B, T', taps·C, H, W]
        y = self.convolve(windows.reshape(b * len(steps), self.taps * c, h, w), self.taps)
        return y.view(b, len(steps), -1, h, w)

    def step(self, x: Tensor, stream: Stream) -> Tensor:
        """As `forward`, with the past read from and left in `stream`."""
        past = stream.take()
        stream.kept.append(_last_frames(past, x, self.taps - 1))
        return self(x, past)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels: x / max(||x||, 1e-12) · sqrt(C) · gamma. x: [B, T, C, H, W]."""

    def __init__(self, channels: int, gamma_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * gamma_dims))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        y = F.normalize(x.reshape(b * t, c, h, w), dim=1) * (c**0.5) * self.gamma.view(1, c, 1, 1)
        return y.view(b, t, c, h, w)


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(in_channels, 3), nn.SiLU(), CausalConv3d(in_channels, out_channels, (3, 3)),
            ChannelNorm(out_channels, 3), nn.SiLU(), nn.Identity(), CausalConv3d(out_channels, out_channels, (3, 3)),
        )  # fmt: skip
        self.shortcut = CausalConv3d(in_channels, out_channels, (1, 1)) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        y = x
        for layer in self.residual:
            y = _apply(layer, y, stream)
        return y + self.shortcut(x)


class FrameAttention(nn.Module):
    """Single-head self-attention among the pixels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        b, t, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x).view(b * t, c, h, w)).view(b * t, 3 * c, h * w)  # [B·T, 3C, HW]
        q, k, v = qkv[:, :c], qkv[:, c : 2 * c], qkv[:, 2 * c :]
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, -1)  # [B·T, HW, HW]
        y = torch.bmm(v, weights.transpose(1, 2)).view(b * t, c, h, w)
        return x + self.proj(y).view(b, t, c, h, w)


class PadRightBottom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1))


class NearestDouble(nn.Module):
    """Each pixel becomes a 2×2 block, x: [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest-exact")


class Downsample(nn.Module):
    """Halves the image; with `temporal` also the frames after the clip's first."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(PadRightBottom(), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv3d(channels, channels, (3, 1), frame_stride=2) if temporal else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        b, t, c, h, w = x.shape
        x = self.resample(x.reshape(b * t, c, h, w)).view(b, t, c, h // 2, w // 2)
        if self.time_conv is None:
            return x
        past = stream.take()  # the last frame before this chunk, [B, 1, C, H, W]
        stream.kept.append(x if t == 1 else x[:, t - 1 :])
        if past is not None:
            return self.time_conv(torch.cat([past, x], 1))
        return x if t == 1 else torch.cat([x[:, :1], self.time_conv(x)], 1)


class Upsample(nn.Module):
    """Doubles the image and halves the channels; with `temporal` each frame after the clip's first becomes two."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(NearestDouble(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1)) if temporal else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, self.time_conv, stream)
        b, t, c, h, w = x.shape
        return self.resample(x.reshape(b * t, c, h, w)).view(b, t, c // 2, 2 * h, 2 * w)

    @staticmethod
    def _double_frames(x: Tensor, time_conv: CausalConv3d, stream: Stream) -> Tensor:
        """[B, T, C, H, W] -> [B, 2T, C, H, W]; the clip's first frame stays single and is not part of any past."""
        b, t, c, h, w = x.shape
        head = x[:, :1] if stream.first else None
        tail = x[:, 1:] if stream.first else x
        past = stream.take()
        if past is None:
            past = x.new_zeros(b, time_conv.taps - 1, c, h, w)
        if tail.shape[1] == 0:
            stream.kept.append(past)
            return x
        stream.kept.append(_last_frames(past, tail, time_conv.taps - 1))
        doubled = time_conv(tail, past).view(b, 2 * tail.shape[1], c, h, w)  # channels [even frame | odd frame]
        return doubled if head is None else torch.cat([head, doubled], 1)


def _apply(layer: Any, x: Tensor, stream: Stream) -> Tensor:
    """One layer: temporal convolutions step along the stream, blocks pass it on, the others do without."""
    if hasattr(layer, "step"):
        return layer.step(x, stream)
    if isinstance(layer, (ResidualBlock, FrameAttention, Downsample, Upsample)):
        return layer(x, stream)
    return layer(x)


def _run(layers: nn.Sequential, x: Tensor, stream: Stream) -> Tensor:
    for layer in layers:
        x = _apply(layer, x, stream)
    return x


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (1, *config.multipliers)]
        levels = len(config.multipliers)
        self.conv1 = CausalConv3d(3, widths[0], (3, 3))
        down: list[nn.Module] = []
        for level in range(levels):
            channels, out = widths[level], widths[level + 1]
            for _ in range(config.res_blocks):
                down.append(ResidualBlock(channels, out))
                channels = out
            if level < levels - 1:
                down.append(Downsample(out, temporal=level > 0))
        self.downsamples = nn.Sequential(*down)
        top = widths[-1]
        self.middle = nn.Sequential(ResidualBlock(top, top), FrameAttention(top), ResidualBlock(top, top))
        self.head = nn.Sequential(ChannelNorm(top, 3), nn.SiLU(), CausalConv3d(top, 2 * config.latent_channels, (3, 3)))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv1.step(x, stream)
        for part in (self.downsamples, self.middle, self.head):
            x = _run(part, x, stream)
        return x


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (config.multipliers[-1], *reversed(config.multipliers))]
        levels = len(config.multipliers)
        top = widths[0]
        self.conv1 = CausalConv3d(config.latent_channels, top, (3, 3))
        self.middle = nn.Sequential(ResidualBlock(top, top), FrameAttention(top), ResidualBlock(top, top))
        up: list[nn.Module] = []
        for level in range(levels):
            channels, out = widths[level] // (2 if level > 0 else 1), widths[level + 1]
            for _ in range(config.res_blocks + 1):
                up.append(ResidualBlock(channels, out))
                channels = out
            if level < levels - 1:
                up.append(Upsample(out, temporal=level < 2))
        self.upsamples = nn.Sequential(*up)
        self.head = nn.Sequential(ChannelNorm(widths[-1], 3), nn.SiLU(), CausalConv3d(widths[-1], 3, (3, 3)))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv1.step(x, stream)
        for part in (self.middle, self.upsamples, self.head):
            x = _run(part, x, stream)
        return x


class VAE(nn.Module):
    """Encoder and decoder with the latent statistics of the configuration."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * z, 2 * z, (1, 1))
        self.conv2 = CausalConv3d(z, z, (1, 1))
        self.decoder = Decoder(config)
        for name in ("latents_mean", "latents_std"):
            value = torch.tensor(getattr(config, name)).view(1, 1, z, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Fan-in initialisation; the last convolution of a residual branch starts small, so that depth starts as identity."""
        for module in self.modules():
            if isinstance(module, (CausalConv3d, nn.Conv2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.residual[6].weight.mul_(0.3)  # type: ignore[union-attr, operator]
                elif isinstance(module, FrameAttention):
                    module.proj.weight.mul_(0.3)

    # -- encode ------------------------------------------------------------------------------------------------------------------

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video: [B, T, 3, H, W] in [-1, 1], T = 4n+1 -> mean (normalised) and log-variance (raw), both [B, F, 16, h, w]."""
        usable = (video.shape[1] - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        mean, log_variance = self.conv1(self.encoder(video[:, :usable], Stream())).chunk(2, 2)
        return (mean - self.latents_mean) / self.latents_std, log_variance

    def encode(self, video: Tensor) -> Tensor:
        """video: [B, T, 3, H, W] in [-1, 1] -> normalised mean [B, 16, F, h, w]. Frames beyond 4n+1 are not used."""
        return self.moments(video)[0].transpose(1, 2)

    def encode_chunk(self, video: Tensor, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One chunk of a clip: its first frame (`past` None) or the next four. -> latents [B, 16, 1, h, w], state."""
        stream = Stream(past)
        mean = self.conv1(self.encoder(video, stream))[:, :, : self.config.latent_channels]
        return ((mean - self.latents_mean) / self.latents_std).transpose(1, 2), stream.kept

    # -- decode ------------------------------------------------------------------------------------------------------------------

    def _decode(self, latents: Tensor, stream: Stream) -> Tensor:
        z = latents.transpose(1, 2) * self.latents_std + self.latents_mean  # [B, F, 16, h, w]
        return self.decoder(self.conv2(z), stream)

    def decode(self, latents: Tensor) -> Tensor:
        """latents: [B, 16, F, h, w] -> video [B, T, 3, H, W] in [-1, 1]."""
        return self._decode(latents, Stream()).clamp(-1, 1)

    def decode_chunk(self, latents: Tensor, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One latent frame [B, 16, 1, h, w] -> video [B, 1 or 4, 3, H, W] and the state for the next chunk (`past` None at the
        start)."""
        stream = Stream(past)
        return self._decode(latents, stream).clamp(-1, 1), stream.kept
