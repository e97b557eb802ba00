"""Training of nano's transformer and encoders by flow matching on cached latents, tasks mixed by their masks.

x_σ = (1-σ) x₀ + σ ε, velocity ε - x₀, timestep 1000 σ; σ is logit-normal, shifted towards noise as the sampler's schedule is.
Audio, text and portrait are dropped now and then, so that guidance has an unconditional branch. Exponential averages of the
weights are what ships.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..conditions import frame_windows
from ..config import NANO_CLIP, ClipSpec, ModelConfig
from ..encoders import NanoEncoders, byte_ids
from ..tasks import Box, Task, condition_latents, mask_latents, task_mask
from ..transformer import DiT
from ..vae import VAE
from .checkpoint import load_checkpoint, save_checkpoint
from .pool import Pool
from .train_vae import cosine_rate, video_tensor


@dataclass(frozen=True)
class DiTTraining:
    """Steps, batch, rates, and how often each task and each dropped condition is drawn (shares of the batch)."""

    steps: int = 1300
    batch: int = 16
    rate: float = 1e-3
    mouth_weight: float = 3.0
    shift: float = 3.0
    drop_audio: float = 0.1
    drop_text: float = 0.1
    share_t2v: float = 0.08
    share_lipsync: float = 0.12
    clips: int = 1600
    lipsync_clips: int = 320
    gain_db: float = 5.0
    ema: float = 0.998
    seed: int = 1


class NanoModel(nn.Module):
    """What is trained together: the transformer and the encoders that feed it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dit = DiT(config)
        self.encoders = NanoEncoders(config)


@dataclass(frozen=True)
class LatentCache:
    """Latents of the pool's clips [N, 16, F, h, w], and for the first clips the `y` of lip-sync [M, 20, F, h, w]."""

    latents: Tensor
    lipsync: Tensor


def cache_latents(vae: VAE, pool: Pool, path: Path, clips: int, lipsync_clips: int, clip: ClipSpec = NANO_CLIP) -> LatentCache:
    """Encodes the pool's first `clips` clips once; later calls read `path`."""
    saved = load_checkpoint(path)
    if saved is None:
        with torch.no_grad():
            latents = torch.cat([vae.encode(video_tensor(pool.frames[i : i + 8])) for i in range(0, min(clips, len(pool)), 8)])
            rows = []
            for i in range(lipsync_clips):
                y0, y1, x0, x1 = pool.boxes[i].tolist()
                mask = task_mask(frozenset({Task.LIPSYNC, Task.I2V}), clip, Box(y0, y1, x0, x1))
                rows.append(condition_latents(video_tensor(pool.frames[i]), mask, clip, vae.encode, encode_unknown=False))
        saved = {"latents": latents.half(), "lipsync": torch.cat(rows).half()}
        save_checkpoint(path, saved)
    return LatentCache(saved["latents"].float(), saved["lipsync"].float())


