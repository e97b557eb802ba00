"""The loop of every training of a transformer: gradients clipped, an average of the weights beside them, checkpoints that a killed
run repeats itself from, in one process or in many.

A step depends on nothing but its number and the state before it, so that what a run gives is the same bits however often it was
killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..model.transformer import DiT
from .averaging import averaged
from .checkpoint import load_checkpoint, require_options, save_checkpoint
from .distributed import World, load_model, load_optimiser, spread, whole_model, whole_optimiser
from .optimisers import Optimisers, adamw, set_rate

M = TypeVar("M", bound=nn.Module)
Loss = Callable[[M, int], tuple[str, Tensor]]  # the model, the step -> which loss it is, and its value
Watch = Callable[[nn.Module, int], None]  # the averaged model, the steps taken


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done and asked for, and the seconds that the rest will take at the speed so far; None at its end."""

    step: int
    steps: int
    seconds_left: float | None


@dataclass(frozen=True)
class Run:
    """Where a training is kept and how long it goes on. `options`: as `options_of` tells them; a folder goes on with no others.
    `rate(step)` is the learning rate, `ema` the decay of the average, `optimisers(model)` what moves the weights. `told` is called
    in the first process after each line of the log that has losses, and after `watch`; `ticked(steps taken, of how many)` in every
    process after each step."""

    path: Path
    log: Path
    options: str
    steps: int
    seed: int
    ema: float
    rate: Callable[[int], float]
    report_every: int = 50
    save_every: int = 200
    world: World = field(default_factory=World)
    optimisers: Optimisers = adamw
    watch_every: int = 50
    told: Callable[[Progress], None] = lambda _: None
    ticked: Callable[[int, int], None] = lambda *_: None


def run_training(
    run: Run,
    build: Callable[[], M],
    loss_of: Loss[M],
    companions: Mapping[str, nn.Module] | None = None,
    optimisers: Mapping[str, torch.optim.Optimizer] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains, resumes, or finds finished what `build` makes. -> the last checkpoint; its "average" is the result.

    `loss_of` is called with `torch`'s generator set by the seed and the step. `companions`: models that change as the run goes on
    and are kept with it, spread already; `optimisers`: of those that `loss_of` trains, by the same names. `watch` looks at the
    average every `watch_every` steps and before each checkpoint, which is not written where it raises.

    Raises:
        ConfigError: the folder holds a run with other options or more steps, or no step is asked for.
    """
    world, companions, optimisers = run.world, companions or {}, optimisers or {}
    saved = load_checkpoint(run.path)
    if saved is not None:
        require_options(saved, run.options, run.path)
    step = saved["step"] if saved is not None else 0
    if step > run.steps:
        raise ConfigError(f"{run.path} has taken {step} steps already, more than the {run.steps} asked for. Use another folder.")
    if saved is None or step < run.steps:
        model, average = build(), averaged(build(), run.ema, step)
        model, _ = spread(model, world), spread(average.module, world)
        movers = run.optimisers(model)
        if saved is not None:
            _restore(run.path, saved, model, average.module, movers, companions)
            for name, each in optimisers.items():
                load_optimiser(companions[name], each, saved[_moments(name)])
            saved = None  # as much memory as model, average and moments together
        began, started, losses = step, time.monotonic(), dict[str, list[float]]()
        progress: Progress | None = None
        while step < run.steps:
            torch.manual_seed(run.seed * 1_000_003 + step)
            kind, loss = loss_of(model, step)
            set_rate(movers, run.rate(step))
            for mover in movers:
                mover.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for mover in movers:
                mover.step()
            step += 1
            average.update_parameters(model)
            losses.setdefault(kind, []).append(world.mean(loss))
            del loss  # its graph holds the parameters
            if step % run.report_every == 0 or step == run.steps:
                means = {name: round(float(np.mean(values)), 4) for name, values in losses.items()}
                if world.first:
                    taken = time.monotonic() - started
                    log_line(run.log, {"step": step, **means, "seconds": round(taken)})
                    left = taken / (step - began) * (run.steps - step)
                    progress = Progress(step, run.steps, left if step < run.steps else None)
                losses = {}
            saves = step % run.save_every == 0 or step == run.steps
            if watch is not None and (saves or step % run.watch_every == 0):
                watch(average.module, step)
            if saves:
                state = {"model": whole_model(model), "average": whole_model(average.module)}
                state["optimiser"] = whole_optimiser(model, movers)
                state |= {name: whole_model(each) for name, each in companions.items()}
                state |= {_moments(name): whole_optimiser(companions[name], each) for name, each in optimisers.items()}
                if world.first:
                    save_checkpoint(run.path, state | {"step": step, "options": run.options})
                world.wait()
            run.ticked(step, run.steps)
            if progress is not None:
                run.told(progress)
                progress = None
        del model, average, movers  # before as much is read again
        saved = load_checkpoint(run.path)
    if saved is None:
        raise ConfigError(f"Training ran for {run.steps} steps and left nothing in {run.path}. Give steps of at least 1.")
    return saved


def _restore(
    path: Path,
    saved: Mapping[str, Any],
    model: nn.Module,
    average: nn.Module,
    movers: Sequence[torch.optim.Optimizer],
    companions: Mapping[str, nn.Module],
) -> None:
    if any(isinstance(name, int) for name in saved["optimiser"]["state"]):
        raise ConfigError(f"{path} is of an earlier version, which numbered its optimiser's moments. Use another folder.")
    load_model(model, saved["model"])
    load_model(average, saved["average"])
    load_optimiser(model, movers, saved["optimiser"])
    for name, each in companions.items():
        if saved.get(name) is not None:
            load_model(each, saved[name])


def recompute_blocks(dit: DiT) -> None:
    """Each block is run again in the backward pass, instead of keeping its activations."""
    from torch.utils.checkpoint import checkpoint

    for block in dit.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def _moments(name: str) -> str:
    """What the state of a companion's optimiser is called in checkpoints."""
    return f"{name}_optimiser"


def log_line(path: Path, line: dict[str, Any]) -> None:
    """Adds a line of JSON to a run's log."""
    with open(path, "a") as log:
        print(json.dumps(line), file=log, flush=True)
