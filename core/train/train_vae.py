"""Training of nano's VAE: as a 2D autoencoder on single frames, then as a causal 3D one on clips.

A 3D autoencoder trained from scratch stalls, so the temporal taps start inert: on single frames the causal convolutions use
their newest tap alone, the older ones are zero, and the time convolutions pass frames through. Single frames teach it what a
face looks like in minutes; clips of mixed length then teach it motion. Losses weigh the mouth, and the change from frame to
frame in the mouth, because four video frames share one latent frame and a plain loss is content with the mean mouth of the
four. Once the latents hold the mouth, the decoder alone is refined on frozen latents with gentler weights: backgrounds and hair
become clean while the transformer can already train.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import TEMPORAL_STRIDE, ModelConfig
from ..vae import VAE, CausalConv3d, Downsample, Stream, Upsample
from .checkpoint import load_checkpoint, save_checkpoint
from .pool import Pool


@dataclass(frozen=True)
class VAETraining:
    """Steps, batch sizes and loss weights; learning rates fall to a twentieth over each stage along a cosine."""

    image_steps: int = 1200
    image_batch: int = 16
    image_rate: float = 1e-3
    clip_steps: int = 1400
    clip_rate: float = 2e-4
    lengths: tuple[int, ...] = (5, 9, 17, 25)
    frames_per_step: int = 25
    mouth_weight: float = 8.0
    face_weight: float = 3.0
    square_weight: float = 2.0
    motion_weight: float = 4.0
    kl_weight: float = 1e-5
    log_variance_bias: float = -6.0
    decoder_steps: int = 2200
    decoder_rate: float = 5e-4
    decoder_mouth_weight: float = 2.0
    decoder_face_weight: float = 1.2
    decoder_square_weight: float = 8.0
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
    loss = (weights * (error.abs() + training.square_weight * error.square())).mean()
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


def _optimiser(vae: VAE) -> torch.optim.AdamW:
    return torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)


def normalise_latents(vae: VAE, pool: Pool, clips: int = 64) -> dict[str, list[float]]:
    """Folds the latents' per-channel mean and deviation over `clips` clips into the 1×1×1 convolutions on either side of them.

    Afterwards `encode` gives zero mean and unit deviation with the identity statistics of the nano configuration.
    """
    with torch.no_grad():
        latents = torch.cat([vae.encode(video_tensor(pool.frames[i : i + 8])) for i in range(0, clips, 8)])
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        z = vae.config.latent_channels
        vae.conv1.weight[:z] /= std.view(z, 1, 1, 1, 1)
        vae.conv1.bias[:z] = (vae.conv1.bias[:z] - mean) / std
        vae.conv2.bias.add_(vae.conv2.weight[..., 0, 0, 0] @ mean)
        vae.conv2.weight.mul_(std.view(1, z, 1, 1, 1))
    return {"mean": mean.tolist(), "std": std.tolist()}


def train_vae(config: ModelConfig, pool: Pool, workdir: Path, training: VAETraining, report_every: int = 50) -> VAE:
    """Trains (or resumes, or just loads, where `workdir` has a finished run) the VAE; writes `vae.pt` and `vae.log`."""
    torch.manual_seed(training.seed)
    vae = VAE(config.vae)
    inflate(vae)
    optimiser = _optimiser(vae)
    saved = load_checkpoint(workdir / "vae.pt")
    step = 0
    if saved is not None:
        vae.load_state_dict(saved["model"])
        step = saved["step"]
        if saved["finished"]:
            return vae.eval()
        optimiser.load_state_dict(saved["optimiser"])
    total = training.image_steps + training.clip_steps
    started = time.monotonic()
    with open(workdir / "vae.log", "a") as log:
        while step < total:
            rng = np.random.default_rng((training.seed, step))
            torch.manual_seed(training.seed * 1_000_003 + step)
            if step == training.image_steps:
                optimiser = _optimiser(vae)  # moments gathered on single frames mislead the temporal taps
            if step < training.image_steps:
                clips = rng.integers(0, len(pool), training.image_batch)
                frames = rng.integers(0, pool.frames.shape[1], training.image_batch)
                video = video_tensor(pool.frames[clips, frames][:, None])
                rate = cosine_rate(step, training.image_steps, training.image_rate)
            else:
                length = int(rng.choice(training.lengths))
                batch = max(1, training.frames_per_step // length)
                clips = rng.integers(0, len(pool), batch)
                start = int(rng.integers(0, pool.frames.shape[1] - length + 1))
                video = video_tensor(pool.frames[clips, start : start + length])
                rate = cosine_rate(step - training.image_steps, training.clip_steps, training.clip_rate)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss, mse = vae_loss(vae, video, pool.boxes[clips], training)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimiser.step()
            step += 1
            if step % report_every == 0 or step == total:
                psnr = 10 * math.log10(4 / mse)
                line = {
                    "step": step,
                    "loss": round(loss.item(), 4),
                    "psnr_db": round(psnr, 2),
                    "seconds": round(time.monotonic() - started),
                }
                print(json.dumps(line), file=log, flush=True)
            if step % 200 == 0:
                save_checkpoint(
                    workdir / "vae.pt",
                    {"model": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "finished": False},
                )
    vae.eval()
    normalise_latents(vae, pool)
    save_checkpoint(workdir / "vae.pt", {"model": vae.state_dict(), "step": step, "finished": True})
    return vae


def refine_decoder(vae: VAE, latents: Tensor, pool: Pool, workdir: Path, training: VAETraining, report_every: int = 50) -> VAE:
    """Trains the decoder alone on the pool's frozen latents [N, 16, F, h, w]; writes `decoder.pt` and `decoder.log`, and
    resumes."""
    gentle = replace(
        training,
        mouth_weight=training.decoder_mouth_weight,
        face_weight=training.decoder_face_weight,
        square_weight=training.decoder_square_weight,
        motion_weight=training.motion_weight / 2,
    )
    vae.requires_grad_(False)
    parts = [vae.decoder, vae.conv2]
    parameters = [p.requires_grad_(True) for part in parts for p in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-4)
    step = 0
    saved = load_checkpoint(workdir / "decoder.pt")
    if saved is not None:
        vae.load_state_dict(saved["model"])
        step = saved["step"]
        optimiser.load_state_dict(saved["optimiser"])
    started = time.monotonic()
    with open(workdir / "decoder.log", "a") as log:
        while step < training.decoder_steps:
            rng = np.random.default_rng((training.seed, 7, step))
            length = int(rng.choice(training.lengths))
            clips = rng.integers(0, len(latents), max(1, training.frames_per_step // length))
            video = video_tensor(pool.frames[clips, :length])
            z = latents[clips][:, :, : (length - 1) // TEMPORAL_STRIDE + 1].transpose(1, 2)
            for group in optimiser.param_groups:
                group["lr"] = cosine_rate(step, training.decoder_steps, training.decoder_rate)
            loss, mse = picture_loss(vae.decoder(vae.conv2(z), Stream()), video, pool.boxes[clips], gentle)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step += 1
            if step % report_every == 0 or step == training.decoder_steps:
                line = {"step": step, "loss": round(loss.item(), 4), "psnr_db": round(10 * math.log10(4 / mse), 2)}
                print(json.dumps(line | {"seconds": round(time.monotonic() - started)}), file=log, flush=True)
            if step % 100 == 0 or step == training.decoder_steps:
                state = {"model": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
                save_checkpoint(workdir / "decoder.pt", state)
    return vae.eval().requires_grad_(False)
