"""The tiny autoencoder of Wan 2.1's latents: a tenth of the VAE's parameters, for previews and slow phones.

Conventions
    As vae.py: video is [B, T, 3, H, W] in [-1, 1], latents are [B, 16, F, H/8, W/8], normalised, as the transformer reads and
    writes them; the VAE applies their mean and standard deviation, the tiny autoencoder was trained without. Inside, pictures are
    in [0, 1] and frames ride in the batch, [B·T, C, H, W]. Time exists in three places only: a memory block sees the frame before
    its own, a pool joins two frames, a growth makes two of one. What a chunk leaves for the next is one frame per memory block,
    [B, C, h, w].

    Decoding: each latent frame gives four frames, of which the clip's first three are dropped: the first latent frame holds one,
    as in the VAE.

    Encoding: each four frames give a latent frame, and a clip's last ones are filled up by repeating its last frame. So the n-th
    latent frame is read from the frames 4n … 4n+3 and what came before, while it stands for 4n-3 … 4n: unlike the VAE's encoder
    this one looks three frames ahead. A clip of 4n+1 frames is streamed as n chunks of four and one of a single frame. A clip whose
    first chunk is a single frame is encoded as if that frame had been repeated four times: right for a portrait, three frames late
    for a film.

Parameter names are those of the published file (madebyollin/taehv, taew2_1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TEMPORAL_STRIDE
from ..errors import ConfigError
from .pretrained import EncoderConfig, Shapes, assign, require_counts
from .vae import NearestDouble, Stream

POOLED = (2, 2, 1)  # frames that become one, by level of the encoder; each level halves the image
GROWN = (1, 2, 2)  # frames that one becomes, by level of the decoder; each level doubles the image


@dataclass(frozen=True)
class TinyVAEConfig(EncoderConfig):
    """Channels of the encoder, of the decoder's three levels and its end, and memory blocks per level."""

    encoder_width: int = 64
    decoder_widths: tuple[int, ...] = (256, 128, 64, 64)
    latent_channels: int = 16
    blocks: int = 3

    title = "tiny autoencoder"

    def __post_init__(self) -> None:
        require_counts(self, "encoder_width", "latent_channels", "blocks")
        if len(self.decoder_widths) != len(GROWN) + 1 or any(type(width) is not int or width < 1 for width in self.decoder_widths):
            raise ConfigError(f"decoder_widths is {self.decoder_widths!r}; it must be 4 whole numbers, at least 1 each.")

    def tensors(self) -> Shapes:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in TinyVAE(self).state_dict().items()}

    def build(self, tensors: Mapping[str, Tensor]) -> TinyVAE:
        self.require_exactly(tensors)
        return assign(TinyVAE, self, {name: tensor.float() for name, tensor in tensors.items()})


TAEW = TinyVAEConfig()


class SoftClamp(nn.Module):
    """Keeps latents within -3 … 3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3.0) * 3.0


class MemoryBlock(nn.Module):
    """A residual block that sees each frame and the one before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, batch: int, stream: Stream) -> Tensor:
        """x: [B·T, C, H, W]; its past [B, C, H, W] is the frame before the first, zero at the start of a clip."""
        n, c, h, w = x.shape
        frames = x.reshape(batch, n // batch * c, h, w)  # [B, T·C, H, W]
        past = stream.take()
        if past is None:
            past = x.new_zeros(batch, c, h, w)
        last = frames.shape[1] - c
        stream.kept.append(frames[:, last:])
        before = torch.cat([past, frames[:, :last]], 1).reshape(n, c, h, w) if last else past
        return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class TemporalPool(nn.Module):
    """`stride` frames become one, [B·T, C, H, W] -> [B·T/stride, C, H, W]; T is a multiple of it."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.conv(x.reshape(n // self.stride, self.stride * c, h, w))


class Grow(nn.Module):
    """One frame becomes `stride` of twice the height and width, [B·T, C, H, W] -> [B·T·stride, C, 2H, 2W].

    Upstream doubles the image first; a 1×1 convolution commutes with that, and costs a quarter before it.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, stride * channels, 1, bias=False)
        self.upsample = NearestDouble()

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.upsample(self.conv(x).reshape(n * self.stride, c, h, w))


