"""The one loop from noise to latents: windows, steps, guidance branches, feature reuse; numpy alone.

Whatever evaluates the model is a `Denoiser`: programs of a bundle, the reference in PyTorch on one clip or on many at once. The
loop decides what is evaluated when, and takes the linear combinations of docs/BUNDLE.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..plan import SamplingPlan, Window, WindowRule, guide
from .front import Front

Float32 = NDArray[np.float32]
Told = Callable[[int, int], None]


class Denoiser(Protocol):
    """A model under the conditions of a clip. `position`: the window's, `branch`: the guidance branch's index."""

    def begin(self, position: int, span: Window) -> None:
        """A window is about to take its first step."""
        ...

    def evaluate(self, step: int, branch: int, position: int, span: Window, latents: Float32) -> tuple[Float32, Any]:
        """latents [C, length, h, w] -> the velocity, of that shape, and what the blocks added, or None where no step reuses it."""
        ...

    def reuse(self, step: int, branch: int, position: int, span: Window, latents: Float32, residual: Any) -> Float32:
        """The velocity with what the blocks added in an earlier evaluation."""
        ...

    def end(self, position: int) -> None:
        """A window has taken its last step."""
        ...


def sample(
    plan: SamplingPlan, rule: WindowRule, start: Float32, denoiser: Denoiser, told: Told = lambda *_: None
) -> tuple[Float32, int]:
    """Noise [C, F, h, w] -> latents of that shape, and how many times the blocks ran. `told(done, total)`: of all velocities.

    A window takes its next step as soon as the latents under it have taken theirs, so that a long clip's windows pass as a front:
    conditions, residuals and velocities are held only for those between their first step and their last. Several clips of one plan
    may go through together, their channels side by side.

    Raises:
        ConfigError: the clip is shorter than a window (`windows`).
    """
    front = Front(plan, rule, start)
    residuals: dict[tuple[int, int], Any] = {}
    total, done, evaluations = front.windows * sum(len(plan.evaluated(step)) for step in range(plan.steps)), 0, 0
    while (turn := front.next()) is not None:  # the original's way with a clip shorter than a window: there is no turn
        step, position, span = turn
        if step == 0:
            denoiser.begin(position, span)
        latents = front.latents(step, span)
        velocities: list[Float32 | None] = [None] * len(plan.branches)
        for branch in plan.evaluated(step):
            slot = (position, plan.residual_slot(branch))
            if plan.reuse[step][branch]:
                velocities[branch] = denoiser.reuse(step, branch, position, span, latents, residuals[slot])
            else:
                velocities[branch], residual = denoiser.evaluate(step, branch, position, span, latents)
                evaluations += 1
                if residual is not None:
                    residuals[slot] = residual
            done += 1
            told(done, total)
        front.take(step, span, guide(plan, step, velocities))
        if step == plan.steps - 1:
            denoiser.end(position)
            residuals = {key: value for key, value in residuals.items() if key[0] != position}
    return front.result, evaluations
