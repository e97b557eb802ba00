"""Training of nano's VAE: as a 2D autoencoder on single frames, then as a causal 3D one on clips.

A 3D autoencoder trained from scratch stalls, so the temporal taps start inert: on single frames the causal convolutions use
their newest tap alone, the older ones are zero, and the time convolutions pass frames through. Single frames teach it what a
face looks like: most of the error is in space, eight different faces cost less than half of one clip, and their gradients agree
more. Clips of mixed length then teach it motion. Losses weigh the mouth, and the change from frame to frame in the mouth,
because four video frames share one latent frame and a plain loss is content with the mean mouth of the four. Kernels move by
Muon, biases and gains by AdamW; exponential averages of the weights are what ships.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig
from ..model.vae import VAE, CausalConv3d, Downsample, Stream, Upsample
from .averaging import averaged
from .checkpoint import fingerprint, load_checkpoint, options_of, require_options, save_checkpoint
from .muon import Muon
from .pool import ClipPool

CHECKPOINT_EVERY = 200  # steps


@dataclass(frozen=True)
class VAETraining:
    """Steps, batch sizes and loss weights. Rates are Muon's, `other_rate` is AdamW's share of them; they fall to a twentieth over
    each stage along a cosine. A step on clips takes `frames_per_step` frames at most, in clips of one of `lengths`, drawn evenly.
    The defaults suit a start from trained weights; from nothing an `image_rate` of 0.02 is faster.
    """

    image_steps: int = 4400
    image_batch: int = 8
    image_rate: float = 5e-3
    clip_steps: int = 3200
    clip_rate: float = 3e-3
    other_rate: float = 0.12
    lengths: tuple[int, ...] = (5, 5, 5, 9, 9, 17, 25)
    frames_per_step: int = 20
    mouth_weight: float = 2.0
    face_weight: float = 1.3
    absolute_weight: float = 0.7
    square_weight: float = 8.0
    motion_weight: float = 1.0
    kl_weight: float = 1e-6
    log_variance_bias: float = -6.0
    ema: float = 0.995
    seed: int = 0


def inflate(vae: VAE) -> None:
    """Makes every temporal tap but the newest inert: on clips the network then acts frame by frame, but for a little noise in the
    time convolutions that tells the two frames of a pair apart."""
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, CausalConv3d) and module.taps > 1:
                module.weight[:, :, :-1].zero_()
            if isinstance(module, (Downsample, Upsample)) and module.time_conv is not None:
                conv = module.time_conv
                channels = conv.weight.shape[1]
                copies = conv.weight.shape[0] // channels
                noise = torch.randn_like(conv.weight) * (0.1 / math.sqrt(3 * channels))
                noise[:, :, -1, 0, 0] += torch.eye(channels).repeat(copies, 1)
                conv.weight.copy_(noise)
                conv.bias.zero_()


def loss_weights(boxes: np.ndarray, height: int, width: int, training: VAETraining) -> tuple[Tensor, Tensor]:
    """boxes: [B, 4] (y0, y1, x0, x1) -> weights of the pixels and the mouth mask, both [B, 1, 1, H, W].

    The face weight covers the eyes: a box above the mouth, 1.5 mouth widths wide and one high.
    """
    weights, mouths = torch.ones(len(boxes), 1, 1, height, width), torch.zeros(len(boxes), 1, 1, height, width)
    for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        span = x1 - x0
        weights[i, ..., max(0, y0 - span) : y0, max(0, x0 - span // 4) : x1 + span // 4] = training.face_weight
        weights[i, ..., y0:y1, x0:x1] = training.mouth_weight
        mouths[i, ..., y0:y1, x0:x1] = 1.0
    return weights / weights.mean((-2, -1), keepdim=True), mouths


def video_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [..., T, H, W, 3] -> float32 [..., T, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(frames)).movedim(-1, -3).float() / 127.5 - 1


def picture_loss(rebuilt: Tensor, video: Tensor, boxes: np.ndarray, training: VAETraining) -> tuple[Tensor, float]:
    """Both [B, T, 3, H, W] -> loss, weighted by place and by change in the mouth, and the mean squared error."""
    weights, mouths = loss_weights(boxes, video.shape[-2], video.shape[-1], training)
    error = rebuilt - video
    loss = (weights * (training.absolute_weight * error.abs() + training.square_weight * error.square())).mean()
    if video.shape[1] > 1:
        change = (error[:, 1:] - error[:, :-1]).abs() * mouths
        loss = loss + training.motion_weight * change.sum() / (mouths.sum() * 3 * (video.shape[1] - 1))
    return loss, float(error.detach().square().mean())


def vae_loss(vae: VAE, video: Tensor, boxes: np.ndarray, training: VAETraining) -> tuple[Tensor, float]:
    """video: [B, T, 3, H, W] -> loss and the reconstruction's mean squared error."""
    mean, log_variance = vae.moments(video)
    log_variance = log_variance + training.log_variance_bias
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss, mse = picture_loss(vae.decoder(vae.conv2(z), Stream()), video, boxes, training)
    return loss + training.kl_weight * kl, mse


def cosine_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    """Linear warm-up to `peak`, then a cosine down to a twentieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _optimisers(vae: VAE) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the kernels between features; AdamW for biases, gains, and the kernels that touch pixels or latents."""
    outer = {"encoder.conv1.weight", "conv1.weight", "conv2.weight", "decoder.head.2.weight"}
    kernels = [p for name, p in vae.named_parameters() if name.endswith(".weight") and name not in outer]
    others = [p for name, p in vae.named_parameters() if not name.endswith(".weight") or name in outer]
    return Muon(kernels, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=1e-4)


