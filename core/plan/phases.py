"""Schedules over the phase of denoising: PhDA modality weights and PNG negative guidance (EchoMimicV3, arXiv 2507.03905).

The phase is τ = timestep / 1000: 1 is pure noise, 0 the clean clip. It is not the share of steps done: what the model settles at a
given moment (pose and layout at high noise, lips and texture at low noise) depends on the noise level, so a schedule written in τ
keeps its meaning when the number of steps, the shift or the solver changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ..errors import ConfigError
from . import MAX_AUDIO_SHIFT, MAX_MODALITY_WEIGHT, Branch, Float64, check_choice, check_count, check_number

PROMPT = "prompt"  # the text condition of the clip itself
MAX_NEGATIVE_WEIGHT = 20.0

Modality = tuple[float, float, float]
Terms = list[tuple[Branch, float]]  # a linear combination of branches


# ---- PNG: phase-aware negative classifier-free guidance -------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """Negative conditions that act while start >= τ > end (τ = 0 too when `end` is 0).

    `negatives` are (name of a text condition, weight 0..20): each pushes the velocity away from what the model predicts for that
    text, with image and audio unchanged. `audio_negative` (0..20) pushes away from the prediction without audio, `misaligned`
    (0..20) from the prediction for the clip's own audio, `misaligned_by` video frames late.
    """

    start: float
    end: float
    negatives: tuple[tuple[str, float], ...] = ()
    audio_negative: float = 0.0
    misaligned: float = 0.0
    misaligned_by: int = 8

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            check_number(f"phase {name}", getattr(self, name), 0.0, 1.0)
        if self.start <= self.end:
            raise ConfigError(
                f"A phase runs from {self.start} to {self.end}; denoising goes from 1 down to 0, so start must be larger."
            )
        names = [name for name, _ in self.negatives]
        for name in names:
            if name == PROMPT:
                raise ConfigError(f"{PROMPT!r} is the clip's own text; a phase cannot push away from it. Name a negative text.")
            if names.count(name) > 1:
                raise ConfigError(f"The negative {name!r} appears twice in one phase; add up its weights.")
        for name, weight in (*self.negatives, ("audio_negative", self.audio_negative), ("misaligned", self.misaligned)):
            check_number(f"weight of {name!r}", weight, 0.0, MAX_NEGATIVE_WEIGHT)
        check_count("misaligned_by", self.misaligned_by, 1, MAX_AUDIO_SHIFT)

    def holds(self, timestep: float) -> bool:
        """Whether the phase is on at `timestep` (0..1000)."""
        tau = timestep / 1000.0
        return self.end < tau <= self.start or tau == self.end == 0.0

    def terms(self) -> Terms:
        """What the phase adds to the velocity: Σ_b w_b (v_cond - v_b)."""
        conditioned = Branch.of(PROMPT)
        pushes = [(Branch.of(name), weight) for name, weight in self.negatives]
        pushes.append((Branch.of(PROMPT, audio=False), self.audio_negative))
        pushes.append((Branch.of(PROMPT, audio_shift=self.misaligned_by), self.misaligned))
        return [(conditioned, math.fsum(weight for _, weight in pushes)), *((branch, -weight) for branch, weight in pushes)]


def check_phases(phases: Sequence[Phase], timesteps: Sequence[float]) -> None:
    """Refuses phases that are out of order, overlap, or hold at none of `timesteps` (0..1000).

    Raises:
        ConfigError: names the phase.
    """
    for before, after in pairwise(phases):
        if after.start > before.end:
            raise ConfigError(
                f"The phase {after.start}..{after.end} starts before {before.start}..{before.end} ends; "
                "list phases from 1 down to 0, without overlap."
            )
    for phase in phases:
        if not any(phase.holds(timestep) for timestep in timesteps):
            steps = ", ".join(f"{timestep / 1000.0:.3f}" for timestep in timesteps)
            raise ConfigError(
                f"No step falls into the phase {phase.start}..{phase.end}; the steps are at {steps}. Widen it or use more steps."
            )


def phase_terms(phases: Sequence[Phase], timestep: float) -> Terms:
    """The terms of the phase that holds at `timestep` (0..1000), none outside every phase."""
    return next((phase.terms() for phase in phases if phase.holds(timestep)), [])


# ---- PhDA: phase-aware dynamic allocation of the modalities ---------------------------------------------------------------------


@dataclass(frozen=True)
class PhaseWeights:
    """Strengths of (text, image, audio), 0..10, as a schedule over τ and, optionally, over the latent frames of a window.

    `points` are (τ, strengths), τ falling from at most 1 to at least 0. Between two points the strengths are interpolated
    (`linear`) or keep the value of the point already passed (`constant`); before the first and after the last point they are that
    point's. `positions` are (position, factors), position rising from 0 (first latent frame of the window) to 1 (last),
    interpolated linearly; the factors multiply the strengths. All ones, the default, is the released model.
    """

    points: tuple[tuple[float, Modality], ...] = ((1.0, (1.0, 1.0, 1.0)),)
    kind: Literal["linear", "constant"] = "linear"
    positions: tuple[tuple[float, Modality], ...] = ()

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("linear", "constant"))
        if not self.points:
            raise ConfigError("PhaseWeights needs at least one point, such as (1.0, (1.0, 1.0, 1.0)).")
        for what, points in (("point", self.points), ("position", self.positions)):
            for at, strengths in points:
                check_number(what, at, 0.0, 1.0)
                if len(strengths) != 3:
                    raise ConfigError(f"The {what} {at} has {len(strengths)} strengths; give three: text, image, audio.")
                for strength in strengths:
                    check_number(f"strength at {what} {at}", strength, 0.0, MAX_MODALITY_WEIGHT)
        for (before, _), (after, _) in pairwise(self.points):
            if after >= before:
                raise ConfigError(f"The point {after} follows {before}; list points from τ = 1 down to 0.")
        for (before, _), (after, _) in pairwise(self.positions):
            if after <= before:
                raise ConfigError(f"The position {after} follows {before}; list positions from 0 up to 1.")

    def at(self, timestep: float, frames: int | None = None) -> Float64:
        """Strengths at `timestep` (0..1000): [3, 1], or [3, frames] when there are `positions`.

        Raises:
            ConfigError: there are positions and `frames` (latent frames of a window) is not given, or a product is above 10.
        """
        strengths = self._over_time(timestep / 1000.0)[:, None]
        if self.positions:
            if frames is None:
                raise ConfigError("Modality weights over positions need the number of latent frames: give the plan a window.")
            strengths = strengths * self._over_frames(frames)
        if strengths.max() > MAX_MODALITY_WEIGHT:
            raise ConfigError(
                f"A modality weight reaches {strengths.max():.6g} at timestep {timestep}; the most is {MAX_MODALITY_WEIGHT}."
            )
        return strengths

    def _over_time(self, tau: float) -> Float64:
        """[3] strengths at τ."""
        if self.kind == "linear":
            taus, values = zip(*reversed(self.points), strict=True)
            return _interpolate(tau, taus, values)
        passed = [strengths for at, strengths in self.points if at >= tau]
        return np.asarray(passed[-1] if passed else self.points[0][1], dtype=np.float64)

    def _over_frames(self, frames: int) -> Float64:
        """[3, frames] factors."""
        at, values = zip(*self.positions, strict=True)
        return np.stack([_interpolate(frame / max(1, frames - 1), at, values) for frame in range(frames)], axis=1)


def _interpolate(at: float, xs: Sequence[float], values: Sequence[Modality]) -> Float64:
    """[3] strengths at `at`, by linear interpolation over rising `xs`, held beyond the ends."""
    return np.array([np.interp(at, xs, [value[m] for value in values]) for m in range(3)])
