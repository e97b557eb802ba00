"""What a student of a checkpoint learns from: its teacher's guided trajectories on encoded clips, by the reference player.

A lesson is a window and noise; lesson i is of window i // noises, so that those held back at the end are of windows that nobody is
taught. A shard is a file that depends on its number alone, as those of `quantize/distill/lessons.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from ...core.config import ClipSpec
from ...core.errors import ConfigError
from ...core.files import atomic_file, require_free_disk
from ...core.plan import check_count, noise
from ...core.sampling.inputs import pad_text
from ...quantize.distill.lessons import kept_points, require_basis
from ..play.player import Player
from ..play.reference import Reference
from .cache import Encoded

FIRST_NOISE = 1 << 41
SHARD = 4  # lessons

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ClipLessons:
    """What is drawn: of each window `noises` trajectories; `steps`: the numbers of steps that students are to take.

    Raises:
        ConfigError: a number is out of range.
    """

    noises: int = 4
    steps: tuple[int, ...] = (1, 2, 4)
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("noises", self.noises, 1, 4096)
        check_count("seed", self.seed, 0, 1 << 31)
        if not self.steps or min(self.steps) < 1 or len(set(self.steps)) != len(self.steps):
            raise ConfigError(f"steps are {self.steps}; give different numbers from 1.")


@dataclass(frozen=True)
class Shelved:
    """Lessons that stay on the disk: see `quantize.distill.lessons.Taught`."""

    folder: Path
    clips: Encoded
    noises: int
    levels: tuple[float, ...]
    modality: Float32
    text_len: int
    made_from: str

    def __len__(self) -> int:
        return len(self.clips) * self.noises

    def states(self, lesson: int) -> NDArray[np.float16]:
        """[points, C, F, h, w], from noise to the teacher's latents."""
        with safe_open(_file(self.folder, lesson // SHARD), "numpy") as file:
            found: NDArray[np.float16] = file.get_slice("states")[lesson % SHARD : lesson % SHARD + 1][0]
            return found

    def batch(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """As `Taught.batch`: features float32, states in half precision."""
        windows = [int(row) // self.noises for row in rows]
        features = [self.clips.features(window) for window in windows]
        found = {name: torch.from_numpy(np.stack([each[name] for each in features])).float() for name in features[0]}
        texts = [self.clips.prompts[self.clips.said[window]] for window in windows]
        found["text"] = torch.from_numpy(pad_text(texts, self.text_len)).float()
        found["states"] = torch.from_numpy(np.stack([self.states(int(row)) for row in rows]))
        return found


class Watched:
    """An engine that keeps the latents which each call of the denoiser was given."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.seen: list[Float32] = []

    def has(self, program: str) -> bool:
        return bool(self.engine.has(program))

    def run(self, program: str, method: str, inputs: Sequence[Any], wanted: Any = None) -> list[Any]:
        if program == "denoise":
            self.seen.append(np.array(inputs[0][0], np.float32))
        found: list[Any] = self.engine.run(program, method, inputs)
        return found


def shelve_lessons(
    folder: Path,
    lessons: ClipLessons,
    clips: Encoded,
    teacher: Reference,
    digest: str,
    clip: ClipSpec,
    told: Callable[[int, int], None] = lambda *_: None,
) -> Shelved:
    """The lessons in `folder`, played by `teacher` (whose weights have the SHA-256 `digest`) where they are not there yet;
    `told(done, of)` in lessons.

    Raises:
        ConfigError: the folder holds others, or students are to take more steps than the teacher.
        ResourceError: they do not fit on the disk.
    """
    plan = teacher.plan
    points = kept_points(plan.sigmas, lessons.steps)
    known = {
        "teacher": digest,
        "plan": plan.to_json(),
        "clips": clips.made_from,
        "dtype": teacher.settings.dtype,
        **asdict(lessons),
    }
    basis = json.dumps(known, sort_keys=True)
    require_basis(folder, basis)
    levels = tuple(plan.sigmas[point] for point in points)
    modality = np.stack([plan.modality(min(point, plan.steps - 1), clip.latent_frames) for point in points])
    made_from = hashlib.sha256(basis.encode()).hexdigest()
    shelved = Shelved(folder, clips, lessons.noises, levels, modality, teacher.sizes.transformer.text_len, made_from)
    total = len(shelved)
    left = [shard for shard in range(-(-total // SHARD)) if not _file(folder, shard).exists()]
    shape = (16, clip.latent_frames, clip.latent_height, clip.latent_width)
    require_free_disk(folder, len(left) * SHARD * len(points) * 2 * int(np.prod(shape)))
    for shard in left:
        numbers = range(shard * SHARD, min(total, (shard + 1) * SHARD))
        states = [trajectory(teacher, clips, lesson // lessons.noises, FIRST_NOISE + lessons.seed + lesson) for lesson in numbers]
        with atomic_file(_file(folder, shard), force=True) as temporary:
            save_file({"states": np.stack([each[list(points)] for each in states]).astype(np.float16)}, temporary)
        told(numbers[-1] + 1, total)
    return shelved


def trajectory(teacher: Reference, clips: Encoded, window: int, seed: int) -> Float32:
    """Every state of a clip's guided sampling, [steps + 1, C, F, h, w]: before each step, and the latents behind the last one."""
    engine, plan, features = Watched(teacher.engine), teacher.plan, clips.features(window)
    player = Player(teacher.config, engine)  # type: ignore[arg-type]
    y, audio, image = (features[name].astype(np.float32) for name in ("y", "audio", "image"))
    start = noise(seed, player.shape(y.shape[1]))
    text = player.read_all(clips.said[window])
    latents, _ = player.sample(player.neighbourhoods(audio), y[None], image[None], text, start)
    calls = [step for step in range(plan.steps) for _ in plan.evaluated(step)]
    firsts = [calls.index(step) for step in range(plan.steps)]
    return np.stack([*(engine.seen[first] for first in firsts), latents])


def _file(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.safetensors"
