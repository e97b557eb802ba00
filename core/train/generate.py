"""Clips of drawn heads made by nano, several at once, without a bundle: what training and its evaluation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import NANO_CLIP, ClipSpec
from ..model.conditions import Conditions
from ..model.masks import Box, condition_latents, mask_latents, parse_tasks, task_mask
from ..model.programs import Model
from ..model.transformer import DiT
from ..plan import SamplingPlan, Window, WindowRule, noise
from ..plan.phases import PROMPT
from ..sampling import loop
from ..sampling.inputs import byte_ids, frame_windows
from .puppets import PuppetClip
from .soup import has_audio, picture_of
from .train_vae import video_tensor

Video = NDArray[np.uint8]


def to_pixels(video: torch.Tensor) -> Video:
    """[B, T, 3, H, W] in [-1, 1] -> uint8 [B, T, H, W, 3]."""
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 1, 3, 4, 2).contiguous().numpy()


@dataclass(frozen=True)
class Given:
    """What a task gives of N clips, as the transformer takes it: mask and masked latents `y` [N, 20, f, h, w], features of speech
    [N, T, layers, channels], of the portrait [N, image_tokens, image_dim], and of each text [N, text_len, text_dim] by the name
    that branches have for it; zeros of what the task lacks."""

    y: torch.Tensor
    audio: torch.Tensor
    image: torch.Tensor
    texts: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.y)


@torch.no_grad()
def given_of(
    model: Model,
    clips: Sequence[PuppetClip],
    texts: Iterable[str] = (PROMPT,),
    clip: ClipSpec = NANO_CLIP,
    task: str = "i2v+a2v",
    shown: str | None = None,
) -> Given:
    """`texts`: names; the prompt stands for each clip's own. `shown` names another task whose mask is shown over the task's own
    content: a wrong label.

    Raises:
        ConfigError: a task is unknown.
    """
    encoders = model.encoders
    if encoders is None:
        raise ValueError("This model has no encoders of its own; sample() is for nano.")
    waveform = torch.stack([torch.from_numpy(c.waveform[: clip.frames * clip.samples_per_frame]) for c in clips]).float()
    features = encoders.audio(torch.nn.functional.pad(waveform, (0, encoders.audio.context_samples)))
    picture = picture_of(task)
    shows = clip.frames - 1 if picture == "last" else 0
    image = encoders.image(torch.cat([video_tensor(c.frames[shows : shows + 1]) for c in clips]))
    most = model.config.text_len
    said = {name: [byte_ids(c.prompt if name == PROMPT else name, most)[0] for c in clips] for name in texts}
    y = torch.cat([_known(model, one, clip, task, shown) for one in clips])
    return Given(
        y, features * float(has_audio(task)), image * float(picture != ""),
        {name: encoders.text(torch.from_numpy(np.concatenate(rows))) for name, rows in said.items()},
    )  # fmt: skip


@torch.no_grad()
def sample(
    model: Model,
    clips: Sequence[PuppetClip],
    plan: SamplingPlan,
    clip: ClipSpec = NANO_CLIP,
    seed: int = 0,
    task: str = "i2v+a2v",
    shown: str | None = None,
) -> NDArray[np.float32]:
    """Latents [N, C, f, h, w] of `task`, from what it gives of each clip's picture and voice, and from the clip's prompt.

    Clip i uses noise seed + i. `shown`: as in `given_of`.

    Raises:
        ConfigError: a task is unknown.
    """
    texts = {branch.text for branch in plan.branches}
    return sample_given(model.dit, given_of(model, clips, texts, clip, task, shown), plan, seed)


@torch.no_grad()
def sample_given(
    dit: DiT, given: Given, plan: SamplingPlan, seed: int = 0, watch: Callable[[int, NDArray[np.float32]], None] | None = None
) -> NDArray[np.float32]:
    """Latents [N, C, f, h, w] of N clips together. `watch(step, latents)` sees those that each step begins with."""
    size, (frames, *space) = len(given), given.y.shape[2:]
    heard = frame_windows(given.audio).numpy()
    conditions = [
        dit.encode_conditions(
            given.y,
            given.texts[branch.text] * branch.text_scale,
            given.image * float(branch.image),
            torch.from_numpy(branch.hear(heard)),
        )
        for branch in plan.branches
    ]
    shape = (dit.config.latent_channels, frames, *space)
    start = np.concatenate([noise(seed + i, shape) for i in range(size)])  # the clips' channels side by side
    whole = WindowRule(length=frames, overlap=0)
    latents, _ = loop.sample(plan, whole, start, _Together(dit, plan, conditions, size, watch))
    return latents.reshape(size, *shape)


class _Together:
    """A transformer that evaluates several clips at once, one window each; see `core.sampling.loop.Denoiser`."""

    def __init__(
        self,
        dit: DiT,
        plan: SamplingPlan,
        conditions: Sequence[Conditions],
        size: int,
        watch: Callable[[int, NDArray[np.float32]], None] | None = None,
    ) -> None:
        self.dit, self.plan, self.conditions, self.size, self.watch = dit, plan, conditions, size, watch
        levels = (torch.tensor(each, dtype=torch.float64) for each in (plan.timesteps, plan.spans))
        self.time, self.modulation = dit.step_tables(*levels)
        self.keeps = any(any(row) for row in plan.reuse)

    def begin(self, position: int, span: Window) -> None:
        """There is one window, and its conditions are there."""

    def evaluate(
        self, step: int, branch: int, position: int, span: Window, latents: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Any]:
        x = self._apart(latents)
        if self.watch is not None and branch == self.plan.evaluated(step)[0]:
            self.watch(step, x.numpy())
        rope = self.dit.rope(x)
        weights = torch.from_numpy(self.plan.modality(step, span.length))[None].expand(self.size, -1, -1)
        rows = self.time[step : step + 1].expand(self.size, -1), self.modulation[step : step + 1].expand(self.size, -1, -1)
        if not self.keeps:
            return self.dit.denoise(x, *rows, weights, self.conditions[branch], rope).numpy().reshape(latents.shape), None
        velocity, residual = self.dit.denoise_keeping(x, *rows, weights, self.conditions[branch], rope)
        return velocity.numpy().reshape(latents.shape), residual

    def reuse(
        self, step: int, branch: int, position: int, span: Window, latents: NDArray[np.float32], residual: Any
    ) -> NDArray[np.float32]:
        time = self.time[step : step + 1].expand(self.size, -1)
        velocity = self.dit.denoise_reusing(self._apart(latents), time, residual, self.conditions[branch].patch_bias)
        return velocity.numpy().reshape(latents.shape)

    def end(self, position: int) -> None:
        """Nothing is held for a window alone."""

    def _apart(self, latents: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(latents).view(self.size, -1, *latents.shape[1:])


def _known(model: Model, one: PuppetClip, clip: ClipSpec, task: str, shown: str | None) -> torch.Tensor:
    """`y` [1, 20, f, h, w] of a task on a clip, under another task's mask where `shown` names one."""
    box = Box(*one.mouth_box)
    mask = task_mask(parse_tasks(task), clip, box)
    y = condition_latents(video_tensor(one.frames[: clip.frames]), mask, clip, model.vae.encode, model.config.encode_unknown)
    if shown is not None:
        y[:, :4] = mask_latents(task_mask(parse_tasks(shown), clip, box), clip.latent_height, clip.latent_width)
    return y


