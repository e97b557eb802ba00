"""`echoedge distill nano`: lessons, training, the student beside its teacher; each stage goes on where a killed run stopped."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...core.files import atomic_file
from ...core.metrics.psnr import psnr
from ...core.model.programs import Model
from ...core.plan import SamplingPlan
from ...core.plan.samplers import PLAN_PRESETS, AudioGuidance, NoGuidance, PlanOptions, build_plan
from ...core.train.distributed import World
from ...core.train.evaluate import held_out
from ...core.train.generate import decode, sample_and_decode
from ...core.train.loop import Progress
from ...core.train.pace import Pace, Say
from ...core.train.page import sample_sheet, write_page
from ...core.weights.nano import load_nano, nano_digest, read_passport, read_world, save_nano
from ...core.weights.passport import Passport
from ...core.work import WorkFolder, claimed
from ..recipes import PRESETS, WeightRecipe
from .lessons import Lessons, draw_lessons, stops
from .rounding import Inputs, as_taught, round_layers
from .start import load_start
from .student import folded_scale, student_of
from .training import Distilling, Method, train_student

EVALUATED_CLIPS, FIRST_CLIP, SEED = 12, 5000, 0
TEACHER = PLAN_PRESETS["nano"]
PAGE, SHEET = "progress.html", "samples.png"  # in the work folder
SHOWN = 4  # clips of a sheet


def passport_of(
    teacher: str,
    options: PlanOptions,
    lessons: Lessons,
    recipe: WeightRecipe = PRESETS["fp32"],
    inputs: Inputs = "float",
    method: Method = "flow-map",
) -> Passport:
    """What a student of such lessons may be asked. `teacher`: SHA-256 of its weights; `recipe`, `inputs`: what it learnt through;
    `method`: how.

    Raises:
        ConfigError: the teacher's guidance is not one that a student folds in.
    """
    scale = folded_scale(options)
    levels = build_plan(replace(options, window=None)).sigmas
    by_steps = {count: tuple(levels[stop] for stop in stops(levels, count))[:-1] for count in sorted(lessons.steps)}
    return Passport(
        teacher=teacher, solver=options.solver, steps=options.steps, shift=options.shift,
        audio_guidance=scale, levels=by_steps, tasks=tuple(name for name, _ in lessons.tasks),
        weights=recipe.name, rules=tuple(rule.model_dump() for rule in recipe.rules), inputs=inputs,
        method=method,
    )  # fmt: skip


def teacher_options(audio_guidance: float | None = None) -> PlanOptions:
    """How nano plays what a student learns, with another scale of audio guidance than its own: 1 is none.

    Raises:
        ConfigError: the scale is out of range.
    """
    return TEACHER if audio_guidance is None else replace(TEACHER, guidance=AudioGuidance(scale=audio_guidance))


def student_options(passport: Passport, steps: int, options: PlanOptions = TEACHER) -> PlanOptions:
    """The plan's options for a student of a teacher that plays by `options`: Euler's steps between its levels, one branch.

    Raises:
        ConfigError: it was not taught that many steps.
    """
    passport.require(steps)
    return replace(options, solver="euler", steps=steps, shift=1.0, guidance=NoGuidance(), phases=(), levels=passport.levels[steps])


def distill_nano(
    workdir: Path,
    out: Path,
    lessons: Lessons | None = None,
    training: Distilling | None = None,
    weights: Path | None = None,
    processes: int = 2,
    threads: int = 2,
    report: Say = print,
    world: World | None = None,
    start: Path | None = None,
    small: bool = False,
    options: PlanOptions = TEACHER,
) -> dict[str, Any]:
    """Draws lessons of nano, or of `weights`, in `workdir`, of the drawn world that these were trained in, trains a student on them
    and writes it to `out`. `start`: a student that it begins as; `small`: written as its difference from the shipped teacher;
    `options`: by which the teacher plays, whose guidance is folded in. -> how near its clips come to its teacher's, by number of
    steps; nothing in the other processes of `world`, of which the first one does the rest.

    Raises:
        ConfigError: `weights` are a student's, `start` is none of the same teacher, the recipe is none that a student learns
            through, or `workdir` holds a run with other options.
        TrainingError: the student collapses.
        OutputError: `workdir` is a folder of something else, another run works in it, or another one writes `out`.
    """
    lessons, training, world = lessons or Lessons(), training or Distilling(), world or World()
    if read_passport(weights) is not None:
        raise ConfigError(f"{weights or 'The shipped file'} holds a student. Give its teacher's weights.")
    if small and (training.recipe.rules or weights is not None):
        raise ConfigError(
            "--small keeps a student to half a 127th of what it changed, which is for full precision and the shipped teacher. "
            "Leave it, or leave --weights and --teacher."
        )
    lessons = replace(lessons, world=read_world(weights))
    missing = [count for count, _ in training.mix if count not in lessons.steps]
    if missing:
        raise ConfigError(f"The mix has steps of {missing[0]}, and the lessons are for {lessons.steps}. Give both the same.")
    teacher = load_nano(path=weights)
    passport = passport_of(nano_digest(weights), options, lessons, training.recipe, training.inputs, training.method)
    began = None if start is None else load_start(start, passport)
    round_layers(student_of(teacher.dit), training.recipe)  # a recipe that nobody learns through is refused before all else
    torch.set_num_threads(threads)
    say = report if world.first else _silent
    with ExitStack() as held:
        if world.first:
            held.enter_context(WorkFolder(workdir, "distillation"))
            held.enter_context(claimed(out, "distillation"))
        say(f"1. lessons: {lessons.shards * lessons.shard} clips of the teacher in {workdir / 'lessons'}")
        told = Pace("shards", say)
        drawn = world.first_then_others(partial(draw_lessons, workdir / "lessons", lessons, weights, options, processes, told=told))
        say(f"2. student: {training.steps} steps of {training.batch} lessons; live page {workdir / PAGE}")
        dit = train_student(
            teacher.dit,
            drawn,
            workdir,
            training,
            world,
            base=began,
            options=options,
            told=partial(_watched, workdir),
            ticked=Pace("steps", say),
            shown=partial(_shown, workdir, teacher),
        )
        if not world.first:
            return {}
        assert teacher.encoders is not None
        save_nano(out, dit, teacher.vae, teacher.encoders, passport, lessons.world, small)
        metrics = beside_teacher(load_nano(path=out), teacher, passport, world=lessons.world, options=options)
        passport = passport.model_copy(update={"figures": {int(count): found for count, found in metrics.items()}})
        save_nano(out, dit, teacher.vae, teacher.encoders, passport, lessons.world, small)
        for count, found in metrics.items():
            say(f"3. held-out clips, {count} steps: {found['psnr_db']:.1f} dB from the teacher's own")
        with atomic_file(out.with_suffix(".json"), force=True) as temporary:
            temporary.write_text(json.dumps({"steps": metrics, "passport": passport.model_dump()}, indent=1) + "\n")
        return metrics


def _shown(workdir: Path, teacher: Model, step: int, latents: Mapping[str, Tensor]) -> None:
    """A sheet of the first few clips that a look was at, instead of the one before."""
    clips = {f"{name}, step {step}": decode(teacher, each[:SHOWN].cpu().numpy()) for name, each in latents.items()}
    with atomic_file(workdir / SHEET, force=True) as temporary:
        sample_sheet(clips).save(temporary, "PNG")


def _watched(workdir: Path, progress: Progress) -> None:
    """The page anew."""
    losses = {"loss": "Regression", "on-policy": "On-policy", "matching": "Matching and regression"}
    write_page(workdir / PAGE, "A student of few steps", progress, workdir / "student.log", losses, workdir / SHEET)


def beside_teacher(
    student: Model,
    teacher: Model,
    passport: Passport,
    clips: int = EVALUATED_CLIPS,
    world: str = "calm",
    options: PlanOptions = TEACHER,
) -> dict[str, dict[str, float]]:
    """By number of steps: the held-out clips of portrait and speech of a student, through the weights that it was taught through,
    against the teacher's, from the same noise."""
    people = held_out(clips, FIRST_CLIP, world=world)
    expected = _clips(teacher, build_plan(options), people)
    student = replace(student, dit=as_taught(copy.deepcopy(student.dit), passport))
    found = {}
    for count in passport.allowed:
        made = _clips(student, build_plan(student_options(passport, count)), people)
        each = [psnr(a, b, 255.0) for a, b in zip(expected, made, strict=True)]
        found[str(count)] = {"psnr_db": round(float(np.mean(each)), 2), "lowest_db": round(min(each), 2)}
    return found


def _clips(model: Model, plan: SamplingPlan, people: Sequence[Any]) -> Sequence[Any]:
    return sample_and_decode(model, people, plan, seed=SEED).videos


def _silent(line: str) -> None:
    """Only the first process reports."""
