"""Rotary embedding, self-attention, and CDCA: cross-attention to text, image and audio through one shared query.

Layouts: B batch, F latent frames, S tokens of one frame, N = F·S, H heads, d channels per head, D = H·d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import ConfigError


@dataclass(frozen=True)
class Riflex:
    """Slows one temporal frequency so that a clip longer than those of training does not repeat (RIFLEx).

    Frequency `index` (counted from 1) becomes 0.9·2π / `frames`, divided by `scale`.
    """

    frames: int
    index: int = 6
    scale: float = 4.886


def rope_angles(head_dim: int, frames: int, height: int, width: int, riflex: Riflex | None = None) -> Tensor:
    """Every token's angles in radians, float64 [N, d/2], tokens frame-major, then row, then column.

    The channel pairs are split into temporal, vertical and horizontal thirds, each with theta 10000 and positions from 0.

    Raises:
        ConfigError: RIFLEx asks for a frequency that the head does not have.
    """
    sixth = head_dim // 6
    parts = (head_dim - 4 * sixth, 2 * sixth, 2 * sixth)
    angles = []
    for axis, (size, positions) in enumerate(zip(parts, (frames, height, width), strict=True)):
        frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        if axis == 0 and riflex is not None:
            if not 1 <= riflex.index <= len(frequencies):
                raise ConfigError(
                    f"RIFLEx index is {riflex.index}; heads of {head_dim} have {len(frequencies)} temporal frequencies."
                )
            frequencies[riflex.index - 1] = 0.9 * 2 * torch.pi / riflex.frames / riflex.scale
        table = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies  # [positions, size/2]
        shape = [1, 1, 1, table.shape[1]]
        shape[axis] = positions
        angles.append(table.view(shape).expand(frames, height, width, -1))
    return torch.cat(angles, -1).reshape(frames * height * width, head_dim // 2)


def rope_tables(head_dim: int, frames: int, height: int, width: int, riflex: Riflex | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `rope_angles`, float32 [N, d/2]."""
    angles = rope_angles(head_dim, frames, height, width, riflex)
    return angles.cos().float(), angles.sin().float()