@torch.no_grad()
def decode(model: Model, latents: NDArray[np.float32]) -> list[Video]:
    """Latents [N, C, f, h, w] to clips, uint8 [T, H, W, 3] each."""
    rows = torch.from_numpy(latents)
    return [to_pixels(model.vae.decode(rows[i : i + 1]))[0] for i in range(len(rows))]


def generate(
    model: Model, clips: Sequence[PuppetClip], plan: SamplingPlan, clip: ClipSpec = NANO_CLIP, seed: int = 0
) -> list[Video]:
    """Image-to-video with speech: `sample`, then `decode`."""
    return decode(model, sample(model, clips, plan, clip, seed))


@dataclass(frozen=True)
class Sampled:
    """What one noise seed made of every clip, in their order. `latents` is [N, C, f, h, w], or None where only pixels are known."""

    videos: Sequence[Video]
    latents: NDArray[np.float32] | None = None


def sample_and_decode(
    model: Model,
    clips: Sequence[PuppetClip],
    plan: SamplingPlan,
    clip: ClipSpec = NANO_CLIP,
    seed: int = 0,
    task: str = "i2v+a2v",
    shown: str | None = None,
) -> Sampled:
    """`sample` and `decode`, both kept. Give seeds at least as far apart as there are clips, so that no noise is shared."""
    latents = sample(model, clips, plan, clip, seed, task, shown)
    return Sampled(decode(model, latents), latents)
