"""From encoder outputs to tokens: audio tokens of both variants, and the `Conditions` of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..config import AUDIO_RADIUS, SIZE_MULTIPLE, TEMPORAL_STRIDE, AudioConfig
from ..errors import ConfigError
from .attention import LayerConditions
from .masks import Box


@dataclass(frozen=True)
class Conditions:
    """Everything a denoising step needs that no step changes; the order of the fields is the order of the program's inputs.

    patch_bias [B, N, D]: the patch embedding of mask and masked latents, with its bias. Keys and values are stacked over blocks,
    [layers, B, L, D]. text_bias [B, L]. audio_mask [B, S]: which tokens of a frame hear the audio (1 or 0).
    """

    patch_bias: Tensor
    text_k: Tensor
    text_v: Tensor
    text_bias: Tensor
    image_k: Tensor
    image_v: Tensor
    audio_k: Tensor
    audio_v: Tensor
    audio_mask: Tensor

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in fields(cls)]

    def tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self.names()]

    def layer(self, index: int) -> LayerConditions:
        """Block `index`'s share; slices only, so that the step exports without gathers."""

        def at(stack: Tensor) -> Tensor:
            return stack[index : index + 1].view(stack.shape[1:])

        return LayerConditions(
            at(self.text_k), at(self.text_v), self.text_bias,
            at(self.image_k), at(self.image_v), at(self.audio_k), at(self.audio_v),
        )  # fmt: skip


# -- audio, flash ----------------------------------------------------------------------------------------------------------------


class AudioInjection(nn.Module):
    """flash: windows of speech features to tokens. A latent frame beyond the first covers four video frames and reads eight
    rows of their windows: the first frame's slots 0-2, the middle ones' centres, the last frame's slots 2-4."""

    def __init__(self, config: AudioConfig, dim: int) -> None:
        super().__init__()
        row = config.layers * config.channels
        self.tokens = config.tokens
        self.proj1 = nn.Linear((2 * AUDIO_RADIUS + 1) * row, config.hidden)
        self.proj1_vf = nn.Linear(8 * row, config.hidden)
        self.proj2 = nn.Linear(config.hidden, config.hidden)
        self.proj3 = nn.Linear(config.hidden, config.tokens * dim)
        self.norm = nn.LayerNorm(dim, 1e-5)

    def forward(self, windows: Tensor) -> Tensor:
        """windows: [B, T, 5, layers, channels], T = 4n+1 -> tokens [B, F·tokens, D]."""
        b, t, slots = windows.shape[:3]
        later_frames = (t - 1) // TEMPORAL_STRIDE
        windows = windows.reshape(b, t, slots, -1)
        hidden = torch.relu(self.proj1(windows[:, :1].reshape(b, 1, -1)))
        if later_frames:
            row = windows.shape[-1]
            groups = windows[:, 1:].reshape(b, later_frames, TEMPORAL_STRIDE * slots * row)
            centre = AUDIO_RADIUS

            def slot(frame: int, start: int, end: int) -> Tensor:
                return groups[:, :, (frame * slots + start) * row : (frame * slots + end) * row]

            rows = [slot(0, 0, centre + 1), slot(1, centre, centre + 1), slot(2, centre, centre + 1), slot(3, centre, slots)]
            hidden = torch.cat([hidden, torch.relu(self.proj1_vf(torch.cat(rows, -1)))], 1)  # [B, F, hidden]
        tokens = self.proj3(torch.relu(self.proj2(hidden)))
        return self.norm(tokens.reshape(b, (later_frames + 1) * self.tokens, -1))


# -- audio, preview --------------------------------------------------------------------------------------------------------------


def token_slices(length: int, latent_frames: int, widen: int = 4) -> list[list[int]]:
    """preview: which of `length` 50 Hz tokens each latent frame hears; -1 marks a zero token.

    The slices are 17 wide. Indices outside the sequence are dropped and as many zero tokens appended at the right end, also
    when the missing part is at the front: that is what the released weights were trained with.

    Raises:
        ConfigError: the sequence does not cover exactly `latent_frames` latent frames.
    """
    covered = (length // 2 - 1) // TEMPORAL_STRIDE + 1 if length >= 2 else 0
    if covered != latent_frames:
        raise ConfigError(
            f"{length} audio tokens cover {covered} latent frames; the clip has {latent_frames}. Pad or crop the audio."
        )
    ratio = length / (length // 2)
    half = int(TEMPORAL_STRIDE * ratio / 2)
    slices = []
    first_start = 0
    for i in range(latent_frames):
        if i == 0:
            start = end = 0
        else:
            centre = int(((ratio * (4 * (i - 1) + 1) - 4) + (ratio * (4 * i + 1) + 4)) / 2) - 1
            start, end = centre - half, centre + half
            if i == 1:
                first_start = start
        slices.append([start, end])
    if latent_frames == 1:
        first_start = 1
    slices[0] = [-(2 * half - first_start), first_start]
    rows = []
    for start, end in slices:
        wanted = range(start - widen, end + widen + 1)
        present = [index for index in wanted if 0 <= index < length]
        rows.append(present + [-1] * (len(wanted) - len(present)))
    return rows


def face_mask(face: Box, image_height: int, image_width: int, sample_height: int, sample_width: int) -> Tensor:
    """preview: the tokens of a frame that hear the audio, float32 [S], rows first: 1 within the face, 0 elsewhere.

    `face` is in pixels of the image that the clip of `sample_height` × `sample_width` pixels was resized from; what lies outside
    the image is cut off. Rows and columns are scaled alike, by the root of the areas' ratio, and rounded down to tokens of 16
    pixels. A face that does not reach into a second row and column of tokens gives an empty mask: then no token hears the audio.
    Source: upstream `get_ip_mask`.

    Raises:
        ConfigError: the box is inside out, or a size is not positive.
    """
    if face.y0 > face.y1 or face.x0 > face.x1:
        raise ConfigError(f"{face} is inside out. Give the upper and left edge first: Box(y0, y1, x0, x1).")
    if min(image_height, image_width, sample_height, sample_width) < 1:
        sizes = f"{image_height}x{image_width}, the clip {sample_height}x{sample_width}"
        raise ConfigError(f"The image is {sizes}; every side must be at least 1 pixel.")
    scale = math.sqrt(sample_height * sample_width / image_height / image_width)
    y0, y1, x0, x1 = (max(0, int(edge * scale // SIZE_MULTIPLE)) for edge in (face.y0, face.y1, face.x0, face.x1))
    mask = torch.zeros(sample_height // SIZE_MULTIPLE, sample_width // SIZE_MULTIPLE)
    mask[y0:y1, x0:x1] = 1.0
    return mask.flatten()


class AudioToTokens(nn.Module):
    """preview: each 50 Hz feature is a token; a latent frame gets its slice of them."""

    def __init__(self, config: AudioConfig, dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(config.channels, dim, bias=False)
        self.norm = nn.LayerNorm(dim, 1e-5)

    def forward(self, features: Tensor, latent_frames: int, present: Tensor | None = None) -> Tensor:
        """features: [B, L, channels] -> tokens [B, F·17, D]. Where `present` [B, L] is 0, which it may be at the end, the token is
        zero as those beyond the sequence are: a shorter sequence in a program of fixed length."""
        tokens = self.norm(self.proj(features))
        if present is not None:
            tokens = tokens * present.unsqueeze(-1)
        zero = tokens.new_zeros(tokens.shape[0], 1, tokens.shape[2])
        index = torch.tensor(token_slices(tokens.shape[1], latent_frames))
        return torch.cat([tokens, zero], 1)[:, index.flatten()]