class Rotary(nn.Module):
    """Turns adjacent channel pairs (2i, 2i+1), in float32 where x has less. x: [B, N, H, d]; cos, sin: float32 [N, d/2]."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, cos.dtype)
        even, odd = x[..., 0::2].to(dtype), x[..., 1::2].to(dtype)
        cos, sin = cos[:, None].to(dtype), sin[:, None].to(dtype)  # [N, 1, d/2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v for q, k, v: [B, N, H, d] -> [B, N, H, d]."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


class SelfAttention(nn.Module):
    """All tokens of the clip attend to each other; queries and keys are RMS-normalised over all D channels before the heads
    split."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, config.eps)
        self.norm_k = nn.RMSNorm(dim, config.eps)
        self.rotary = Rotary()
        self.attention = Attention()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, n, dim = x.shape
        split = (b, n, self.heads, dim // self.heads)
        q = self.rotary(self.norm_q(self.q(x)).view(split), cos, sin)
        k = self.rotary(self.norm_k(self.k(x)).view(split), cos, sin)
        v = self.v(x).view(split)
        return self.o(self.attention(q, k, v).reshape(b, n, dim))


@dataclass(frozen=True)
class LayerConditions:
    """What one block attends to: keys and values [B, L, D] of text, image and audio (audio: L = F·tokens, frame by frame).

    `text_bias` [B, L] is added to the text logits: 0, or log m for a row that stands for m equal ones.
    """

    text_k: Tensor
    text_v: Tensor
    text_bias: Tensor
    image_k: Tensor
    image_v: Tensor
    audio_k: Tensor
    audio_v: Tensor


Modality = Literal["text", "image", "audio"]
PROJECTIONS: dict[Modality, tuple[str, str, str]] = {  # of keys, of values, and the keys' norm
    "text": ("k", "v", "norm_k"),
    "image": ("k_img", "v_img", "norm_k_img"),
    "audio": ("k_audio", "v_audio", "norm_k_audio"),
}


class CrossAttention(nn.Module):
    """CDCA, coupled-decoupled multi-modal cross-attention.

    One query looks at three sets of keys; a frame's tokens see only that frame's audio. Decoupled (the released checkpoints):
    three softmaxes, their outputs summed. Coupled: one softmax over the keys of all three, so that modalities compete for
    attention. In both, a modality's output is multiplied by its weight before the sum.
    """

    def __init__(self, config: ModelConfig, coupled: bool) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.coupled = config.heads, coupled
        self.q, self.k, self.v, self.o, self.k_img, self.v_img = (nn.Linear(dim, dim) for _ in range(6))
        self.k_audio, self.v_audio = (nn.Linear(dim, dim, bias=config.audio_path.bias) for _ in range(2))
        self.norm_q, self.norm_k, self.norm_k_img, self.norm_k_audio = (nn.RMSNorm(dim, config.eps) for _ in range(4))

    def keys_values(self, modality: Modality, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of one modality [B, L, D] -> their keys and values."""
        key, value, norm = (getattr(self, name) for name in PROJECTIONS[modality])
        return norm(key(tokens)), value(tokens)

    def forward(self, x: Tensor, conditions: LayerConditions, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x: [B, N, D]; weights of text, image, audio: broadcast against [B, F, S, 1] -> [B, N, D]."""
        b, n, dim = x.shape
        h, d, f = self.heads, dim // self.heads, weights[0].shape[1]
        s = n // f
        q = (self.norm_q(self.q(x)) * d**-0.5).view(b, n, h, d).permute(0, 2, 1, 3).reshape(b * h, n, d)

        # Logits per modality, [B·H, N, L]; audio in [B·H·F, S, L], each frame against its own keys.
        logits = []
        for keys in (conditions.text_k, conditions.image_k):
            transposed = keys.view(b, -1, h, d).permute(0, 2, 3, 1).reshape(b * h, d, -1)
            logits.append(torch.bmm(q, transposed))
        bias = conditions.text_bias.view(b, 1, 1, -1)
        logits[0] = (logits[0].view(b, h, n, -1) + bias).view(b * h, n, -1)
        audio_keys = conditions.audio_k.view(b, f, -1, h, d).permute(0, 3, 1, 4, 2).reshape(b * h * f, d, -1)
        logits.append(torch.bmm(q.reshape(b * h * f, s, d), audio_keys).reshape(b * h, n, -1))

        if self.coupled:
            joint = torch.softmax(torch.cat(logits, -1), -1)
            text_end = logits[0].shape[-1]
            image_end = text_end + logits[1].shape[-1]
            probabilities = [joint[..., :text_end], joint[..., text_end:image_end], joint[..., image_end:]]
        else:
            probabilities = [torch.softmax(part, -1) for part in logits]

        read, seen = (
            self._merge(torch.bmm(part, values.view(b, -1, h, d).permute(0, 2, 1, 3).reshape(b * h, -1, d)), b, f)
            for part, values in zip(probabilities[:2], (conditions.text_v, conditions.image_v), strict=True)
        )
        audio_values = conditions.audio_v.view(b, f, -1, h, d).permute(0, 3, 1, 2, 4).reshape(b * h * f, -1, d)
        heard = self._merge(torch.bmm(probabilities[2].reshape(b * h * f, s, -1), audio_values), b, f)
        out = read * weights[0] + seen * weights[1] + heard * weights[2]
        return self.o(out.reshape(b, n, dim))

    def _merge(self, x: Tensor, b: int, f: int) -> Tensor:
        """Heads back into channels: [B·H·…, …, d] -> [B, F, S, D]."""
        d = x.shape[-1]
        return x.reshape(b, self.heads, -1, d).permute(0, 2, 1, 3).reshape(b, f, -1, self.heads * d)
