"""Distribution matching: what a student makes of noise is moved to where the teacher finds it more likely than a fake does.

A regression on trajectories gives the mean of what may follow, where few steps cannot tell which it will be; a mean is likely
nowhere. In a share of the steps the student therefore plays a clip of its own from fresh noise, the clip is noised to a random
level σ, and two models say what it was before: the guided teacher, and a fake, which is the teacher taught to make the student's
clips by flow matching. Their difference,

    x₀ of the fake - x₀ of the teacher = σ (velocity of the teacher - velocity of the fake),

is the gradient of the Kullback-Leibler divergence of both distributions at that level, up to a factor (DMD, arXiv 2311.18828).
Each sample's is divided by how far the teacher's x₀ is from the sample, on average; the fake learns more often than the student
(DMD2, arXiv 2405.14867). Unlike there the regression stays, in every step: others saw students of this backbone collapse without.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...core.model.transformer import DiT
from ...core.plan import check_count, check_number
from ...core.plan.samplers import PlanOptions
from ...core.train.loop import recompute_blocks
from ...core.train.soup import has_audio
from .lessons import Drawn
from .student import Student, folded_scale, in_steps

LOWEST, HIGHEST = 0.02, 0.98  # noise levels, drawn evenly: at 0 nothing is asked, at 1 nothing of the sample is left
CONDITIONS = ("y", "audio", "image", "text")


@dataclass(frozen=True)
class Matching:
    """share: of the steps that match; weight: of matching beside regression; fakes: steps of the fake before each of these; begin:
    the step from which the student is moved, so that the fake knows its clips by then.

    Raises:
        ConfigError: a number is out of range.
    """

    share: float = 0.0
    weight: float = 1.0
    fakes: int = 2
    begin: int = 50

    def __post_init__(self) -> None:
        check_number("share of matching", self.share, 0.0, 1.0)
        check_number("weight of matching", self.weight, 0.0, 1e6)
        check_count("fakes", self.fakes, 1, 100)
        check_count("begin of matching", self.begin, 0, 1_000_000_000)
        if self.share and not self.weight:
            raise ConfigError("The weight of matching is 0; the fake would be trained for nothing. Set the share to 0 instead.")

    def matches(self, seed: int, step: int) -> bool:
        """Whether step `step` (0 …) is one that matches."""
        return bool(self.share) and np.random.default_rng((seed, step, 1)).random() < self.share


# ---- what is matched -------------------------------------------------------------------------------------------------------------


def noised(clips: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """clips, noise [B, C, F, h, w], level [B] -> clips at that level of noise."""
    at = level.view(-1, 1, 1, 1, 1)
    return (1 - at) * clips + at * noise


def matching_gradient(sample: Tensor, at: Tensor, level: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """What moves samples [B, C, F, h, w] from where the fake's velocity at `at`, the noised samples, finds them likely to where the
    real one does. level: [B]; real, fake: velocities. -> the gradient to go down by, of mean size about 1 or less.
    """
    sigma = level.view(-1, 1, 1, 1, 1)
    away = (sample - (at - sigma * real)).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return sigma * (real - fake) / away.clamp_min(1e-6)


def matching_loss(sample: Tensor, gradient: Tensor) -> Tensor:
    """A number whose derivative by `sample` is `gradient`, over how many numbers a sample has and how many there are."""
    return 0.5 * (sample - (sample - gradient).detach()).square().mean()


def guided(
    teacher: Student, at: Tensor, level: Tensor, modality: Tensor, given: Mapping[str, Tensor], speech: Tensor, scale: float
) -> Tensor:
    """The teacher's velocity as its sampler takes it: `scale` times what speech changes, beside what is there without; in one
    forward. at [B, C, F, h, w]; level [B]; modality [B, 3, F]; speech: bool [B], which samples have some."""
    heard = speech.nonzero().flatten()
    silent = {name: value[heard] for name, value in given.items()} | {"audio": torch.zeros_like(given["audio"][heard])}
    both = {name: torch.cat([given[name], silent[name]]) for name in CONDITIONS}
    x, levels, strengths = (torch.cat([value, value[heard]]) for value in (at, level, modality))
    velocity, without = teacher(x, levels, levels, strengths, both).float().split([len(at), len(heard)])
    return velocity.index_copy(0, heard, without + scale * (velocity[heard] - without))


# ---- a run's ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """A batch of requests. path: of points, the same for all; noise: what clips begin as; other: what they are noised with."""

    given: Mapping[str, Tensor]
    speech: Tensor
    path: list[int]
    noise: Tensor
    other: Tensor
    level: Tensor
    strengths: Tensor


class Matcher:
    """The teacher and the fake beside a student in training. `paths`: the points that each number of steps goes by, `shares` how
    often each is played; `options`: the teacher's plan; `rate(step)`: the fake's, which is the student's; requests are those of the
    first `usable` lessons. `fake` and `optimiser` belong to the run: they are kept with it.

    Raises:
        ConfigError: the teacher's guidance is not one that a student folds in.
    """

    def __init__(
        self,
        teacher: DiT,
        drawn: Drawn,
        usable: int,
        paths: Sequence[tuple[int, ...]],
        shares: np.ndarray,
        matching: Matching,
        options: PlanOptions,
        batch: int,
        seed: int,
        device: torch.device,
        bf16: bool = False,
        recompute: bool = False,
    ) -> None:
        self.drawn, self.usable, self.paths, self.shares = drawn, usable, paths, shares / shares.sum()
        self.matching, self.options, self.scale = matching, options, folded_scale(options)
        self.batch, self.seed, self.device, self.bf16 = batch, seed, device, bf16
        self.levels, self.modality = torch.tensor(drawn.levels), torch.from_numpy(drawn.modality)
        self.real = Student(copy.deepcopy(teacher)).to(device).eval().requires_grad_(False)
        self.fake = Student(copy.deepcopy(teacher)).to(device).requires_grad_(True)
        if recompute:
            recompute_blocks(self.fake.dit)
        self.optimiser = torch.optim.AdamW(self.fake.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
        self.losses: list[float] = []  # of the fake, since a log last took them

    def loss(self, student: Student, step: int, rate: float) -> Tensor | None:
        """The student's loss in a step that matches, after the fake has taken its own, by `rate`; None before the student is to be
        moved."""
        for turn in range(self.matching.fakes):
            self.teach_fake(student, step, turn, rate)
        if step < self.matching.begin:
            return None
        request = self._request(step, self.matching.fakes)
        sample = self._played(student, request)
        with torch.no_grad():
            clips = sample.detach()
            at = noised(clips, request.other, request.level)
            with self._precision():
                real = guided(self.real, at, request.level, request.strengths, request.given, request.speech, self.scale)
                fake = self.fake(at, request.level, request.level, request.strengths, request.given).float()
            gradient = matching_gradient(clips, at, request.level, real, fake)
        return self.matching.weight * matching_loss(sample, gradient)

    def teach_fake(self, student: Student, step: int, turn: int, rate: float) -> float:
        """One step of the fake on clips that the student makes now. -> its flow-matching error before."""
        request = self._request(step, turn)
        with torch.no_grad():
            clips = self._played(student, request)
        with self._precision():
            at = noised(clips, request.other, request.level)
            velocity = self.fake(at, request.level, request.level, request.strengths, request.given)
        error = (velocity.float() - (request.other - clips)).square().mean()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(self.fake.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(float(error.detach()))
        return self.losses[-1]

    def take_losses(self) -> dict[str, float]:
        """The fake's mean error since the last call, for a log; nothing where it was not trained."""
        losses, self.losses = self.losses, []
        return {"fake": round(float(np.mean(losses)), 4)} if losses else {}

    def _played(self, student: Student, request: _Drawn) -> Tensor:
        """The student's clips, [B, C, F, h, w], through all of its steps."""
        levels, modality = self.levels.to(self.device), self.modality.to(self.device)
        with self._precision():
            return in_steps(student, request.noise, levels[request.path], modality[request.path[:-1]], request.given)[-1].float()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _request(self, step: int, turn: int) -> _Drawn:
        rng = np.random.default_rng((self.seed, step, 2 + turn))
        rows = rng.integers(0, self.usable, self.batch)
        path = self.paths[rng.choice(len(self.paths), p=self.shares)]
        shape = (self.batch, *self.drawn.arrays["states"].shape[2:])
        noise, other = (torch.from_numpy(rng.standard_normal(shape, np.float32)).to(self.device) for _ in range(2))
        level = rng.uniform(LOWEST, HIGHEST, self.batch)
        frames = shape[2]
        strengths = np.stack([np.broadcast_to(self.options.modality.at(1000 * each, frames), (3, frames)) for each in level])
        given = self.drawn.batch(rows)
        return _Drawn(
            {name: given[name].to(self.device) for name in CONDITIONS},
            torch.tensor([has_audio(self.drawn.names[kind]) for kind in self.drawn.arrays["task"][rows]], device=self.device),
            list(path), noise, other,
            torch.from_numpy(level).float().to(self.device),
            torch.from_numpy(strengths).float().to(self.device),
        )  # fmt: skip
