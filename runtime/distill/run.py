"""`echoedge distill checkpoint`: a student of a released checkpoint, from a folder of videos; each stage goes on where a killed run
stopped.

    1. clips      videos -> windows that show one speaking face                      clips.py
    2. features   windows -> what the checkpoint's encoders make of them             cache.py
    3. lessons    features -> the teacher's guided trajectories                      lessons.py
    4. student    lessons -> a transformer that takes few steps                      quantize/distill/training.py
    5. folder     transformer, passport, links to the rest                           student_folder.py
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...core.config import ClipSpec
from ...core.errors import ConfigError, InputError, ResourceError
from ...core.files import check_folder, human_bytes, require_free_disk
from ...core.memory import Need, require
from ...core.model.architecture import Architecture
from ...core.plan import SamplingPlan, check_count
from ...core.plan.samplers import PLAN_PRESETS
from ...core.train.distributed import World
from ...core.train.pace import Pace, Say, in_words
from ...core.weights.checkpoints import Checkpoint, load_transformer
from ...core.work import WorkFolder
from ...quantize.distill.forecast import (
    BUILT,
    FLOAT,
    PROCESS,
    SAVED,
    Speed,
    Step,
    count_step,
    lessons_seconds,
    training_need,
    training_seconds,
)
from ...quantize.distill.monitor import Monitoring
from ...quantize.distill.training import Distilling, train_student
from ..play.prompts import read_prompts
from ..play.reference import Reference, Settings, memory_needed, peak_memory
from .cache import ENCODERS, Encoded, digest_of_files, encode_clips, prompts_of
from .clips import Checks, Cuts, cut_folder
from .lessons import ClipLessons, Shelved, shelve_lessons
from .student_folder import MARKER, passport_of_options, write_student

TEACHER_STEPS = {"flash": 12, "preview": 25}  # flash's released 8 do not pass where a student of 4 steps would
HELD_BACK = 8  # lessons, at most: each is played to the end by every number of steps
CLIP = ClipSpec(256, 256, 25)


@dataclass(frozen=True)
class Asked:
    """What a student is to be taught, and from what. folder: the teacher's; data: the videos; pack: prompts of the model's own
    encoder; teacher_steps: of the trajectories, None for the usual number.

    Raises:
        ConfigError: the steps in the mix are not those that lessons are drawn for, or numbers are out of range.
    """

    folder: Path
    data: Path
    pack: Path
    model: str | None = None
    clip: ClipSpec = CLIP
    checks: Checks = field(default_factory=Checks)
    lessons: ClipLessons = field(default_factory=ClipLessons)
    training: Distilling = field(default_factory=lambda: usual_training())
    teacher_steps: int | None = None

    def __post_init__(self) -> None:
        if self.teacher_steps is not None:
            check_count("teacher_steps", self.teacher_steps, 2, 100)
        if {count for count, _ in self.training.mix} != set(self.lessons.steps):
            raise ConfigError(f"The mix is {self.training.mix}, and lessons are for {self.lessons.steps}. Give both the same.")
        if self.training.recipe.rules:
            raise ConfigError("A checkpoint's student learns in full precision. Leave weights at fp32.")


def distill_checkpoint(
    asked: Asked,
    workdir: Path,
    out: Path,
    *,
    threads: int = 2,
    copy: bool = False,
    force: bool = False,
    world: World | None = None,
    sizes: Architecture | None = None,
    report: Say = print,
    save_every: int = 200,
) -> dict[str, float]:
    """Teaches a student and writes it to the folder `out`. -> by number of steps how far held-back clips' latents are from the
    teacher's, root mean square; nothing in the other processes of `world`. `sizes`: of the checkpoint, the released ones by
    default; `copy`: of its other components, in place of links.

    Raises:
        CheckpointError: the folder is not one of released weights, or lacks a part.
        InputError: the videos or the prompts cannot be used, or no window can be learnt from.
        ConfigError: it is a student, or `workdir` holds work of other options, videos or weights.
        OutputError: `out` exists, or another run works in `workdir`.
        ResourceError: memory or disk is too small for it.
    """
    world = world or World()
    say = report if world.first else _silent
    torch.set_num_threads(threads)
    checkpoint = Checkpoint.open(asked.folder, asked.model)
    if checkpoint.passport is not None:
        raise ConfigError(f"{asked.folder} holds a student. Give its teacher's folder.")
    sizes = sizes or Architecture(checkpoint.config())
    check_folder(out, force, MARKER)
    prompts = read_prompts(asked.pack, sizes.transformer.text_dim)
    teacher = _teacher(asked, checkpoint, sizes, prompts, world)
    passport_of_options("", teacher.options, asked.lessons.steps)  # what cannot be taught is refused before all else
    step = _forecast(asked, sizes, teacher.plan, world, say)
    require_free_disk(workdir, 2 * SAVED * FLOAT * step.parameters)  # the last checkpoint stays until the next one is whole
    with ExitStack() as held:
        if world.first:
            held.enter_context(WorkFolder(workdir, "distillation"))
        prepare = partial(_prepared, asked, checkpoint, teacher, workdir, say)
        drawn, digest = world.first_then_others(prepare)
        teacher.engine.release()
        training, steps = asked.training, asked.training.steps
        say(f"4. student: {steps:,} steps of {training.batch} lessons; progress in {workdir / 'student.log'}")
        dit = train_student(
            partial(load_transformer, checkpoint, torch.float32, config=sizes.transformer), drawn, workdir, training, world,
            save_every=save_every, held_back=held_back(len(drawn.clips), asked.lessons.noises), ticked=Pace("steps", say),
        )  # fmt: skip
        if not world.first:
            return {}
        passport = passport_of_options(digest, teacher.options, asked.lessons.steps)
        write_student(out, checkpoint, dit, passport, copy, force)
        say(f"5. folder: {out}")
        found: dict[str, float] = json.loads((workdir / "held-back.json").read_text())
        return found


def held_back(windows: int, noises: int) -> int:
    """Lessons of the last windows, an eighth of them but one at least, and no more than `HELD_BACK` lessons or one window.

    Raises:
        InputError: there is one window.
    """
    if windows < 2:
        raise InputError("One window can be learnt from, and one has to be held back. Give more videos, or longer ones.")
    return noises * max(1, min(windows // 8, HELD_BACK // noises))


def _teacher(asked: Asked, checkpoint: Checkpoint, sizes: Architecture, prompts: Any, world: World) -> Reference:
    """The reference player, in full precision, for clips of one window."""
    steps = asked.teacher_steps or TEACHER_STEPS[sizes.transformer.variant]
    settings = Settings(steps=steps, window=max(81, asked.clip.frames), device=str(world.device))
    return Reference(checkpoint, asked.clip, settings, sizes, prompts)


def _prepared(asked: Asked, checkpoint: Checkpoint, teacher: Reference, workdir: Path, say: Say) -> tuple[Shelved, str]:
    """Stages 1 to 3. -> the lessons, and the teacher's digest."""
    clip = asked.clip
    say(f"1. clips: windows of {clip} from {asked.data}")
    cuts = cut_folder(asked.data, workdir / "cuts", clip, asked.checks, Pace("videos", say))
    _tell_of(cuts, say)
    digests: dict[str, str] = {name: digest_of_files(checkpoint, name) for name in ENCODERS}
    digest = digest_of_files(checkpoint, "transformer")
    own = {text for options in PLAN_PRESETS.values() for _, text in options.texts}
    said = prompts_of(cuts, asked.data, teacher.prompts, own)
    held_back(len(said), asked.lessons.noises)
    say(f"2. features: {len(said):,} windows")
    encoded = _encoded(cuts, teacher, clip, digests, said, workdir, say)
    say(f"3. lessons: {len(said) * asked.lessons.noises:,} trajectories of {teacher.plan.evaluations} evaluations")
    told = Pace("lessons", say)
    return shelve_lessons(workdir / "lessons", asked.lessons, encoded, teacher, digest, clip, told), digest


