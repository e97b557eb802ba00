"""Whether a student's clips are still such as its teacher makes: looked at while it trains, so that a collapse ends the run.

What a collapse looks like is known: a flat colour, a still picture, a tint. The averaged student plays held-back lessons at its
fewest and at its most steps, and three figures of its latents are compared with the teacher's own clips of the same lessons:

    variance   of a channel within a clip, as a ratio
    motion     mean size of the change from latent frame to latent frame, as a ratio
    colour     a channel's mean over a clip, in units of its spread among the teacher's clips

The range comes from the teacher. Two sets of n of its clips differ in the mean of a figure by √(2 / n) spreads; `TOLERANCE` times
that is still taken for the teacher's, and so is any ratio from 1 / `LEAST` to `LEAST`. Regression towards few steps begins where
the untaught student stands, which may be outside: a range reaches as far as the figures that the run began with, and a tenth on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import TrainingError
from ...core.plan import check_count
from ...core.train.checkpoint import load_checkpoint
from ...core.train.distributed import whole_model
from ...core.train.loop import Run, log_line
from .student import Student, in_steps

TOLERANCE = 4.0
LEAST = 1.4
MARGIN = 1.1  # on what the run began with
STILL = 0.25  # of the deviation within clips: the least spread of colours that shifts are counted in
Shown = Callable[[int, Mapping[str, Tensor]], None]  # the step; latents [n, C, F, h, w] by who made them
RATIOS, SHIFT = ("variance", "motion"), "colour"


@dataclass(frozen=True)
class Monitoring:
    """every: steps between looks, 0 for none; lessons: held-back ones that are played each time.

    Raises:
        ConfigError: a number is out of range.
    """

    every: int = 50
    lessons: int = 16

    def __post_init__(self) -> None:
        check_count("monitor", self.every, 0, 1_000_000)
        check_count("lessons of the monitor", self.lessons, 4, 48)


def figures(clips: Tensor) -> dict[str, Tensor]:
    """clips [n, C, F, h, w] -> of each clip its variance and colour, [n, C], and its motion, [n, 1]."""
    motion = clips.diff(dim=2).abs().mean(dim=(1, 2, 3, 4))[:, None] if clips.shape[2] > 1 else clips.new_zeros(len(clips), 1)
    return {"variance": clips.var(dim=(2, 3, 4)), "motion": motion, SHIFT: clips.mean(dim=(2, 3, 4))}


@dataclass(frozen=True)
class Found:
    """One figure of the student's clips: `value` beside the teacher's, and the range that it may be in."""

    figure: str
    channel: int
    steps: int
    value: float
    low: float
    high: float

    @property
    def within(self) -> bool:
        """Whether it is in its range; what is no number is not."""
        return self.low <= self.value <= self.high

    @property
    def distance(self) -> float:
        """How far beyond its range, for finding the worst; infinite where it is no number."""
        if not math.isfinite(self.value):
            return math.inf
        if self.figure == SHIFT:
            return abs(self.value) / self.high
        return max(self.low / max(self.value, 1e-12), self.value / self.high)

    def __str__(self) -> str:
        where = self.figure if self.figure == "motion" else f"{self.figure} of channel {self.channel}"
        unit = "spreads of the teacher's clips from its own" if self.figure == SHIFT else "of the teacher's"
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return f"{where} at {steps} is {self.value:.3g} {unit}, and may be {self.low:.3g} to {self.high:.3g}"


class Monitor:
    """Held-back lessons with the teacher's figures on them. `paths`: by number of steps the points of `levels` that it goes by;
    `began`: the student before its first step, which is kept, to play what is looked at."""

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        levels: Tensor,
        modality: Tensor,
        paths: Mapping[int, Sequence[int]],
        began: Student,
        device: torch.device | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        self.batch = {name: value.to(device) for name, value in batch.items()}
        self.levels, self.modality, self.player = levels.to(device), modality.to(device), began.to(device)
        self.played: dict[int, Tensor] = {}  # by number of steps, the clips that were looked at last
        self.paths = {count: list(paths[count]) for count in sorted({min(paths), max(paths)})}
        self.teacher = figures(self.batch["states"][:, -1].float())
        self.start = {(each.figure, each.channel, each.steps): each for each in self._found({})}

    def look(self, weights: Mapping[str, Tensor]) -> list[Found]:
        """Every figure of the clips of a student of these weights."""
        self.player.load_state_dict(weights)
        return list(self._found(self.start))

    @torch.no_grad()
    def _found(self, start: Mapping[tuple[str, int, int], Found]) -> Iterator[Found]:
        count = len(self.batch["states"])
        apart = TOLERANCE * math.sqrt(2 / count)
        for steps, path in self.paths.items():
            noise = self.batch["states"][:, 0].float()
            clips = in_steps(self.player, noise, self.levels[path], self.modality[path[:-1]], self.batch)[-1]
            self.played[steps] = clips
            for name, mine in figures(clips).items():
                theirs = self.teacher[name]
                mean, spread = theirs.mean(0), theirs.std(0)
                if name == SHIFT:
                    unit = torch.maximum(spread, STILL * self.teacher["variance"].mean(0).sqrt())
                    values, reach = (mine.mean(0) - mean) / unit, torch.full_like(mean, apart)
                    lows, highs = -reach, reach
                else:
                    values = mine.mean(0) / mean.clamp_min(1e-12)
                    highs = (apart * spread / mean.clamp_min(1e-12)).exp().clamp_min(LEAST)
                    lows = 1 / highs
                for channel, (value, low, high) in enumerate(zip(values.tolist(), lows.tolist(), highs.tolist(), strict=True)):
                    began = start.get((name, channel, steps))
                    if began is not None and math.isfinite(began.value):
                        low, high = _widened(name, began.value, low, high)
                    yield Found(name, channel, steps, value, low, high)


def _widened(figure: str, began: float, low: float, high: float) -> tuple[float, float]:
    """A range that holds what the run began with, and a tenth more."""
    if figure == SHIFT:
        reach = max(high, MARGIN * abs(began))
        return -reach, reach
    return min(low, began / MARGIN), max(high, began * MARGIN)


def require(found: Sequence[Found], step: int, kept: int) -> None:
    """`kept`: the step of the checkpoint that is there; 0 for none.

    Raises:
        TrainingError: a figure is outside its range; names the one that is furthest.
    """
    outside = [each for each in found if not each.within]
    if not outside:
        return
    worst = max(outside, key=lambda each: each.distance)
    left = f"The checkpoint of step {kept} stays, whose figures were in range." if kept else "No checkpoint was written yet."
    raise TrainingError(
        f"Step {step}: the student's {worst}. {len(outside)} of {len(found)} figures are out of range, and the run is stopped. "
        f"{left} Use a lower rate or less matching, in another folder; --monitor 0 goes on regardless."
    )


class Watch:
    """What a run's loop calls: figures to the log, and an end where they are out of range. `monitor`: of the first process, None
    for no looks; `beside`: what else goes to the log; `shown` is given the clips of each look before a checkpoint."""

    def __init__(
        self,
        monitor: Monitor | None,
        run: Run,
        beside: Callable[[], dict[str, float]] | None = None,
        shown: Shown = lambda *_: None,
    ) -> None:
        self.monitor, self.run, self.beside, self.shown = monitor, run, beside, shown

    def __call__(self, average: nn.Module, step: int) -> None:
        weights, world = whole_model(average), self.run.world
        found = [] if self.monitor is None else self.monitor.look(weights)
        line: dict[str, Any] = {} if self.beside is None else dict(self.beside())
        line |= {"monitor": told(found)} if found else {}
        if world.first and line:
            log_line(self.run.log, {"step": step, **line})
        if self.monitor is not None and (step % self.run.save_every == 0 or step == self.run.steps):
            self.shown(step, {"teacher": self.monitor.batch["states"][:, -1].float()} | _by_name(self.monitor.played))
        outside = torch.tensor(float(any(not each.within for each in found)), device=world.device)
        if world.mean(outside) > 0:
            saved = load_checkpoint(self.run.path) if world.first else None
            require(found, step, 0 if saved is None else saved["step"])
            raise TrainingError(f"Step {step}: the student collapses; the first process says how.")


def _by_name(played: Mapping[int, Tensor]) -> dict[str, Tensor]:
    return {f"{steps} step{'s' * (steps != 1)}": clips for steps, clips in sorted(played.items(), reverse=True)}


def told(found: Sequence[Found]) -> dict[str, Any]:
    """For a log: by number of steps the least and the largest ratio of variance, the ratio of motion, the largest shift; None for
    what is no number."""

    def shown(value: float) -> float | None:
        return round(value, 3) if math.isfinite(value) else None

    line: dict[str, Any] = {}
    for steps in sorted({each.steps for each in found}):
        values = {name: [each.value for each in found if (each.figure, each.steps) == (name, steps)] for name in (*RATIOS, SHIFT)}
        line[str(steps)] = {
            "variance": [shown(min(values["variance"])), shown(max(values["variance"]))],
            "motion": shown(values["motion"][0]), SHIFT: shown(max(map(abs, values[SHIFT]))),
        }  # fmt: skip
    return line
