"""Soup-of-Tasks: one model, its task chosen by a mask over the video.

A mask is 1 where the model has to paint and 0 where the given video is known. The model reads it as four channels per latent
frame, and the VAE's encoding of the video with the unknown parts at mid grey. Tasks differ only in their masks; audio and text
are conditions that any task may have, so audio-to-video is any of them with speech.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TEMPORAL_STRIDE, ClipSpec
from ..errors import ConfigError


class Task(StrEnum):
    """Which parts of the clip are given. Values may be joined by "+": what any of them gives is known."""

    T2V = "t2v"  # nothing: the clip comes from text and audio
    I2V = "i2v"  # the first frame
    LAST = "last"  # the last frame
    FLF2V = "flf2v"  # the first and the last frame
    LIPSYNC = "lipsync"  # everything but the mouth
    A2V = "a2v"  # as t2v; says that speech is given


_KNOWN_FRAMES = {Task.T2V: (), Task.A2V: (), Task.I2V: (0,), Task.LAST: (-1,), Task.FLF2V: (0, -1)}


@dataclass(frozen=True)
class Box:
    """A rectangle in image pixels: rows y0 … y1-1, columns x0 … x1-1."""

    y0: int
    y1: int
    x0: int
    x1: int

    def check(self, clip: ClipSpec) -> None:
        if not (0 <= self.y0 < self.y1 <= clip.height and 0 <= self.x0 < self.x1 <= clip.width):
            raise ConfigError(f"{self} does not lie within a {clip.height}x{clip.width} frame.")


def parse_tasks(text: str) -> frozenset[Task]:
    """ "i2v+a2v" -> the set of both.

    Raises:
        ConfigError: a name is unknown; the message lists the known ones.
    """
    tasks = set()
    for name in text.lower().split("+"):
        name = name.strip()
        if name not in set(Task):
            near = difflib.get_close_matches(name, [task.value for task in Task], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"There is no task {name!r}. Choose from {', '.join(Task)}, joined by '+'.{hint}")
        tasks.add(Task(name))
    return frozenset(tasks)


def task_mask(tasks: frozenset[Task], clip: ClipSpec, mouth: Box | None = None) -> Tensor:
    """The mask of one clip, float32 [T, H, W]: 1 where the model paints.

    Raises:
        ConfigError: lip-sync without a mouth box, or a box outside the frame.
    """
    mask = torch.ones(clip.frames, clip.height, clip.width)
    if Task.LIPSYNC in tasks:
        if mouth is None:
            raise ConfigError("Lip-sync repaints the mouth of a given video: say where the mouth is, as a Box(y0, y1, x0, x1).")
        mouth.check(clip)
        mask.zero_()
        mask[:, mouth.y0 : mouth.y1, mouth.x0 : mouth.x1] = 1.0
    for task in tasks - {Task.LIPSYNC}:
        for frame in _KNOWN_FRAMES[task]:
            mask[frame] = 0.0
    return mask


def masked_video(video: Tensor, mask: Tensor) -> Tensor:
    """video [T, 3, H, W] in [-1, 1] with the parts to paint at mid grey (0); the mask [T, H, W] counts from 0.5 on."""
    return video * (mask < 0.5).to(video.dtype).unsqueeze(1)


def mask_latents(mask: Tensor, latent_height: int, latent_width: int) -> Tensor:
    """mask [T, H, W], 1 = paint -> [4, F, h, w], 1 = known: the four video frames of a latent frame in four channels.

    The first video frame counts four times, and its latent frame is resized apart from the others (UPSTREAM §5).
    """
    known = 1.0 - (mask >= 0.5).float()
    known = torch.cat([known[:1].expand(TEMPORAL_STRIDE, -1, -1), known[1:]])
    known = known.view(-1, TEMPORAL_STRIDE, *mask.shape[1:]).transpose(0, 1)[None]  # [1, 4, F, H, W]
    return resize_mask(known, known.shape[2], latent_height, latent_width)[0]


def resize_mask(mask: Tensor, frames: int, height: int, width: int, first_apart: bool = True) -> Tensor:
    """mask [B, C, F, H, W] -> [B, C, frames, height, width], trilinear without antialiasing.

    With `first_apart` the first frame stays the first one and only the others are resized in time. Source: upstream `resize_mask`.

    Raises:
        ConfigError: one frame is to become several, which leaves nothing for those after the first.
    """
    if not first_apart:
        return F.interpolate(mask, size=(frames, height, width), mode="trilinear", align_corners=False)
    first, later = mask[:, :, :1], mask[:, :, 1:]
    parts = [F.interpolate(first, size=(1, height, width), mode="trilinear", align_corners=False)]
    if frames > 1:
        if later.shape[2] == 0:
            raise ConfigError(f"A mask of one frame cannot become {frames} frames with its first apart. Set first_apart to False.")
        parts.append(F.interpolate(later, size=(frames - 1, height, width), mode="trilinear", align_corners=False))
    return torch.cat(parts, 2)


class VideoEncoder(Protocol):
    """video [B, T, 3, H, W] in [-1, 1] -> normalised latents [B, 16, F, h, w]; any engine's VAE."""

    def __call__(self, video: Tensor) -> Tensor: ...


def condition_latents(video: Tensor, mask: Tensor, clip: ClipSpec, encode: VideoEncoder, encode_unknown: bool) -> Tensor:
    """The model's `y` [1, 20, F, h, w]: mask latents, then masked-video latents.

    video [T, 3, H, W], mask [T, H, W]. Where the whole clip is to paint, both are zero. With `encode_unknown` the whole masked
    video is encoded (the released checkpoints); without it encoding stops after the last known frame and frames of which
    nothing is known get zeros.
    """
    y = torch.zeros(1, 4 + 16, clip.latent_frames, clip.latent_height, clip.latent_width)
    unknown = (mask >= 0.5).flatten(1).all(1)  # [T]
    if bool(unknown.all()):
        return y
    y[:, :4] = mask_latents(mask, clip.latent_height, clip.latent_width)
    given = masked_video(video, mask)
    if encode_unknown:
        y[:, 4:] = encode(given[None])
        return y
    last = int((~unknown).nonzero().max())
    chunks = -(-last // TEMPORAL_STRIDE)  # whole groups of four after the first frame
    latents = encode(given[None, : 1 + TEMPORAL_STRIDE * chunks])
    groups = torch.cat([unknown[:1].repeat(TEMPORAL_STRIDE), unknown[1:]]).view(-1, TEMPORAL_STRIDE).all(1)  # [F]
    y[:, 4:, : latents.shape[2]] = latents * (~groups[: latents.shape[2]]).view(1, 1, -1, 1, 1).to(latents.dtype)
    return y
