"""What few steps cost: a student beside its teacher at the same numbers of steps, on people and voices that training never saw.

Portrait and voice nearly fix a clip of the drawn world, so that lip-sync does not tell one step from eight. What tells: how far a
clip is from the teacher's own, of the same noise; and, where only a voice or a prompt is given, how much clips differ and move.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...core.files import atomic_file, file_sha256
from ...core.metrics.diversity import diversity, motion
from ...core.model.programs import Model
from ...core.plan import SamplingPlan
from ...core.plan.samplers import PLAN_PRESETS, AudioGuidance, NoGuidance, PlanOptions, build_plan
from ...core.train.evaluate import Measures, held_out, measure, separated, table
from ...core.train.generate import Sampled, sample_and_decode
from ...core.train.puppets import PuppetClip
from ...core.train.soup import has_audio
from ...core.weights.nano import load_nano, nano_digest, read_passport, read_world
from ...core.weights.passport import Passport
from ...quantize.distill.rounding import as_taught
from ...quantize.distill.run import student_options

Json = dict[str, Any]
TEACHER = PLAN_PRESETS["nano"]
SEEDS_APART = 1000  # of noise: further than there are clips
SEEDS = (0, SEEDS_APART, 2 * SEEDS_APART)
CLIPS, FIRST_CLIP = 32, 5000
TASKS = ("i2v+a2v", "a2v", "t2v")
SHOWN = {  # of what is measured, and what it is called
    "lipsync": "lip-sync", "mouth_amplitude": "mouth", "mouth_energy": "energy", "reference_psnr_db": "to teacher",
    "diversity": "diversity", "motion": "motion", "frechet": "Fréchet", "identity": "identity", "background_psnr_db": "background",
    "follows_head": "head", "latent_error": "latents",
}  # fmt: skip
_FEW = frozenset(SHOWN)


@dataclass(frozen=True)
class Way:
    """A model and how it is played. `weights`: SHA-256 of its file."""

    name: str
    model: Model
    options: PlanOptions
    weights: str

    def plan(self, task: str) -> SamplingPlan:
        """Without speech both branches of audio guidance say the same, and one is left out."""
        silent = not has_audio(task) and isinstance(self.options.guidance, AudioGuidance)
        return build_plan(replace(self.options, guidance=NoGuidance()) if silent else self.options)


@dataclass(frozen=True)
class Asked:
    """What is measured. Where `clips` and `seeds` are fewer than by default, figures are for a first look. `controls`: the teacher
    at few steps, too.

    Raises:
        ConfigError: two students have one name, or one is called teacher.
    """

    teacher: Path | None
    students: Sequence[Path]
    out: Path
    tasks: Sequence[str] = TASKS
    clips: int = CLIPS
    seeds: Sequence[int] = SEEDS
    controls: bool = True

    def __post_init__(self) -> None:
        names = [path.stem for path in self.students]
        for name in names:
            if name == "teacher" or names.count(name) > 1:
                raise ConfigError(f"A student's rows are called after its file, and {name!r} is taken. Rename the file.")


def ways(teacher: Model, weights: str, students: Sequence[Path], controls: bool = True) -> list[Way]:
    """The teacher first, as it ships; then, where asked for, its controls at few steps; then students, through the weights that
    they were taught through. `weights`: the teacher's.

    Raises:
        ConfigError: a student's file is not one, or is of another teacher.
        CheckpointError: a file cannot be read.
    """
    played = {"8×2": TEACHER}
    if controls:
        played["4×2, shift 1"] = replace(TEACHER, steps=4, shift=1.0)
    for steps in (4, 2, 1) if controls else ():
        few = replace(TEACHER, steps=steps)
        played |= {f"{steps}×2": few, f"{steps}×1": replace(few, guidance=NoGuidance())}
    found = [Way(f"teacher {name}", teacher, options, weights) for name, options in played.items()]
    for path in students:
        passport, model, digest = _passport(path, weights), load_nano(path=path), file_sha256(path)
        model = replace(model, dit=as_taught(model.dit, passport))
        for steps in reversed(passport.allowed):
            found.append(Way(f"{path.stem} {steps}×1", model, student_options(passport, steps), digest))
    return found


def study_steps(asked: Asked, report: Callable[[str], None] = print) -> Json:
    """Figures by task and way, kept in `asked.out` one by one: what is there of the same weights is not measured again. People are
    of the world that the teacher was trained in.

    Raises:
        ConfigError, CheckpointError: as `ways`.
    """
    asked.out.mkdir(parents=True, exist_ok=True)
    digest, world = nano_digest(asked.teacher), read_world(asked.teacher)
    every = ways(load_nano(path=asked.teacher), digest, asked.students, asked.controls)
    people = held_out(asked.clips, FIRST_CLIP, world=world)
    found: Json = {}
    for task in asked.tasks:
        base: tuple[list[Sampled], Measures] | None = None
        for way in (each for each in every if has_audio(task) or "×2" not in each.name or each is every[0]):
            basis = json.dumps([digest, way.weights, repr(way.options), asked.clips, list(asked.seeds)])
            path = _file(asked.out, task, way.name)
            kept = _kept(path, basis)
            if kept is None:
                report(f"{task}: {way.name} …")
                base = base or _played(every[0], task, people, asked.seeds, None)
                measures = base[1] if way is every[0] else _played(way, task, people, asked.seeds, base[0])[1]
                kept = {"basis": basis, "forwards": way.plan(task).evaluations, "metrics": table(measures)}
                kept |= {"minus_teacher": separated(base[1], measures), "values": _told(measures)}
                with atomic_file(path, force=True) as temporary:
                    temporary.write_text(json.dumps(kept, indent=1, allow_nan=False) + "\n")
            found.setdefault(task, {})[way.name] = {name: value for name, value in kept.items() if name not in ("basis", "values")}
    return found


def compared(out: Path, task: str, one: str, other: str) -> dict[str, dict[str, float | bool | None]]:
    """What a study in `out` has kept of two ways, "shipped 2×1" and "int4 2×1": `separated` of the same clips and seeds, the other
    one's minus the first one's.

    Raises:
        ConfigError: the study did not measure one of them.
    """
    found = []
    for name in (one, other):
        path = _file(out, task, name)
        if not path.exists():
            raise ConfigError(f"{out} has no figures of {name!r} in {task!r}. Measure it with echoedge distill study --out {out}.")
        values = json.loads(path.read_text())["values"]
        found.append({key: np.array(rows, dtype=np.float64) for key, rows in values.items()})  # None becomes nan
    return separated(*found)


def _file(out: Path, task: str, way: str) -> Path:
    return out / f"{task}-{way.replace(' ', '-').replace(',', '')}.json"


def _told(measures: Measures) -> dict[str, list[list[float | None]]]:
    """Of every seed and clip, None where there is no figure: for JSON."""
    return {
        name: [[float(value) if np.isfinite(value) else None for value in row] for row in array] for name, array in measures.items()
    }


def _played(
    way: Way, task: str, people: Sequence[PuppetClip], seeds: Sequence[int], reference: Sequence[Sampled] | None
) -> tuple[list[Sampled], Measures]:
    """A way's clips, and what is measured of them."""
    runs = [sample_and_decode(way.model, people, way.plan(task), seed=seed, task=task) for seed in seeds]
    found = measure(runs, people, reference, _FEW)
    if len(seeds) > 1:
        found["diversity"] = np.array([[diversity([run.videos[i] for run in runs]) for i in range(len(people))]])
    found["motion"] = np.array([[motion(video) for video in run.videos] for run in runs])
    return runs, found


def _passport(path: Path, teacher: str) -> Passport:
    passport = read_passport(path)
    if passport is None:
        raise ConfigError(f"{path} holds a teacher, and not a student.")
    if passport.teacher != teacher:
        raise ConfigError(f"{path} is a student of another teacher. Name its own with --teacher.")
    return passport


def _kept(path: Path, basis: str) -> Json | None:
    with suppress(OSError, ValueError):
        record: Json = json.loads(path.read_text())
        if record.get("basis") == basis and "values" in record:  # which earlier versions did not keep
            return record
    return None


def as_table(found: Json) -> list[Json]:
    """One row a task and way, means alone: for records and for people."""
    rows = []
    for task, every in found.items():
        for name, each in every.items():
            means = {key: each["metrics"][key]["mean"] for key in SHOWN if key in each["metrics"]}
            rows.append(
                {"task": task, "way": name, "forwards": each["forwards"], **{k: v for k, v in means.items() if v is not None}}
            )
    return rows
