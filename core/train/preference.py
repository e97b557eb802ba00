"""NDPO-SFT: supervised flow matching alternated with negative-only preference steps on undesired samples (EchoMimicV3).

Direct preference optimisation gives a sample x under conditions c the reward r = β log(p(x|c) / p_ref(x|c)), p_ref a frozen copy,
and maximises log σ(r_desired - r_undesired). For a flow model -log p is, up to a constant, the flow-matching error e
(Diffusion-DPO, Wallace et al., arXiv 2311.12908), so r = β (e_ref - e). Without a desired partner its reward is taken as that of
the reference, 0:

    L = -log σ(-r) = -log σ(-β (e_ref - e)) = softplus(β (e_ref - e))

It falls as the model's error on the undesired sample rises above the reference's. Unlike plain gradient ascent it is bounded:
0 < L ≤ softplus(β e_ref), and its slope -β σ(β (e_ref - e)) vanishes once e exceeds e_ref by a few 1/β. Model and reference see the
same noise at the same level. No pairs are needed, so undesired samples can be made from any clip (`make_negative`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..plan import check_count, check_number


class Negative(StrEnum):
    """Ways in which a clip can be undesired; each value is also the caption that names it in `Captions`."""

    OTHER_AUDIO = "another voice"  # the audio of another clip
    SHIFTED_AUDIO = "out of step"  # the clip's own audio, some frames late
    FROZEN_MOUTH = "still mouth"  # the first frame's mouth in every frame, encoded again
    FROZEN_LATENT = "still mouth latent"  # the first latent repeated under the mouth
    IDENTITY = "changing face"  # a cross-fade to another person over the clip

    @property
    def needs_audio(self) -> bool:
        """Whether the sample is undesired only beside its audio: without, a still mouth is as good as any."""
        return self is not Negative.IDENTITY


ALL_BUT_LATENT = (Negative.OTHER_AUDIO, Negative.SHIFTED_AUDIO, Negative.FROZEN_MOUTH, Negative.IDENTITY)


def _check_kinds(kinds: tuple[Negative, ...]) -> None:
    if not kinds or len(set(kinds)) < len(kinds) or not all(isinstance(kind, Negative) for kind in kinds):
        raise ConfigError(
            f"The kinds of negatives are {kinds!r}; give one or more of {', '.join(map(str, Negative))} (Negative), each once."
        )


@dataclass(frozen=True)
class NDPO:
    """Preference steps among the supervised ones.

    After `start` supervised steps every `cycle` steps end with `share` (0 … 1) of preference steps; the reference is the model as
    it is before the first of them. `beta` (above 0) sets how far the error on a negative is raised: by about 1/β. The loss is
    divided by β and multiplied by `weight`, so that a step is at most `weight` times a supervised one. Misaligned audio is at least
    `least_shift` frames late. Kinds are drawn evenly.

    Raises:
        ConfigError: a number or kind is out of range, or the share comes to no step in a cycle.
    """

    share: float = 0.1
    cycle: int = 50
    start: int = 0
    beta: float = 100.0
    weight: float = 1.0
    kinds: tuple[Negative, ...] = ALL_BUT_LATENT
    least_shift: int = 4

    def __post_init__(self) -> None:
        check_number("share of preference steps", self.share, 0.0, 1.0)
        check_count("cycle", self.cycle, 1, 1_000_000)
        check_count("start", self.start, 0, 1_000_000_000)
        check_count("least_shift", self.least_shift, 1, 1_000_000)
        for name in ("beta", "weight"):
            check_number(name, getattr(self, name), 0.0, 1e9)
            if getattr(self, name) == 0:
                raise ConfigError(f"{name} is 0; the preference steps would do nothing. Leave NDPO out instead.")
        if self.preference_steps == 0:
            raise ConfigError(
                f"A share of {self.share} is no step in a cycle of {self.cycle}. Use a longer cycle or a larger share."
            )
        _check_kinds(self.kinds)

    @property
    def preference_steps(self) -> int:
        """Preference steps of one cycle."""
        return round(self.share * self.cycle)

    def prefers(self, step: int) -> bool:
        """Whether step `step` (0 …) is a preference step."""
        return step >= self.start and (step - self.start) % self.cycle >= self.cycle - self.preference_steps

    def renews(self, step: int) -> bool:
        """Whether the reference becomes the present model before step `step`."""
        return self.prefers(step) and (step - self.start) % self.cycle == self.cycle - self.preference_steps


@dataclass(frozen=True)
class Captions:
    """A share of the supervised samples is undesired and says so: its text is the negative's name instead of the prompt.

    A plan can then push away from that name: `Phase(1.0, 0.5, negatives=(("out of step", 0.5),))` means what it says.
    """

    share: float = 0.05
    kinds: tuple[Negative, ...] = ALL_BUT_LATENT
    least_shift: int = 4

    def __post_init__(self) -> None:
        check_number("share of captioned negatives", self.share, 0.0, 1.0)
        check_count("least_shift", self.least_shift, 1, 1_000_000)
        _check_kinds(self.kinds)


def ndpo_loss(error: Tensor, reference_error: Tensor, beta: float) -> Tensor:
    """Flow-matching errors of the model and of the reference on undesired samples, both [B] -> the loss of each, [B]."""
    return F.softplus(beta * (reference_error.detach() - error))


def freeze_mouth(video: Tensor, boxes: Tensor) -> Tensor:
    """video [B, T, 3, H, W], boxes [B, 4] (y0, y1, x0, x1) -> the same with the first frame's mouth in every frame."""
    frozen = video.clone()
    for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        frozen[i, :, :, y0:y1, x0:x1] = video[i, :1, :, y0:y1, x0:x1]
    return frozen


def freeze_latent(latents: Tensor, mouth: Tensor) -> Tensor:
    """latents [B, C, F, h, w], mouth [B, 1, 1, h, w] in 0 … 1 -> the first latent under the mouth in every latent frame."""
    return latents + mouth * (latents[:, :, :1] - latents)


def fade_identity(latents: Tensor, other: Tensor) -> Tensor:
    """Both [B, C, F, h, w]: from `latents` in the first latent frame, evenly, to `other` in the last."""
    frames = latents.shape[2]
    return torch.lerp(latents, other, torch.linspace(0.0, 1.0, frames).view(1, 1, frames, 1, 1))
