"""How good nano is, on heads and voices that training never saw. Everything is measured from pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..conditions import frame_windows
from ..config import NANO_CLIP, ClipSpec
from ..encoders import byte_ids
from ..metrics.identity import identity_similarity
from ..metrics.lipsync import lipsync, shuffled_lipsync
from ..metrics.mouth import mouth_amplitude
from ..metrics.psnr import psnr
from ..plan import SamplingPlan, advance, guide, noise
from ..programs import Model
from ..tasks import Task, mask_latents, task_mask
from ..vae import VAE
from .puppets import HELD_OUT_SEED, PuppetClip, draw_clip
from .train_vae import video_tensor

Video = NDArray[np.uint8]


@dataclass(frozen=True)
class VAEScore:
    """Reconstruction of held-out clips: PSNR in dB over the clip and in the mouth box, and what is left of lip-sync and mouth
    motion."""

    clips: int
    psnr_db: float
    mouth_psnr_db: float
    lipsync: float
    mouth_amplitude_share: float


@dataclass(frozen=True)
class ClipScore:
    """Generated held-out clips: per-clip lip-sync (mean, lowest), against other clips' audio, mouth motion against the truth's,
    identity."""

    clips: int
    lipsync: float
    lipsync_lowest: float
    lipsync_shuffled: float
    mouth_amplitude_share: float
    identity: float


def held_out(count: int, first: int = 5000) -> list[PuppetClip]:
    """Clips of identities and voices outside the training seeds."""
    return [draw_clip(HELD_OUT_SEED + first + i) for i in range(count)]


def to_pixels(video: torch.Tensor) -> Video:
    """[B, T, 3, H, W] in [-1, 1] -> uint8 [B, T, H, W, 3]."""
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 1, 3, 4, 2).contiguous().numpy()


@torch.no_grad()
def score_vae(vae: VAE, clips: list[PuppetClip]) -> tuple[VAEScore, list[Video]]:
    """The autoencoder's own ceiling: what no generator behind it can exceed."""
    rebuilt = [to_pixels(vae.decode(vae.encode(video_tensor(clip.frames)[None])))[0] for clip in clips]
    mouths = [clip.mouth_box for clip in clips]
    pairs = list(zip(clips, rebuilt, mouths, strict=True))
    score = VAEScore(
        clips=len(clips),
        psnr_db=_mean(psnr(c.frames, r, 255.0) for c, r, _ in pairs),
        mouth_psnr_db=_mean(psnr(c.frames[:, a:b, x:y], r[:, a:b, x:y], 255.0) for c, r, (a, b, x, y) in pairs),
        lipsync=_mean(lipsync(r, c.waveform, box) for c, r, box in pairs),
        mouth_amplitude_share=_mean(mouth_amplitude(r, box) / mouth_amplitude(c.frames, box) for c, r, box in pairs),
    )
    return score, rebuilt


@torch.no_grad()
def generate(model: Model, clips: list[PuppetClip], plan: SamplingPlan, clip: ClipSpec = NANO_CLIP, seed: int = 0) -> list[Video]:
    """Image-to-video with speech, from each clip's first frame, voice and prompt; clip i uses noise seed + i."""
    encoders = model.encoders
    if encoders is None:
        raise ValueError("This model has no encoders of its own; generate() is for nano.")
    size = len(clips)
    waveform = torch.stack([torch.from_numpy(c.waveform[: clip.frames * clip.samples_per_frame]) for c in clips]).float()
    features = encoders.audio(torch.nn.functional.pad(waveform, (0, encoders.audio.context_samples)))
    portrait = torch.cat([video_tensor(c.frames[:1]) for c in clips])
    image = encoders.image(portrait)
    ids = {name: torch.cat([byte_ids(c.prompt if name == "prompt" else name, model.config.text_len)[0] for c in clips])
           for name in {branch.text for branch in plan.branches}}  # fmt: skip
    y = torch.zeros(size, 20, clip.latent_frames, clip.latent_height, clip.latent_width)
    y[:, :4] = mask_latents(task_mask(frozenset({Task.I2V}), clip), clip.latent_height, clip.latent_width)
    y[:, 4:, :1] = model.vae.encode(portrait[:, None])
    conditions = [
        model.dit.encode_conditions(
            y,
            encoders.text(ids[branch.text]) * branch.text_scale,
            image * float(branch.image),
            frame_windows(features * float(branch.audio)),
        )
        for branch in plan.branches
    ]
    shape = (model.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    history = [np.stack([noise(seed + i, shape) for i in range(size)])]
    x = history[0]
    rope = model.dit.rope(torch.from_numpy(x))
    time, modulation = model.dit.step_tables(torch.tensor(plan.timesteps, dtype=torch.float64))
    for step in range(plan.steps):
        velocities: list[NDArray[np.float32] | None] = [None] * len(plan.branches)
        weights = torch.from_numpy(plan.modality(step, clip.latent_frames))[None].expand(size, -1, -1)
        rows = time[step : step + 1].expand(size, -1), modulation[step : step + 1].expand(size, -1, -1)
        for branch in plan.evaluated(step):
            velocities[branch] = model.dit.denoise(torch.from_numpy(x), *rows, weights, conditions[branch], rope).numpy()
        history.append(guide(plan, step, velocities))
        x = advance(plan, step, history)
    latents = torch.from_numpy(x)
    return [to_pixels(model.vae.decode(latents[i : i + 1]))[0] for i in range(size)]


def score_clips(videos: list[Video], clips: list[PuppetClip]) -> ClipScore:
    """Judges generated videos against the clips whose portrait, voice and prompt they were made from."""
    pairs = list(zip(videos, clips, strict=True))
    each = [lipsync(video, clip.waveform, clip.mouth_box) for video, clip in pairs]
    return ClipScore(
        clips=len(clips),
        lipsync=_mean(each),
        lipsync_lowest=min(each),
        lipsync_shuffled=shuffled_lipsync([(video, clip.waveform, clip.mouth_box) for video, clip in pairs]),
        mouth_amplitude_share=_mean(mouth_amplitude(v, c.mouth_box) / mouth_amplitude(c.frames, c.mouth_box) for v, c in pairs),
        identity=_mean(float(identity_similarity(v, c.frames[0], c.mouth_box).mean()) for v, c in pairs),
    )


def _mean(values: object) -> float:
    return float(np.mean(list(values)))  # type: ignore[call-overload]


def as_metrics(*scores: VAEScore | ClipScore) -> dict[str, dict[str, float]]:
    """{"VAEScore": {...}, "ClipScore": {...}}, rounded for a table."""
    return {type(score).__name__: {key: round(value, 4) for key, value in asdict(score).items()} for score in scores}
