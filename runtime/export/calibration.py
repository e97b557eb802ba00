"""What the transformer's programs are given when nano plays: calibration samples for roundings that look at data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from ...core.config import NANO_CLIP, ClipSpec
from ...core.model.conditions import Conditions
from ...core.model.programs import Model
from ...core.model.transformer import DiT
from ...core.plan import SamplingPlan
from ...core.train.generate import sample
from ...core.train.puppets import PuppetClip, draw_clip

CLIPS, FIRST_SEED, NOISE_SEED = 32, 100, 7_000_000  # drawn as in training, none of them held out
SHARES = 8  # each call keeps one clip in so many, in turn: many clips matter more than every step of each

Samples = dict[str, list[tuple[Tensor, ...]]]


@dataclass
class Recorder:
    """Stands in for a transformer while `sample` plays with it, and keeps what its two programs were given and gave."""

    dit: DiT
    encoded: list[tuple[Tensor, ...]] = field(default_factory=list)  # inputs of encode_conditions, by branch
    denoised: list[tuple[Any, ...]] = field(default_factory=list)  # arguments of denoise, in the order of steps and branches
    velocities: list[Tensor] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dit, name)

    def encode_conditions(self, *given: Tensor) -> Conditions:
        self.encoded.append(given)
        return self.dit.encode_conditions(*given)

    def denoise(self, *given: Any) -> Tensor:
        self.denoised.append(given)
        self.velocities.append(self.dit.denoise(*given))
        return self.velocities[-1]


def record(model: Model, clips: Sequence[PuppetClip], plan: SamplingPlan, seed: int, clip: ClipSpec = NANO_CLIP) -> Recorder:
    """Plays the clips together, in full precision."""
    recorder = Recorder(model.dit)
    sample(replace(model, dit=cast(DiT, recorder)), clips, plan, clip, seed)
    return recorder


def some_clips(tensors: Sequence[Tensor], conditions: Conditions, chosen: Tensor) -> tuple[Tensor, ...]:
    """Inputs of the denoise program for some clips of a batch. Keys and values are stacked over blocks first, then over clips."""
    stacked = {"text_k", "text_v", "image_k", "image_v", "audio_k", "audio_v"}
    parts = ((getattr(conditions, name), int(name in stacked)) for name in Conditions.names())
    return (*(tensor.index_select(0, chosen) for tensor in tensors), *(part.index_select(axis, chosen) for part, axis in parts))


@torch.no_grad()
def calibration_samples(model: Model, plan: SamplingPlan, clips: int = CLIPS, clip: ClipSpec = NANO_CLIP) -> Samples:
    """Calls of `denoise` and `encode_conditions` by program, as `quantise` takes them, from drawn clips of training's kind.

    A call has a batch of clips; a step and branch of the plan keeps one in SHARES of them, another one each time.
    """
    recorder = record(model, [draw_clip(FIRST_SEED + i, clip.frames) for i in range(clips)], plan, NOISE_SEED, clip)
    shares = min(SHARES, clips)
    samples: Samples = {"encode_conditions": list(recorder.encoded), "denoise": []}
    for number, (latents, time, modulation, weights, conditions, *_) in enumerate(recorder.denoised):
        chosen = torch.arange(number % shares, clips, shares)
        samples["denoise"].append(some_clips((latents, time, modulation, weights), conditions, chosen))
    return samples
