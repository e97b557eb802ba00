"""The windows of a clip as a front: which takes which step next, and the latent frames that are under way; numpy alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..plan import SamplingPlan, Window, WindowRule, advance, blend_frame, windows

Float32 = NDArray[np.float32]


def windows_under_way(steps: int, rule: WindowRule) -> int:
    """The most windows that can have taken their first step and not their last, whatever the clip's length: a step waits for the
    windows that reach into it, and those for theirs."""
    return (steps - 1) * (math.ceil(rule.length / (rule.length - rule.overlap)) - 1) + 2


class Front:
    """Which window takes which step next, and the latent frames that are under way.

    The furthest step that can be taken comes first. Of each latent frame the history is kept from its first step to its last; of
    frames that are finished only the result is. The numbers are those of taking all windows through one step after the other.
    """

    def __init__(self, plan: SamplingPlan, rule: WindowRule, start: Float32) -> None:
        frames = start.shape[1]
        self.plan = plan
        every = windows(frames, rule)
        self.spans = [windows(frames, rule, step) if rule.upstream_compat else every for step in range(plan.steps)]
        self.windows = len(self.spans[0])
        self.taken = [0] * plan.steps  # windows that have taken each step
        self.settled = [frames] + [0] * plan.steps  # leading latent frames that have taken so many steps
        self.parts: list[list[tuple[Window, Float32]]] = [[] for _ in range(plan.steps)]
        self.history = {frame: [start[:, frame]] for frame in range(frames)}
        self.states = [{frame: start[:, frame] for frame in range(frames)}, *({} for _ in range(plan.steps))]
        self.result = np.zeros_like(start)

    def next(self) -> tuple[int, int, Window] | None:
        """(step, index of the window, window), or None when all is done."""
        for step in reversed(range(self.plan.steps)):
            position = self.taken[step]
            if position < self.windows:
                span = self.spans[step][position]
                if span.end <= self.settled[step]:
                    return step, position, span
        return None

    def latents(self, step: int, span: Window) -> Float32:
        """[C, length, h, w]: the window's latents before `step`."""
        frames = range(span.start, span.end)
        return np.ascontiguousarray(np.stack([self.states[step][frame] for frame in frames], axis=1))

    def take(self, step: int, span: Window, velocity: Float32) -> None:
        """The guided velocity [C, length, h, w] of the window that `next` gave: frames that no later window reaches advance."""
        parts, states = self.parts[step], self.states[step]
        parts.append((span, velocity))
        self.taken[step] += 1
        more = self.taken[step] < self.windows
        until = self.spans[step][self.taken[step]].start if more else self.settled[0]
        for frame in range(self.settled[step + 1], until):
            history = self.history[frame]
            history.append(blend_frame(parts, frame))
            state = advance(self.plan, step, history)
            del states[frame]
            if step == self.plan.steps - 1:
                self.result[:, frame] = state
                del self.history[frame]
            else:
                self.states[step + 1][frame] = state
        self.settled[step + 1] = until
        parts[:] = [part for part in parts if part[0].end > until]