def _encoded(
    cuts: list[Cuts], teacher: Reference, clip: ClipSpec, digests: dict[str, str], said: list[str], workdir: Path, say: Say
) -> Encoded:
    """With the encoders side by side in memory, and the transformer not."""
    engine = teacher.engine
    engine.resident = True
    try:
        told = Pace("windows", say)
        return encode_clips(workdir / "clips", cuts, teacher.player, clip, digests, teacher.prompts, said, told)
    finally:
        engine.resident = False
        engine.release()


def _tell_of(cuts: list[Cuts], say: Say) -> None:
    reasons: dict[str, int] = {}
    for each in cuts:
        for row in each.rows:
            if row["reason"] is not None:
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    taken = sum(len(each.taken) for each in cuts)
    lost = ", ".join(f"{count} × {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
    say(f"   {taken:,} windows of {sum(len(each.rows) for each in cuts):,} are taken" + (f"; not taken: {lost}" if lost else ""))


# ---- forecast --------------------------------------------------------------------------------------------------------------------


def needs_of(
    asked: Asked, sizes: Architecture, plan: SamplingPlan, step: Step, processes: int = 1, on_this: int = 1
) -> dict[str, Need]:
    """What each stage takes of memory, on a machine that holds `on_this` of the processes."""
    settings = Settings(window=max(81, asked.clip.frames))
    played = memory_needed(sizes, asked.clip, plan, settings)
    pictures = FLOAT * sum(torch.Size(shape).numel() for shape in sizes.clip.tensors().values())
    encoders = {"the VAE": played["vae"], "the speech encoder": played["speech encoder"], "the image encoder": pictures}
    teacher = {
        "the teacher": played["transformer"],
        "its conditions and a step": peak_memory(played, False) - played["transformer"],
    }
    return {
        "features": Need(encoders | {"the process": PROCESS}),
        "lessons": Need(teacher | {"the process": PROCESS}, {"its conditions and a step": "Take a smaller --size or --frames."}),
        "training": training_need(step, processes, on_this),
    }


def _forecast(asked: Asked, sizes: Architecture, plan: SamplingPlan, world: World, say: Say) -> Step:
    """Says what memory and time it takes, and refuses what does not fit. -> one step.

    Raises:
        ResourceError: a stage does not fit this machine.
    """
    training, config = asked.training, sizes.transformer
    on_this = min(world.size, int(os.environ.get("LOCAL_WORLD_SIZE", world.size)))
    gpu = world.device.type == "cuda"
    step = count_step(config, asked.clip, training.batch, training.recompute, training.bf16)
    needs = needs_of(asked, sizes, plan, step, world.size, 1 if gpu else on_this)
    speed = Speed.measured(config, world.device, training.bf16)
    seconds = training_seconds(step, training, speed, world.size)
    one = lessons_seconds(
        step, training.batch, 1, plan.evaluations, Speed.measured(config, world.device) if training.bf16 else speed
    )
    memory = ", ".join(f"{stage} {human_bytes(need.total)}" for stage, need in needs.items())
    parts = ", ".join(f"{human_bytes(count)} for {name}" for name, count in needs["training"].terms.items())
    say(f"Forecast of memory: {memory}. Of training that is {parts}.")
    say(f"Forecast of time at this machine's pace: {in_words(one)} a lesson, {in_words(seconds)} for {training.steps:,} steps.")
    have = torch.cuda.mem_get_info(world.device)[0] if gpu else None
    if gpu:
        whole = Need({"whole models in each process, while they are built": on_this * BUILT * FLOAT * step.parameters})
        require(whole, "building this student beside the GPU")
    for stage, need in needs.items():
        if have is None:
            require(need, f"{stage} of this student")
        elif need.total > have:
            raise ResourceError(need.sentence(f"{stage} of this student", have))
    return step


def _silent(line: str) -> None:
    """Only the first process reports."""


def mix_of(steps: tuple[int, ...]) -> tuple[tuple[int, float], ...]:
    """The share of the samples of each number of steps: the usual one of 1, 2 and 4, else equal ones."""
    usual = Distilling().mix
    return usual if steps == tuple(count for count, _ in usual) else tuple((count, 1 / len(steps)) for count in steps)


def usual_training(**changes: Any) -> Distilling:
    """What a released checkpoint's student is trained with, where nobody says otherwise; None changes nothing. Without the monitor,
    whose clips no forecast counts."""
    usual = Distilling(steps=2000, batch=4, rate=2e-5, monitor=Monitoring(0))
    return replace(usual, **{name: value for name, value in changes.items() if value is not None})
