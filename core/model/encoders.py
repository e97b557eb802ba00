"""Encoders of speech, portrait and prompt. nano's are small modules trained with the model.

speech    waveform [B, samples] at 16 kHz         -> features [B, T, layers, channels], one row per video frame
portrait  picture [B, 3, H, W] in [-1, 1]         -> tokens [B, image_tokens, image_dim]
prompt    token ids [B, L]                        -> embeddings [B, L, text_dim]
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NANO_CLIP, ClipSpec, ModelConfig
from ..sampling.inputs import PAD_ID


class LogMel(nn.Module):
    """Log-mel energies in 20 ms windows every 10 ms, written as matrix products so that they export like any other layer."""

    cosines: Tensor
    sines: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, bands: int) -> None:
        super().__init__()
        self.hop = sample_rate // 100
        size = 2 * self.hop
        hann = torch.hann_window(size, periodic=True, dtype=torch.float64)
        angle = 2 * math.pi * torch.arange(size, dtype=torch.float64)[:, None] * torch.arange(1, self.hop + 1) / size
        self.register_buffer("cosines", (hann[:, None] * angle.cos()).T.float().contiguous(), persistent=False)  # [bins, size]
        self.register_buffer("sines", (hann[:, None] * angle.sin()).T.float().contiguous(), persistent=False)
        self.register_buffer("filters", _mel_filters(sample_rate, self.hop, bands), persistent=False)  # [bands, bins]

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, (n + 1)·hop] -> [B, n, bands]; roughly -1 … 1 for speech at -23 LUFS."""
        hops = waveform.view(waveform.shape[0], -1, self.hop)
        windows = torch.cat([hops[:, :-1], hops[:, 1:]], -1)
        real, imaginary = F.linear(windows, self.cosines), F.linear(windows, self.sines)
        return 0.25 * torch.log(F.linear(real * real + imaginary * imaginary, self.filters) + 1e-4) + 0.25


def _mel_filters(sample_rate: int, bins: int, bands: int) -> Tensor:
    """Triangular filters, [bands, bins], between 60 Hz and half the sample rate, equally spaced in mel (2595 log10(1 + f/700))."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    bottom = 2595 * math.log10(1 + 60 / 700)
    edges = 700 * (10 ** (torch.linspace(bottom, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.arange(1, bins + 1, dtype=torch.float64) * sample_rate / 2 / bins
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


class NanoAudioEncoder(nn.Module):
    """Log-mel energies of each video frame through a small MLP. It reads one hop beyond the last frame, so chunks equal the
    whole."""

    def __init__(self, config: ModelConfig, clip: ClipSpec = NANO_CLIP, bands: int = 32) -> None:
        super().__init__()
        self.layers, self.channels = config.audio.layers, config.audio.channels
        self.samples_per_frame = clip.samples_per_frame
        self.mel = LogMel(clip.sample_rate, bands)
        self.context_samples = self.mel.hop
        hops_per_frame = clip.samples_per_frame // self.mel.hop
        width = self.layers * self.channels
        self.mlp = nn.Sequential(nn.Linear(hops_per_frame * bands, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, T·samples_per_frame + context_samples] -> [B, T, layers, channels]."""
        frames = (waveform.shape[1] - self.context_samples) // self.samples_per_frame
        mel = self.mel(waveform).view(waveform.shape[0], frames, -1)
        return self.mlp(mel).view(waveform.shape[0], frames, self.layers, self.channels)


class NanoImageEncoder(nn.Module):
    """A grid of square patches, each through a small MLP with a learned position."""

    def __init__(self, config: ModelConfig, clip: ClipSpec = NANO_CLIP) -> None:
        super().__init__()
        side = math.isqrt(config.image_tokens)
        self.patch = clip.height // side
        width = 2 * config.image_dim
        self.embed = nn.Linear(3 * self.patch**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, config.image_tokens, width))
        self.project = nn.Linear(width, config.image_dim)

    def forward(self, portrait: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, image_tokens, image_dim]."""
        b, c, h, w = portrait.shape
        p = self.patch
        patches = portrait.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)
        return self.project(F.silu(self.embed(patches) + self.position))


class NanoTextEncoder(nn.Module):
    """Bytes to vectors, then two layers that each look two bytes to either side; rows beyond the prompt come out as zeros."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.text_dim
        self.embedding = nn.Embedding(PAD_ID + 1, dim, padding_idx=PAD_ID)
        self.layers = nn.ModuleList(nn.Linear(5 * dim, dim) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [B, L] -> [B, L, text_dim]."""
        present = (ids != PAD_ID).unsqueeze(-1).to(self.embedding.weight.dtype)
        x = self.embedding(ids)
        edge = x.new_zeros(x.shape[0], 2, x.shape[2])
        for layer in self.layers:
            padded = torch.cat([edge, x, edge], 1)
            near = torch.cat([padded[:, i : i + x.shape[1]] for i in range(5)], -1)
            x = (x + F.silu(layer(near))) * present
        return x


class NanoEncoders(nn.Module):
    """The three encoders of nano in one module, so that they are trained, saved and loaded together."""

    def __init__(self, config: ModelConfig, clip: ClipSpec = NANO_CLIP) -> None:
        super().__init__()
        self.audio = NanoAudioEncoder(config, clip)
        self.image = NanoImageEncoder(config, clip)
        self.text = NanoTextEncoder(config)
