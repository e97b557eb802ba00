"""What a student learns from: the teacher's own guided trajectories, with what each was given, drawn once into a folder.

A lesson is a clip that nobody drew for the teacher before: a drawn head, a task, noise of its own. Kept are the states at the
noise levels that students step between, and the features that the transformer reads; the encoders do not train. A shard is a file
that depends on its number alone: a folder fills in any order, by any number of processes, goes on after a kill, and may be added
to.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ...core.config import NANO_CLIP, ClipSpec
from ...core.errors import ConfigError
from ...core.files import atomic_file, require_free_disk
from ...core.model.masks import parse_tasks
from ...core.plan import SamplingPlan, check_count
from ...core.plan.phases import PROMPT
from ...core.plan.samplers import PLAN_PRESETS, PlanOptions, build_plan
from ...core.train.generate import given_of, sample_given
from ...core.train.puppets import HELD_OUT_SEED, check_world, draw_clip
from ...core.train.soup import has_audio
from ...core.train.train_dit import mouth_latent_mask
from ...core.weights.nano import load_nano, nano_digest

INDEX = "lessons.json"
FIRST_SEED = 200_000  # of clips: on the training side, beyond those that the teacher was trained on
FIRST_NOISE = 1 << 40
TOGETHER = 12  # clips that the teacher plays at once
LEVEL_BYTES = 20_500  # of nano: a state with its share of the features; a shard of 48 takes 4.95 MB
FIELDS = ("states", "y", "audio", "image", "text", "mouth", "task")


@dataclass(frozen=True)
class Lessons:
    """What is drawn: so many shards of `shard` lessons, the share of each task, the numbers of steps that students are to take, and
    the world that the heads are of.

    Raises:
        ConfigError: a task is unknown, or a number out of range.
        InputError: there is no such world.
    """

    shards: int = 80
    tasks: tuple[tuple[str, float], ...] = (
        ("i2v+a2v", 0.42), ("a2v", 0.15), ("t2v", 0.25), ("i2v", 0.05), ("flf2v+a2v", 0.05), ("i2v+lipsync", 0.08),
    )  # fmt: skip
    steps: tuple[int, ...] = (1, 2, 4)
    shard: int = 48
    seed: int = 0
    world: str = "calm"

    def __post_init__(self) -> None:
        check_world(self.world)
        check_count("shard", self.shard, 1, 4096)
        check_count("shards", self.shards, 1, (HELD_OUT_SEED - FIRST_SEED) // self.shard)
        for name, share in self.tasks:
            parse_tasks(name)
            if share <= 0:
                raise ConfigError(f"The share of {name!r} is {share}; leave the task out.")
        if not self.steps or min(self.steps) < 1:
            raise ConfigError(f"steps are {self.steps}; give numbers from 1.")

    def tasks_of(self, shard: int) -> list[str]:
        """Of each lesson of a shard, tasks together."""
        shares = np.array([share for _, share in self.tasks])
        drawn = np.random.default_rng((self.seed, shard)).choice(len(self.tasks), self.shard, p=shares / shares.sum())
        return [self.tasks[k][0] for k in sorted(drawn)]


# ---- which states ----------------------------------------------------------------------------------------------------------------


def stops(levels: Sequence[float], steps: int) -> tuple[int, ...]:
    """Which of a teacher's noise levels, from 1 to 0, a student of so many steps goes by: those nearest to equal parts of the way,
    which keep to a trajectory better than a shifted schedule's.

    Raises:
        ConfigError: there are too few levels for that.
    """
    grid = np.asarray(levels)
    found = tuple(int(np.abs(grid - part).argmin()) for part in np.linspace(grid[0], 0.0, steps + 1))
    if len(set(found)) != len(found):
        raise ConfigError(f"A student of {steps} steps cannot go by {len(grid)} noise levels. Take fewer steps.")
    return found


def kept_points(levels: Sequence[float], steps: Iterable[int]) -> tuple[int, ...]:
    """The levels that some number of steps goes by."""
    return tuple(sorted({stop for count in steps for stop in stops(levels, count)}))


# ---- a folder of them ------------------------------------------------------------------------------------------------------------


class Taught(Protocol):
    """N lessons, from wherever they come: what training asks of them."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise levels of the states, falling."""
        ...

    @property
    def modality(self) -> NDArray[np.float32]:
        """[points, 3, P], the teacher's strengths at those levels."""
        ...

    @property
    def made_from(self) -> str:
        """What they depend on, as a word."""
        ...

    def __len__(self) -> int: ...

    def batch(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """states [B, points, C, f, h, w], and what the transformer is given: y, audio, image, text; mouth [B, 1, 1, h, w]."""
        ...


@dataclass(frozen=True)
class Drawn:
    """N lessons. states: float16 [N, points, C, f, h, w] at the noise levels `levels`, the first one noise, the last one the
    teacher's clip; modality: [points, 3, P], the teacher's strengths there; y, audio, image, text: float16, as `generate.Given` has
    them; mouth: uint8 [N, 1, 1, h, w]; task: uint8 [N], of `names`."""

    levels: tuple[float, ...]
    modality: NDArray[np.float32]
    names: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    made_from: str

    def __len__(self) -> int:
        return len(self.arrays["task"])

    def batch(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """What the transformer is given, float32; states stay in half precision, all points of them."""
        found = {name: torch.from_numpy(np.ascontiguousarray(self.arrays[name][rows])) for name in FIELDS if name != "task"}
        return {name: x if name == "states" else x.float() for name, x in found.items()}


def draw_lessons(
    folder: Path,
    lessons: Lessons,
    weights: Path | None = None,
    options: PlanOptions = PLAN_PRESETS["nano"],
    processes: int = 1,
    clip: ClipSpec = NANO_CLIP,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Drawn:
    """The lessons in `folder`, drawn where they are not there yet; `told(done, of)` in shards. `weights`: the teacher's, nano's by
    default.

    Raises:
        ConfigError: the folder holds others.
        ResourceError: they do not fit on the disk.
    """
    plan = build_plan(replace(options, window=None))
    points = kept_points(plan.sigmas, lessons.steps)
    known = {name: value for name, value in asdict(lessons).items() if name != "shards" and (name, value) != ("world", "calm")}
    basis = json.dumps({"teacher": nano_digest(weights), "plan": plan.to_json(), **known}, sort_keys=True)
    require_basis(folder, basis)
    files = [_file(folder, shard) for shard in range(lessons.shards)]
    left = [shard for shard, file in enumerate(files) if not file.exists()]
    require_free_disk(folder, len(left) * lessons.shard * len(points) * LEVEL_BYTES)
    work = _Work(folder, lessons, weights, plan, points, clip)
    if left and processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes, _begin_alone, (work,)) as pool:
            for _ in pool.imap_unordered(_draw_shard, left):
                told(sum(file.exists() for file in files), lessons.shards)
    elif left:
        _begin(work)
        for shard in left:
            _draw_shard(shard)
            told(sum(file.exists() for file in files), lessons.shards)
    shards = [load_file(file) for file in files]
    arrays = {name: np.concatenate([each[name] for each in shards]) for name in FIELDS}
    levels = tuple(plan.sigmas[point] for point in points)
    modality = np.stack([plan.modality(min(point, plan.steps - 1), clip.latent_frames) for point in points])
    made_from = f"{hashlib.sha256(basis.encode()).hexdigest()} {lessons.shards}"
    return Drawn(levels, modality, tuple(name for name, _ in lessons.tasks), arrays, made_from)


def require_basis(folder: Path, basis: str) -> None:
    """Marks `folder` as one of lessons that are made from `basis`, or finds it so marked.

    Raises:
        ConfigError: it holds others.
    """
    index = folder / INDEX
    folder.mkdir(parents=True, exist_ok=True)
    if not index.exists():
        with atomic_file(index) as temporary:
            temporary.write_text(json.dumps({"basis": basis}))
    elif json.loads(index.read_text())["basis"] != basis:
        raise ConfigError(f"{folder} holds lessons of another teacher, plan or mixture, or of other clips. Use another folder.")


def _file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.safetensors"


@dataclass(frozen=True)
class _Work:
    folder: Path
    lessons: Lessons
    weights: Path | None
    plan: SamplingPlan
    points: tuple[int, ...]
    clip: ClipSpec


_WORK: list[_Work] = []  # of this process


def _begin(work: _Work) -> None:
    _WORK[:] = [work]


def _begin_alone(work: _Work) -> None:
    """In a process of its own, of which there is one a core."""
    torch.set_num_threads(1)
    _begin(work)


def _draw_shard(shard: int) -> None:
    (work,) = _WORK
    lessons, first = work.lessons, shard * work.lessons.shard
    model, names, tasks = load_nano(path=work.weights), [name for name, _ in lessons.tasks], lessons.tasks_of(shard)
    found: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for begin, end in _stretches(tasks):
        seeds = range(FIRST_SEED + first + begin, FIRST_SEED + first + end)
        clips = [draw_clip(seed, work.clip.frames, work.clip.height, world=lessons.world) for seed in seeds]
        given = given_of(model, clips, (PROMPT,), work.clip, tasks[begin])
        states: dict[int, NDArray[np.float32]] = {}

        def watch(step: int, latents: NDArray[np.float32], states: dict[int, NDArray[np.float32]] = states) -> None:
            if step in work.points:
                states[step] = latents.copy()

        plan = work.plan if has_audio(tasks[begin]) and guided(work.plan) else alone(work.plan)
        states[plan.steps] = sample_given(model.dit, given, plan, FIRST_NOISE + lessons.seed + first + begin, watch)
        found["states"].append(np.stack([states[point] for point in work.points], 1).astype(np.float16))
        for name, value in (("y", given.y), ("audio", given.audio), ("image", given.image), ("text", given.texts[PROMPT])):
            found[name].append(value.numpy().astype(np.float16))
        found["mouth"].append(mouth_latent_mask(np.array([c.mouth_box for c in clips]), work.clip).numpy().astype(np.uint8))
        found["task"].append(np.full(len(clips), names.index(tasks[begin]), np.uint8))
    with atomic_file(_file(work.folder, shard), force=True) as temporary:
        save_file({name: np.concatenate(parts) for name, parts in found.items()}, temporary)


def guided(plan: SamplingPlan) -> bool:
    """Whether branches beyond the first one count in any step."""
    return any(factor != 0.0 for factors in plan.guidance for factor in factors[1:])


def alone(plan: SamplingPlan) -> SamplingPlan:
    """The plan of one branch: without speech the one that lacks it says the same."""
    return plan.model_copy(
        update={
            "branches": plan.branches[:1], "guidance": tuple((1.0,) for _ in plan.guidance),
            "reuse": tuple((False,) for _ in plan.reuse), "residual_slots": None,
        }
    )  # fmt: skip


def _stretches(tasks: list[str]) -> list[tuple[int, int]]:
    """Stretches of one task, of `TOGETHER` at most."""
    found: list[tuple[int, int]] = []
    for i, name in enumerate(tasks):
        if found and tasks[found[-1][0]] == name and i - found[-1][0] < TOGETHER:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found
