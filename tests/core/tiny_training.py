"""A tiny model with nano's encoders, a pool of random clips and its latents: training steps take milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from echoedge.core.config import AudioConfig, ClipSpec, ModelConfig, VAEConfig
from echoedge.core.train.pool import ClipPool
from echoedge.core.train.preference import NDPO, Captions
from echoedge.core.train.soup import ModalSoup, TaskSoup
from echoedge.core.train.train_dit import DiTTraining, LatentCache

CLIP = ClipSpec(height=32, width=32, frames=9)  # 3 latent frames of 4×4, 4 tokens each
CLIPS, CACHED = 12, 6

CONFIG = ModelConfig(
    name="tiny", variant="flash", dim=24, heads=2, layers=2, ffn_dim=32, text_dim=8, text_len=64, image_dim=8, image_tokens=16,
    audio=AudioConfig(layers=1, channels=8, hidden=8, tokens=2), freq_dim=16, coupled_layers=1, encode_unknown=False,
    vae=VAEConfig(dim=4, res_blocks=1),
)  # fmt: skip


def tiny_pool(count: int = CLIPS) -> ClipPool:
    rng = np.random.default_rng(0)
    return ClipPool(
        frames=rng.integers(0, 256, (count, CLIP.frames, CLIP.height, CLIP.width, 3), dtype=np.uint8),
        waveforms=rng.normal(0, 0.1, (count, CLIP.frames * CLIP.samples_per_frame)).astype(np.float32),
        openings=rng.random((count, CLIP.frames)).astype(np.float32),
        boxes=np.tile(np.array([16, 26, 8, 24], np.int32), (count, 1)),
        prompts=[f"a man with hair number {i}" for i in range(count)],
    )


def tiny_cache(count: int = CLIPS, cached: int = CACHED) -> LatentCache:
    generator = torch.Generator().manual_seed(0)
    latent = (CLIP.latent_frames, CLIP.latent_height, CLIP.latent_width)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, *latent, generator=generator)

    return LatentCache(random(count, 16), random(cached, 20), {"flf2v": random(cached, 20)}, random(cached, 16))


def tiny_training(**changes: Any) -> DiTTraining:
    return DiTTraining(**{"steps": 4, "batch": 4} | changes)


WHOLE_METHOD = tiny_training(
    rate=0.1,  # its warm-up makes 1e-3 of the first step: what goes wrong then shows
    tasks=TaskSoup(decay=0.5, mislabelled=0.2),
    modals=ModalSoup(),
    ndpo=NDPO(share=0.5, cycle=2, least_shift=2),
    captions=Captions(share=0.3, least_shift=2),
)