class TinyVAE(nn.Module):
    """Encoder and decoder, with the interface of `VAE`."""

    def __init__(self, config: TinyVAEConfig = TAEW) -> None:
        super().__init__()
        self.config = config
        width, z = config.encoder_width, config.latent_channels
        down: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for stride in POOLED:
            down += [TemporalPool(width, stride), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)]
            down += [MemoryBlock(width) for _ in range(config.blocks)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(width, z, 3, padding=1))

        widths = config.decoder_widths
        up: list[nn.Module] = [SoftClamp(), nn.Conv2d(z, widths[0], 3, padding=1), nn.ReLU()]
        for stride, width, out in zip(GROWN, widths, widths[1:], strict=False):
            up += [MemoryBlock(width) for _ in range(config.blocks)]
            up += [nn.Identity(), Grow(width, stride)]  # upstream's doubling has a place of its own in the numbering
            up += [nn.Conv2d(width, out, 3, padding=1, bias=False)]
        self.decoder = nn.Sequential(*up, nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1))
        self._head = len(self.decoder) - 3  # the layers after the last growth: they see no other frame than their own

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: TinyVAEConfig = TAEW) -> TinyVAE:
        """The autoencoder with these weights, in float32 and inference mode.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of another shape; the message names the first few of each.
        """
        return config.build(tensors)

    # -- encode ------------------------------------------------------------------------------------------------------------------

    def _encode(self, video: Tensor, stream: Stream) -> Tensor:
        batch, frames, *picture = video.shape
        missing = -frames % TEMPORAL_STRIDE
        if missing:
            video = torch.cat([video, *[video[:, frames - 1 :]] * missing], 1)
        x = (video.reshape(batch * (frames + missing), *picture) + 1.0) / 2.0  # [B·T, 3, H, W]
        return self._run(self.encoder, x, batch, stream)  # [B·F, 16, h, w]

    def encode(self, video: Tensor) -> Tensor:
        """video: [B, T, 3, H, W] in [-1, 1] -> latents [B, 16, ⌈T/4⌉, h, w]."""
        latents = self._encode(video, Stream())
        return latents.view(video.shape[0], -1, *latents.shape[1:]).transpose(1, 2)

    def encode_chunk(self, video: Tensor, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """The next four frames of a clip, or what is left of it (`past` None at the start). -> latents [B, 16, 1, h, w], state."""
        stream = Stream(past)
        return self._encode(video, stream).unsqueeze(2), stream.kept

    # -- decode ------------------------------------------------------------------------------------------------------------------

    def _decode(self, latents: Tensor, batch: int, stream: Stream) -> Tensor:
        """latents: [B·F, 16, h, w] -> [B, T, 3, H, W]."""
        layers = list(self.decoder)
        x = self._run(layers[: self._head], latents, batch, stream)
        if stream.first:
            n, c, h, w = x.shape
            dropped = TEMPORAL_STRIDE - 1
            x = x.reshape(batch, n // batch * c, h, w)[:, dropped * c :].reshape(n - batch * dropped, c, h, w)
        x = self._run(layers[self._head :], x, batch, stream).clamp(0.0, 1.0) * 2.0 - 1.0
        return x.view(batch, x.shape[0] // batch, *x.shape[1:])

    def decode(self, latents: Tensor) -> Tensor:
        """latents: [B, 16, F, h, w] -> video [B, 4F-3, 3, H, W] in [-1, 1]."""
        return self._decode(latents.transpose(1, 2).flatten(0, 1), latents.shape[0], Stream())

    def decode_chunk(self, latents: Tensor, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """One latent frame [B, 16, 1, h, w] -> video [B, 1 or 4, 3, H, W] and the state for the next chunk (`past` None at the
        start)."""
        stream = Stream(past)
        b, z, _, h, w = latents.shape
        return self._decode(latents.reshape(b, z, h, w), b, stream), stream.kept

    @staticmethod
    def _run(layers: Iterable[nn.Module], x: Tensor, batch: int, stream: Stream) -> Tensor:
        for layer in layers:
            x = layer(x, batch, stream) if isinstance(layer, MemoryBlock) else layer(x)
        return x
