"""Audio windows and token slices, masks and masked videos against upstream's."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from echoedge.core.config import AUDIO_RADIUS, TEMPORAL_STRIDE, AudioConfig
from echoedge.core.model.conditions import AudioInjection, token_slices
from echoedge.core.model.masks import mask_latents, masked_video, resize_mask
from echoedge.core.sampling.inputs import frame_windows

from .goldens import Comparison, Golden, check

SLOTS = 2 * AUDIO_RADIUS + 1


def windows_of(features: Tensor, frames: int) -> Tensor:
    """Features [A, ...] -> windows [1, frames, 5, ...]. Upstream clamps the windows of a sound that ends early at its last row; so
    does repeating that row."""
    missing = max(0, frames - len(features))
    lengthened = torch.cat([features, features[-1:].expand(missing, *features.shape[1:])])
    return frame_windows(lengthened[None])[:, :frames]


def injected_rows(windows: Tensor) -> tuple[Tensor, Tensor]:
    """What `AudioInjection` reads for the first latent frame [B, 1, 5, layers, channels] and the later ones [B, F-1, 8, ...]."""
    batch, _, _, layers, channels = windows.shape
    injection = AudioInjection(AudioConfig(layers=layers, channels=channels, hidden=1, tokens=1), dim=1)
    empty = torch.zeros(batch, 0, 8 * layers * channels)
    read = {"proj1": empty, "proj1_vf": empty}
    for name in read:
        getattr(injection, name).register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    with torch.no_grad():
        injection(windows)
    first, later = (read[name].unflatten(-1, (-1, layers, channels)) for name in read)
    return first, later


@check("audio_windows")
def audio(case: Golden) -> Iterator[Comparison]:
    """Flash cases hold windows around every video frame, preview cases the tokens of every latent frame."""
    recorded, call = case.tensors(), case.call
    for name, ours in (("window", SLOTS), ("stride", 1), ("vae_scale", TEMPORAL_STRIDE)):
        if name in call:
            yield f"call/{name}", ours, call[name]
    for name in recorded:
        if name.startswith("in/") and name.endswith("/embed"):
            yield from _windows(recorded, name.removeprefix("in/").removesuffix("/embed"))
    for length, result in case.results.items():
        if "error" not in result:  # upstream has no single latent frame; here it is as good as any
            yield from _slices(recorded, int(length), result, call["expand_length"])


def _windows(recorded: dict[str, Tensor], key: str) -> Iterator[Comparison]:
    """`key` names the video frames and the rows of sound, T9_A7; the recorded windows say both as well."""
    embed, windows = recorded[f"in/{key}/embed"], recorded[f"out/{key}/windows"]
    frames = windows.shape[1]
    centres = windows_of(torch.arange(len(embed))[:, None, None], frames)[0, :, :, 0, 0]
    yield f"out/{key}/center_indices", centres, recorded[f"out/{key}/center_indices"]
    ours = windows_of(embed, frames)
    yield f"out/{key}/windows", ours, windows
    first, later = injected_rows(ours)
    yield f"out/{key}/first", first, recorded[f"out/{key}/first"]
    if f"out/{key}/latter" in recorded:
        yield f"out/{key}/latter", later, recorded[f"out/{key}/latter"]


def _slices(recorded: dict[str, Tensor], length: int, result: dict, widen: int) -> Iterator[Comparison]:
    """Input token i has the value i + 1, and padding 0. `ranges_2512_variant_unused` is of a function that upstream never calls."""
    name = f"L{length}"
    slices = torch.tensor(token_slices(length, result["latent_frames"], widen))  # [F, tokens], -1 for padding
    tokens = recorded[f"out/{name}/tokens"]
    counts = (slices >= 0).sum(1)
    yield f"out/{name}/tokens", (slices + 1)[None, :, :, None].expand(-1, -1, -1, tokens.shape[3]), tokens
    yield f"out/{name}/k_lens", counts, recorded[f"out/{name}/k_lens"]
    yield f"results/{length}/k_lens", counts.tolist(), result["k_lens"]
    yield f"results/{length}/num_frames", length // 2, result["num_frames"]
    yield f"results/{length}/shape", [1, *slices.shape, tokens.shape[3]], result["shape"]
    ranges = [_range(row) for row in token_slices(length, result["latent_frames"], 0)]
    yield f"results/{length}/ranges", ranges, result["ranges"]


def _range(row: list[int]) -> list[int]:
    """First and last index of a slice, counting those beyond the front, where the slice begins, or beyond the end."""
    present = [index for index in row if index >= 0]
    if present[0] == 0:
        return [present[-1] - len(row) + 1, present[-1]]
    return [present[0], present[0] + len(row) - 1]


@check("mask")
def masks(case: Golden) -> Iterator[Comparison]:
    """Measured: equal, at a tolerance of 1e-4."""
    recorded = case.tensors()
    for name, theirs in recorded.items():
        _, _, key = name.partition("/")
        if name.startswith("out/mask_latents_"):
            masks = recorded[f"in/mask_{key.removeprefix('mask_latents_')}"][:, 0]  # [B, T, H, W]
            yield name, torch.stack([mask_latents(mask, *theirs.shape[3:]) for mask in masks]), theirs
        elif name.startswith("out/masked_video_"):
            key = key.removeprefix("masked_video_")
            videos = recorded[f"in/video_{key}"].transpose(1, 2) * 2 - 1  # upstream's 0 … 1
            pairs = zip(videos, recorded[f"in/mask_{key}"][:, 0], strict=True)
            yield name, torch.stack([masked_video(video, mask) for video, mask in pairs]).transpose(1, 2), theirs
        elif name.startswith("out/first_only"):
            yield name, resize_mask(recorded[f"in/mask{key.removeprefix('first_only')}"], *theirs.shape[2:]), theirs
        elif name.startswith("out/plain"):
            mask = recorded[f"in/mask{key.removeprefix('plain')}"]
            yield name, resize_mask(mask, *theirs.shape[2:], first_apart=False), theirs
