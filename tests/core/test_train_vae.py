"""core/train/train_vae.py: it learns, resumes to the same weights, goes on from given ones, and weighs mouth and motion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoedge.core.config import NANO, ModelConfig, VAEConfig
from echoedge.core.errors import ConfigError
from echoedge.core.model.vae import VAE, CausalConv3d
from echoedge.core.train import train_vae as module
from echoedge.core.train.pool import ClipPool
from echoedge.core.train.puppets import draw_clip
from echoedge.core.train.train_vae import VAETraining, draw_frames, picture_loss, train_vae

SMALL: ModelConfig = replace(NANO, vae=VAEConfig(4, (1, 2, 2, 2), 1, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16))
SHORT = VAETraining(image_steps=30, image_batch=4, image_rate=0.02, clip_steps=2, lengths=(5,), frames_per_step=10, ema=0.9)


@pytest.fixture(scope="module")
def pool() -> ClipPool:
    clips = [draw_clip(seed, frames=9, size=16) for seed in range(16)]
    return ClipPool(
        frames=np.stack([clip.frames for clip in clips]),
        waveforms=np.stack([clip.waveform for clip in clips]),
        openings=np.stack([clip.opening for clip in clips]),
        boxes=np.array([clip.mouth_box for clip in clips]),
        prompts=[clip.prompt for clip in clips],
    )


def error(vae: VAE, pool: ClipPool) -> float:
    video = module.video_tensor(pool.frames[:, :5])
    with torch.no_grad():
        return float((vae.decode(vae.encode(video)) - video).square().mean())


@pytest.fixture(scope="module")
def trained(pool: ClipPool, tmp_path_factory: pytest.TempPathFactory) -> VAE:
    return train_vae(SMALL, pool, tmp_path_factory.mktemp("whole"), SHORT)


def test_it_learns(trained: VAE, pool: ClipPool, tmp_path: Path) -> None:
    untrained = train_vae(SMALL, pool, tmp_path, replace(SHORT, image_steps=1, clip_steps=0, image_rate=0.0))
    assert error(trained, pool) < 0.6 * error(untrained, pool)


def test_latents_come_out_normalised(trained: VAE, pool: ClipPool) -> None:
    with torch.no_grad():
        latents = trained.encode(module.video_tensor(pool.frames))
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3, 4)) - 1).abs().max() < 1e-3


def test_an_interrupted_run_ends_where_a_whole_one_does(
    trained: VAE, pool: ClipPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 10)
    drawn = module.draw_frames

    def interrupted(pool: ClipPool, rng: np.random.Generator, training: VAETraining, step: int) -> tuple[torch.Tensor, np.ndarray]:
        if step == 25:
            raise KeyboardInterrupt
        return drawn(pool, rng, training, step)

    monkeypatch.setattr(module, "draw_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_vae(SMALL, pool, tmp_path, SHORT)
    monkeypatch.setattr(module, "draw_frames", drawn)
    resumed = train_vae(SMALL, pool, tmp_path, SHORT)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    again = train_vae(SMALL, pool, tmp_path, SHORT)
    assert torch.equal(again.conv2.weight, trained.conv2.weight)


def test_a_run_with_other_options_is_not_resumed(pool: ClipPool, tmp_path: Path) -> None:
    train_vae(SMALL, pool, tmp_path, replace(SHORT, image_steps=1, clip_steps=0))
    with pytest.raises(ConfigError, match=r"vae\.pt belongs to a run with image_steps 1, not 2"):
        train_vae(SMALL, pool, tmp_path, replace(SHORT, image_steps=2, clip_steps=0))


def test_it_goes_on_from_given_weights(trained: VAE, pool: ClipPool, tmp_path: Path) -> None:
    still = replace(SHORT, image_steps=1, clip_steps=0, image_rate=0.0)
    assert error(train_vae(SMALL, pool, tmp_path, still, trained), pool) == pytest.approx(error(trained, pool), rel=1e-3)


def test_single_frames_move_the_newest_taps_alone(pool: ClipPool, tmp_path: Path) -> None:
    vae = train_vae(SMALL, pool, tmp_path, replace(SHORT, image_steps=2, clip_steps=0))
    for conv in vae.decoder.modules():
        if isinstance(conv, CausalConv3d) and conv.taps > 1 and conv.padding:
            assert not conv.weight[:, :, :-1].any()
            assert conv.weight[:, :, -1].any()


def test_stages_draw_frames_then_clips(pool: ClipPool) -> None:
    rng = np.random.default_rng(0)
    assert draw_frames(pool, rng, SHORT, 29)[0].shape == (4, 1, 3, 16, 16)
    video, clips = draw_frames(pool, rng, SHORT, 30)
    assert video.shape == (2, 5, 3, 16, 16)
    assert clips.shape == (2,)


def test_errors_in_the_mouth_and_its_motion_weigh_more() -> None:
    training = VAETraining(mouth_weight=3.0, motion_weight=1.0)
    video, boxes = torch.zeros(1, 5, 3, 16, 16), np.array([[8, 12, 4, 12]])

    def loss(rows: slice, frames: slice) -> float:
        rebuilt = video.clone()
        rebuilt[:, frames, :, rows, 4:12] = 0.1
        return float(picture_loss(rebuilt, video, boxes, training)[0])

    every, one = slice(0, 5), slice(2, 3)
    assert loss(slice(8, 12), every) == pytest.approx(3 * loss(slice(12, 16), every), rel=1e-5)
    assert loss(slice(8, 12), one) > 3.5 * loss(slice(12, 16), one)
