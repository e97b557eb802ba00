"""Solvers and guidance against upstream's: timesteps, noise levels, whole trajectories, the scales of dynamic guidance."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from echoedge.core.plan import SamplingPlan, advance
from echoedge.core.plan.samplers import NoGuidance, PlanOptions, Velocity, build_plan, dynamic_scale, upstream_trajectory

from .goldens import Comparison, Golden, check

SOLVERS = {"Euler": "euler", "UniPC": "unipc", "DPMSolver": "dpmpp"}  # by a word in the name of upstream's class
NUMBER = r"([-+]?[\d.]+(?:e[-+]?\d+)?)"
VELOCITY = re.compile(rf"v = {NUMBER}\*x \+ {NUMBER}\*sin\({NUMBER}\*x\) - {NUMBER}\*cos\({NUMBER}\*u\) \+ {NUMBER}\*u\*x, u=")


def velocity_of(case: Golden) -> Velocity:
    """The nonlinear velocity that the case describes: evaluated in float32, given in the type of the latents."""
    found = VELOCITY.match(case.call["velocity"])
    if found is None:
        raise ValueError(f"{case.name} has a velocity of another form: {case.call['velocity']!r}.")
    a, b, c, d, e, f = map(float, found.groups())

    def velocity(x: Tensor, timestep: float) -> Tensor:
        u, y = timestep / 1000, x.float()
        return (a * y + b * torch.sin(c * y) - d * math.cos(e * u) + f * u * y).to(x.dtype)

    return velocity


def options_of(case: Golden, steps: int) -> PlanOptions:
    """Upstream's constructor and call as ours. Euler has the constructor's shift alone; the others shift again in the call."""
    name = case.data["upstream"]
    solver = next((solver for word, solver in SOLVERS.items() if word in name), None)
    if solver is None:
        raise ValueError(f"{case.name} was recorded from {name!r}; known are names with {', '.join(SOLVERS)}.")
    own, called = case.config["ctor_shift"], case.config.get("call_shift")
    if solver == "euler":
        return PlanOptions(solver=solver, steps=steps, shift=own, guidance=NoGuidance())
    shift = own if called is None else called
    return PlanOptions(solver=solver, steps=steps, shift=shift, constructor_shift=own, guidance=NoGuidance())


def replay(plan: SamplingPlan, noise: Tensor, velocity: Velocity) -> Tensor:
    """The n+1 states of a plan in float32, as a player computes them."""
    states, history = [noise], [noise.numpy()]
    for step, timestep in enumerate(plan.timesteps):
        history.append(velocity(states[-1], timestep).numpy())
        states.append(torch.from_numpy(advance(plan, step, history)))
    return torch.stack(states)


@check("scheduler")
def trajectories(case: Golden) -> Iterator[Comparison]:
    """float32: a plan's table, at most 0.053 of the tolerance. Other types: upstream's arithmetic in that type, bit for bit."""
    recorded, velocity = case.tensors(), velocity_of(case)
    dtype = getattr(torch, case.config["dtype"].removeprefix("torch."))
    noise = recorded["in/x0"].to(dtype)
    for steps in case.call["steps"]:
        options, prefix = options_of(case, steps), f"out/steps{steps}"
        plan = build_plan(options)
        timesteps, sigmas = recorded[f"{prefix}/timesteps"], recorded[f"{prefix}/sigmas"]
        yield f"{prefix}/timesteps", np.array(plan.timesteps), timesteps
        yield f"{prefix}/sigmas", np.array(plan.sigmas), sigmas
        if not timesteps.is_floating_point():  # the tolerance of trajectories would let whole numbers be off by one
            yield f"{prefix}/timesteps, exactly", list(plan.timesteps), timesteps.tolist()
        states = replay(plan, noise, velocity) if dtype == torch.float32 else upstream_trajectory(options, noise, velocity)
        yield f"{prefix}/x", states, recorded[f"{prefix}/x"]


@check("guidance")
def dynamic_guidance(case: Golden) -> Iterator[Comparison]:
    """Entries are named by steps, text scale and audio scale: N8_gs4_ags2.9 -> [text, audio] of every step."""
    for name, rows in case.results.items():
        found = re.fullmatch(rf"N(\d+)_gs{NUMBER}_ags{NUMBER}", name)
        if found is None:
            raise ValueError(f"{case.name} has a result {name!r}, which does not read N…_gs…_ags….")
        steps, scales = int(found[1]), (float(found[2]), float(found[3]))
        ours = [[dynamic_scale(scale, step, steps) for scale in scales] for step in range(steps)]
        yield f"results/{name}", np.array(ours), np.array(rows)