def mouth_latent_mask(boxes: np.ndarray, clip: ClipSpec) -> Tensor:
    """boxes [B, 4] in pixels -> [B, 1, 1, h, w]: 1 on latent pixels that the mouth box touches."""
    mask = torch.zeros(len(boxes), 1, 1, clip.latent_height, clip.latent_width)
    stride = clip.height // clip.latent_height
    for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        mask[i, ..., y0 // stride : -(-y1 // stride), x0 // stride : -(-x1 // stride)] = 1.0
    return mask


def draw_batch(
    cache: LatentCache, pool: Pool, rng: np.random.Generator, training: DiTTraining, clip: ClipSpec
) -> dict[str, Tensor]:
    """One batch: clean latents, `y` of the drawn tasks, waveforms at random gain, prompts' bytes, portraits, and what is
    dropped."""
    size = training.batch
    task = rng.choice(3, size, p=[1 - training.share_t2v - training.share_lipsync, training.share_t2v, training.share_lipsync])
    index = rng.integers(0, len(cache.latents), size)
    index[task == 2] = rng.integers(0, len(cache.lipsync), int((task == 2).sum()))
    latents = cache.latents[index]
    y = torch.zeros(size, 20, *latents.shape[2:])
    first = mask_latents(task_mask(frozenset({Task.I2V}), clip), clip.latent_height, clip.latent_width)
    for i in range(size):
        if task[i] == 0:
            y[i, :4] = first
            y[i, 4:, 0] = latents[i, :, 0]
        elif task[i] == 2:
            y[i] = cache.lipsync[index[i]]
    gain = 10 ** (rng.uniform(-training.gain_db, training.gain_db, (size, 1)) / 20)
    waveform = torch.from_numpy((pool.waveforms[index] * gain).astype(np.float32))
    keep_text = rng.random(size) >= training.drop_text
    return {
        "latents": latents,
        "y": y,
        "waveform": waveform,
        "ids": torch.cat([byte_ids(pool.prompts[i] if keep else "", 64)[0] for i, keep in zip(index, keep_text, strict=True)]),
        "portrait": video_tensor(pool.frames[index, :1])[:, 0],
        "has_portrait": torch.from_numpy(task != 1).float(),
        "has_audio": torch.from_numpy(rng.random(size) >= training.drop_audio).float(),
        "mouth": mouth_latent_mask(pool.boxes[index], clip),
        "sigma": _sigmas(rng, size, training.shift),
    }


def _sigmas(rng: np.random.Generator, size: int, shift: float) -> Tensor:
    sigma = 1 / (1 + np.exp(-rng.normal(0.0, 1.0, size)))
    return torch.from_numpy(shift * sigma / (1 + (shift - 1) * sigma)).float()


def flow_loss(model: NanoModel, batch: dict[str, Tensor], training: DiTTraining) -> Tensor:
    encoders = model.encoders
    waveform = torch.nn.functional.pad(batch["waveform"], (0, encoders.audio.context_samples))
    features = encoders.audio(waveform) * batch["has_audio"].view(-1, 1, 1, 1)
    image = encoders.image(batch["portrait"]) * batch["has_portrait"].view(-1, 1, 1)
    text = encoders.text(batch["ids"])
    clean = batch["latents"]
    noise = torch.randn_like(clean)
    sigma = batch["sigma"].view(-1, 1, 1, 1, 1)
    noisy = (1 - sigma) * clean + sigma * noise
    velocity = model.dit(noisy, 1000 * batch["sigma"], batch["y"], text, image, frame_windows(features))
    weight = 1 + (training.mouth_weight - 1) * batch["mouth"]
    return (weight * (velocity - (noise - clean)).square()).mean()


def train_dit(
    config: ModelConfig,
    cache: LatentCache,
    pool: Pool,
    workdir: Path,
    training: DiTTraining,
    clip: ClipSpec = NANO_CLIP,
    report_every: int = 50,
) -> NanoModel:
    """Trains (or resumes, or loads a finished run of) the transformer and encoders; writes `dit.pt` and `dit.log`."""
    torch.manual_seed(training.seed)
    model, average = NanoModel(config), NanoModel(config)
    average.load_state_dict(model.state_dict())
    average.eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.rate, betas=(0.9, 0.98), weight_decay=0.01)
    step = 0
    saved = load_checkpoint(workdir / "dit.pt")
    if saved is not None:
        average.load_state_dict(saved["average"])
        step = saved["step"]
        if step >= training.steps:
            return average
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
    started = time.monotonic()
    losses: list[float] = []
    with open(workdir / "dit.log", "a") as log:
        while step < training.steps:
            rng = np.random.default_rng((training.seed, step))
            torch.manual_seed(training.seed * 1_000_003 + step)
            batch = draw_batch(cache, pool, rng, training, clip)
            for group in optimiser.param_groups:
                group["lr"] = cosine_rate(step, training.steps, training.rate, warmup=100)
            loss = flow_loss(model, batch, training)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            decay = min(training.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
            losses.append(loss.item())
            if step % report_every == 0 or step == training.steps:
                line = {"step": step, "loss": round(float(np.mean(losses)), 4), "seconds": round(time.monotonic() - started)}
                print(json.dumps(line), file=log, flush=True)
                losses.clear()
            if step % 200 == 0 or step == training.steps:
                state = {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                }
                save_checkpoint(workdir / "dit.pt", state)
    return average