def normalise_latents(vae: VAE, pool: ClipPool, clips: int = 64) -> dict[str, list[float]]:
    """Folds the latents' per-channel mean and deviation over at most `clips` clips into the 1×1×1 convolutions around them.

    Afterwards `encode` gives zero mean and unit deviation with the identity statistics of the nano configuration.
    """
    with torch.no_grad():
        latents = torch.cat([vae.encode(video_tensor(pool.frames[i : i + 8])) for i in range(0, min(clips, len(pool)), 8)])
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        z = vae.config.latent_channels
        vae.conv1.weight[:z] /= std.view(z, 1, 1, 1, 1)
        vae.conv1.bias[:z] = (vae.conv1.bias[:z] - mean) / std
        vae.conv2.bias.add_(vae.conv2.weight[..., 0, 0, 0] @ mean)
        vae.conv2.weight.mul_(std.view(1, z, 1, 1, 1))
    return {"mean": mean.tolist(), "std": std.tolist()}


def draw_frames(pool: ClipPool, rng: np.random.Generator, training: VAETraining, step: int) -> tuple[Tensor, np.ndarray]:
    """The batch of a step: video [B, T, 3, H, W] and the indices of its clips [B]; T is 1 in the first stage."""
    if step < training.image_steps:
        clips = rng.integers(0, len(pool), training.image_batch)
        frames = rng.integers(0, pool.frames.shape[1], training.image_batch)
        return video_tensor(pool.frames[clips, frames][:, None]), clips
    length = int(rng.choice(training.lengths))
    clips = rng.integers(0, len(pool), max(1, training.frames_per_step // length))
    start = int(rng.integers(0, pool.frames.shape[1] - length + 1))
    return video_tensor(pool.frames[clips, start : start + length]), clips


def reset_variance(vae: VAE) -> None:
    """Makes the log-variance of every latent zero, before `log_variance_bias`: a shipped VAE's was shaped by another loss."""
    z = vae.config.latent_channels
    with torch.no_grad():
        vae.conv1.weight[z:].zero_()
        vae.conv1.bias[z:].zero_()


def train_vae(
    config: ModelConfig, pool: ClipPool, workdir: Path, training: VAETraining, start: VAE | None = None, report_every: int = 50
) -> VAE:
    """Trains (or resumes, or just loads, where `workdir` has a finished run) the VAE; writes `vae.pt` and `vae.log`.

    With `start` it goes on from that VAE's weights instead of from nothing.

    Raises:
        ConfigError: `workdir` holds a run with other options, or begun from another VAE.
    """
    torch.manual_seed(training.seed)
    vae = VAE(config.vae)
    inflate(vae)
    if start is not None:
        vae.load_state_dict(start.state_dict())
        reset_variance(vae)
    optimisers = _optimisers(vae)
    options = options_of(training, fingerprint(start) if start is not None else "nothing")
    saved = load_checkpoint(workdir / "vae.pt")
    step = 0
    if saved is not None:
        require_options(saved, options, workdir / "vae.pt")
        step = saved["step"]
        if saved["finished"]:
            vae.load_state_dict(saved["average"])
            return vae.eval().requires_grad_(False)
        vae.load_state_dict(saved["model"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
    average = averaged(vae, training.ema, step)
    if saved is not None:
        average.module.load_state_dict(saved["average"])
    total = training.image_steps + training.clip_steps
    started = time.monotonic()
    errors: list[float] = []
    with open(workdir / "vae.log", "a") as log:
        while step < total:
            rng = np.random.default_rng((training.seed, step))
            torch.manual_seed(training.seed * 1_000_003 + step)
            if step == training.image_steps:
                optimisers = _optimisers(vae)  # moments gathered on single frames mislead the temporal taps
            if step < training.image_steps:
                rate = cosine_rate(step, training.image_steps, training.image_rate)
            else:
                rate = cosine_rate(step - training.image_steps, training.clip_steps, training.clip_rate)
            video, clips = draw_frames(pool, rng, training, step)
            loss, mse = vae_loss(vae, video, pool.boxes[clips], training)
            vae.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(optimisers[1].param_groups[0]["params"], 1.0)
            for optimiser, share in zip(optimisers, (1.0, training.other_rate), strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = rate * share
                optimiser.step()
            step += 1
            average.update_parameters(vae)
            errors.append(mse)
            if step % report_every == 0 or step == total:
                line = {
                    "step": step,
                    "loss": round(loss.item(), 4),
                    "psnr_db": round(10 * math.log10(4 / float(np.mean(errors))), 2),
                    "seconds": round(time.monotonic() - started),
                }
                print(json.dumps(line), file=log, flush=True)
                errors.clear()
            if step % CHECKPOINT_EVERY == 0:
                state = {
                    "model": vae.state_dict(),
                    "average": average.module.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step,
                    "finished": False,
                    "options": options,
                }
                save_checkpoint(workdir / "vae.pt", state)
    made = cast(VAE, average.module)
    normalise_latents(made, pool)
    save_checkpoint(workdir / "vae.pt", {"average": made.state_dict(), "step": step, "finished": True, "options": options})
    return made
