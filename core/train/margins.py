"""What preference training is for, read off the model itself: does it find undesired samples less likely than the clips they were
made from?

Up to a constant the flow-matching error is a negative log-likelihood, so a model that has learnt to avoid a kind of sample
predicts it worse. `preference_margins` measures the errors on held-out clips as they are and spoiled, under the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import NANO_CLIP, ClipSpec
from ..errors import InputError
from ..model.programs import Model
from .pool import ClipPool
from .preference import ALL_BUT_LATENT, Negative
from .puppets import PuppetClip
from .soup import TaskSoup
from .train_dit import DiTTraining, Draw, LatentCache, NanoModel, assemble, encode_frozen, weighted_error
from .train_vae import video_tensor

LEVELS = (0.3, 0.5, 0.7, 0.9)
"""Noise levels σ at which errors are taken."""

Margins = dict[str, NDArray[np.float64]]
"""Kind of negative -> [seeds, clips]: error on the undesired sample over the error on the clip itself, averaged over `LEVELS`."""


@torch.no_grad()
def preference_margins(
    model: Model,
    clips: Sequence[PuppetClip],
    kinds: Sequence[Negative] = ALL_BUT_LATENT,
    seeds: Sequence[int] = (0,),
    shift: int = 8,
    clip: ClipSpec = NANO_CLIP,
) -> Margins:
    """By kind, how many times worse the model predicts a clip's undesired twin than the clip: 1 where it does not mind.

    Each clip's twin is made as in training (`preference`), image-to-video with speech; misaligned audio is `shift` frames late.
    Errors count as in training, the mouth more.

    Raises:
        InputError: there are fewer than two clips, or the model has no encoders of its own.
    """
    if len(clips) < 2 or model.encoders is None:
        raise InputError(f"There are {len(clips)} clips, encoders: {model.encoders is not None}; give nano and two clips or more.")
    pool = ClipPool(
        np.stack([c.frames for c in clips]),
        np.stack([c.waveform[: clip.frames * clip.samples_per_frame] for c in clips]),
        np.stack([c.opening for c in clips]),
        np.array([c.mouth_box for c in clips]),
        [c.prompt for c in clips],
    )
    latents = torch.cat([model.vae.encode(video_tensor(frames[None])) for frames in pool.frames])
    frozen = encode_frozen(model.vae, pool, len(clips)) if Negative.FROZEN_MOUTH in kinds else None
    cache = LatentCache(latents, torch.zeros(0), {}, frozen)
    training = DiTTraining(tasks=TaskSoup((("i2v+a2v", 1.0),), hard=None, mislabelled=0.0))
    network = NanoModel(model.config, clip, encoders=False)
    network.dit, network.encoders = model.dit, model.encoders
    count = len(clips)
    own = np.arange(count)

    def errors(kind: Negative | None, level: float, noise: Tensor) -> NDArray[np.float64]:
        drawn = Draw(
            task=np.zeros(count, np.int64), shown=np.zeros(count, np.int64), clip=own, gain=np.ones(count),
            kept=np.ones((count, 3), bool), sigma=np.full(count, level), negative=[kind] * count, captioned=False,
            other=(own + 1) % count, shift=np.full(count, shift if kind is Negative.SHIFTED_AUDIO else 0),
        )  # fmt: skip
        batch = assemble(cache, pool, drawn, slice(0, count), training, model.config, clip)
        return np.asarray(weighted_error(network, batch, noise, training).flatten(1).mean(1), np.float64)

    found: dict[str, list[NDArray[np.float64]]] = {kind.value: [] for kind in kinds}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(latents.shape, generator=generator)
        as_is = {level: errors(None, level, noise) for level in LEVELS}
        for kind in kinds:
            ratios = [errors(kind, level, noise) / as_is[level] for level in LEVELS]
            found[kind.value].append(np.mean(ratios, axis=0))
    return {kind: np.stack(rows) for kind, rows in found.items()}
