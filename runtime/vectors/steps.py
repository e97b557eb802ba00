"""Step arithmetic: the accumulation rule, whole plans of every preset under given velocities, and the loop over windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.plan import SamplingPlan, Window, WindowRule, advance, guide, noise
from ...core.plan.phases import Phase
from ...core.plan.plan import combine
from ...core.plan.samplers import PLAN_PRESETS, AudioGuidance, FeatureReuse, NoGuidance, build_plan
from ...core.sampling.loop import sample
from ...core.weights.nano import read_passport, student_path
from ...quantize.distill.run import student_options
from .group import Float32, Group, numbers

_VALUES = 24  # of a clip's latents where plans are stepped through


def plans() -> dict[str, SamplingPlan]:
    """Plans that between them have all that a plan can have: every preset, feature reuse of its own slots and of shared ones, other
    solvers, every number of steps of the shipped student, weights by latent frame, a seed of 64 bits."""
    nano, flash = PLAN_PRESETS["nano"], PLAN_PRESETS["flash"]
    passport = read_passport(student_path())
    assert passport is not None  # of the student that ships
    students = {f"student-{n}": student_options(passport, n) for n in passport.allowed}
    reusing = FeatureReuse(threshold=0.2, skip_first=1)
    options = PLAN_PRESETS | students | {
        "reuse": replace(nano, reuse=reusing, guidance=AudioGuidance(1.5, skip_ratio=0.4)),
        "reuse-shared": replace(flash, steps=6, reuse=replace(reusing, upstream_compat=True)),
        "dpmpp": replace(flash, solver="dpmpp", steps=5, guidance=AudioGuidance(3.0, dynamic=True)),
        "euler-png": replace(
            nano, solver="euler", steps=4, window=WindowRule(length=3, overlap=1),
            phases=(Phase(1.0, 0.5, misaligned=0.7), Phase(0.5, 0.0, negatives=(("still mouth", 0.3),))), seed=2**64 - 1,
        ),
        "one-step": replace(nano, solver="euler", steps=1, guidance=NoGuidance(),
            window=WindowRule(length=2, overlap=0, anchor="clip")),
    }  # fmt: skip
    return {name: build_plan(each, _modulation) for name, each in options.items()}


def _modulation(timesteps: Sequence[float]) -> Any:
    """Modulation vectors [n, 8] of no model, that change with the timestep so that some steps reuse."""
    return np.array([[(1.0 + k) * (1.0 + 0.0004 * t) for k in range(8)] for t in timesteps])


class Formulas:
    """Programs that are formulas, every operation in float32: what docs/PLAYERS.md says of a loop."""

    def __init__(self) -> None:
        self.reused = 0

    def begin(self, position: int, span: Window) -> None:
        """Nothing is prepared."""

    def evaluate(self, step: int, branch: int, position: int, _: Window, latents: Float32) -> tuple[Float32, Float32]:
        scale, offset = np.float32(0.5 / (branch + 1)), np.float32(0.125 * (step + 1) - 0.0625 * position)
        return latents * scale + offset, latents * np.float32(0.25)

    def reuse(self, step: int, branch: int, position: int, _: Window, latents: Float32, residual: Float32) -> Float32:
        self.reused += 1
        made: Float32 = residual + latents * np.float32(0.5)
        return made

    def end(self, position: int) -> None:
        """Nothing was prepared."""


def build() -> Group:
    group = Group("steps")
    _combinations(group)
    for name, plan in plans().items():
        file = group.file(f"plans/{name}.json", plan.to_json().encode())
        _stepped(group, name, file, plan)
        lengths = {1, 3} if plan.window is None else {plan.window.length}
        for frames in sorted(lengths):
            weights = np.stack([plan.modality(step, frames) for step in range(plan.steps)])
            group.case(
                "modality", f"modality of {name}, {frames} frames", {"plan": file, "frames": frames}, {"weights": weights},
                trap="a weight is narrowed from the double",
            )  # fmt: skip
        for shape in ((1, 5, 2, 2), (2, 3, 2, 3), (1, 8, 1, 2)):
            rule = plan.window or WindowRule(length=3, overlap=1)
            if shape[1] >= rule.length:
                _looped(group, name, file, plan, rule, shape)
    rows = numbers(21, 5, 8)
    for scale in (1.0, 1.5, 0.0, 1.1, 0.1**3, 1e12):
        text = rows * np.float32(scale)
        group.case("text_scale", f"text scale {scale:g}", {"scale": scale, "rows": rows}, {"text": text})
    return group


def _combinations(group: Group) -> None:
    zero = np.array([-0.0, 0.0, 1.5, -0.0], np.float32)
    big = np.array([1e30, -3e38, 3e38, 65504.0], np.float32)
    odd = np.array([1, 3, 5, 7], np.float32)
    endless = np.array([np.inf, -np.inf, np.inf, 1.0], np.float32)
    cases: dict[str, tuple[list[float], list[Float32], str | None]] = {
        "a sum begins with its first term": ([1.0, 2.0], [zero, zero], "0 + -0 is 0"),
        "weights that are zero are left out": ([0.0, 0.5, -0.0, -1.5], [endless, numbers(1, 4), endless, numbers(2, 4)],
            "0 · ∞ is NaN"),
        "one term": ([1.0], [numbers(3, 4)], None),
        "what cancels": ([1.0, -1.0, 1e-7], [numbers(4, 4), numbers(4, 4), numbers(5, 4)], "float32 sums"),
        "what would be zero": ([0.1, -0.1], [numbers(12, 16), numbers(12, 16)], "fused operations leave what the product lost"),
        "beyond float32 between": ([3.0, -3.0, 1.0], [big, big, numbers(6, 4)], "float32 products"),
        "many terms": ([0.1 * (k + 1) for k in range(26)], [numbers(40 + k, 64) for k in range(26)], "another order"),
        "small weights": ([1.0, 1e-9, -1e-9], [numbers(7, 64), numbers(8, 64), numbers(9, 64)], "float32 sums"),
        "halves": ([1.0, 2.0**-24, 2.0**-24], [odd, odd, odd], "two roundings"),
        "guidance": ([1.5, -0.5], [numbers(10, 64), numbers(11, 64)], "v0 + g · (v - v0)"),
    }  # fmt: skip
    for name, (weights, arrays, trap) in cases.items():
        given = {"weights": np.array(weights), "arrays": np.stack(arrays)}
        group.case("combine", name, given, {"sum": combine(zip(weights, arrays, strict=True))}, trap=trap)
    for name, weights in (("nothing is left", [0.0, 0.0]),):
        arrays = [numbers(1, 4), numbers(2, 4)]
        given = {"weights": np.array(weights), "arrays": np.stack(arrays)}
        group.refused("combine", name, given, lambda: combine(zip(weights, arrays, strict=True)), must=False)  # noqa: B023


def _stepped(group: Group, name: str, file: dict[str, str], plan: SamplingPlan) -> None:
    start, drawn = numbers(100, _VALUES), numbers(101, plan.steps, len(plan.branches), _VALUES)
    history, guided, latents, velocities = [start], [], [], np.zeros_like(drawn)
    for step in range(plan.steps):
        evaluated = plan.evaluated(step)
        velocities[step, list(evaluated)] = drawn[step, list(evaluated)]
        guided.append(guide(plan, step, [drawn[step, b] if b in evaluated else None for b in range(len(plan.branches))]))
        history.append(guided[-1])
        latents.append(advance(plan, step, history))
    given = {"plan": file, "noise": start, "velocities": velocities}
    group.case("step", f"steps of {name}", given, {"guided": np.stack(guided), "latents": np.stack(latents)})


def _looped(
    group: Group, name: str, file: dict[str, str], plan: SamplingPlan, rule: WindowRule, shape: tuple[int, int, int, int]
) -> None:
    seed, formulas = plan.noise.seed, Formulas()
    latents, evaluations = sample(plan, rule, noise(seed, shape), formulas)
    given = {"plan": file, "length": rule.length, "overlap": rule.overlap, "shape": list(shape), "seed": seed}
    expected = {"latents": latents, "evaluations": evaluations, "reused": formulas.reused}
    group.case("loop", f"{name}, {shape[1]} latent frames", given, expected)
