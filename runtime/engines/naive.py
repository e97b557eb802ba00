"""The step as the released pipeline computes it: what does not change in a step is computed again in every one.

Keys and values of text, portrait and speech, what is known of the clip, and the timestep's modulation are otherwise made once
(`targets/rewrites/hoist.py`): this engine is what that saves, in time, of a whole clip. The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.bundle import CONDITION_PROGRAMS
from ...core.plan import SamplingPlan
from .around import Around
from .reference import ReferenceEngine


@dataclass(frozen=True)
class Later:
    """An output that a step computes for itself."""

    program: str
    inputs: tuple[Any, ...]
    position: int


class Naive(Around):
    """`engine`, with conditions and step tables made in the step. `tables`: those of `plan`, whose rows tell which step it is.

    It goes with plans that reuse no features: a reused step has no conditions to make.
    """

    def __init__(self, engine: ReferenceEngine, tables: Mapping[str, Any], plan: SamplingPlan) -> None:
        super().__init__(engine)
        self.reference = engine
        steps = zip(tables["time"], plan.timesteps, plan.spans, strict=True)
        self._step = {row.tobytes(): ([timestep], [span]) for row, timestep, span in steps}

    def run(self, program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        if program in CONDITION_PROGRAMS:
            return [Later(program, tuple(inputs), position) for position in range(len(CONDITION_PROGRAMS[program]))]
        if program != "denoise":
            return self.engine.run(program, method, inputs)
        latents, time, _, modality, *conditions = inputs
        tables = self.reference.step_tables(*self._step[time[0].tobytes()])
        made: dict[str, list[Any]] = {}
        for condition in conditions:
            if isinstance(condition, Later) and condition.program not in made:
                made[condition.program] = self.engine.run(condition.program, "forward", condition.inputs)
        given = [made[c.program][c.position] if isinstance(c, Later) else c for c in conditions]
        return self.engine.run(program, method, [latents, tables["time"], tables["modulation"], modality, *given])
