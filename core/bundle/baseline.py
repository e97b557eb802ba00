"""A baseline: what the full-precision model gave of one clip, and how fast, to be compared with on any other machine.

    NAME.json           what was played, of which weights, and the records of its benchmarks
    NAME.safetensors    what it was played from, and what came out, stage by stage

The arrays: `portrait` [3, H, W] in [-1, 1], `speech` [n]; `prompt` rows [L, text_dim], where no text encoder read the prompt;
`features` of the voice, `image` tokens, `y` (what is known of the clip), `velocity` [B, C, F, h, w] of the branches in the first
step, `latents` [C, F, h, w], `frames` uint8 [k, H, W, 3]: those of `frames_kept`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from ..errors import InputError
from ..files import atomic_file, file_sha256
from ..plan import SamplingPlan, noise
from .bench_record import BenchRecord
from .fields import Count, Name, Record, Sha256, first_mistakes
from .manifest import ClipRecord

Array = NDArray[Any]
GIVEN = ("portrait", "speech")
STAGES_SEEN = ("features", "image", "y", "velocity", "latents", "frames")  # in the order in which they follow from each other
AGAIN = "Record it again with `echoedge baseline record`, or copy both of its files again."


class WeightsOrigin(Record):
    """Of which weights. components: SHA-256 of each one's numbers (`core.weights.seeded.weights_sha256`), the same for the same
    numbers in any file or type. source_sha256: as a bundle's manifest names what it was compiled from; None where no files are."""

    kind: Literal["built-in", "folder", "seed"]
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] | None
    components: dict[Name, Sha256]
    source_sha256: Sha256 | None


class ArraysFile(Record):
    """The file of arrays beside the JSON, by its name."""

    name: Name
    sha256: Sha256
    bytes: Count


class Baseline(Record):
    """What was played, and its benchmarks. plan: as `plan.json` of a bundle; noise_sha256: of the noise that the seed gave;
    frames_kept: which of the clip's frames are in the file."""

    format: Literal["echoedge.baseline/1"] = "echoedge.baseline/1"
    preset: Name
    model: Name
    layers: Annotated[int, Field(ge=1)]
    weights: WeightsOrigin
    precision: Literal["fp32", "bf16", "fp16"]
    clip: ClipRecord
    decoder: Literal["full", "tiny"]
    plan: dict[str, Any]
    prompt: str
    seed: Annotated[int, Field(ge=0, lt=1 << 64)]
    mouth_box: tuple[int, int, int, int] | None
    noise_sha256: Sha256
    frames_kept: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    arrays: ArraysFile
    measured: Annotated[tuple[BenchRecord, ...], Field(min_length=1)]

    def sampling_plan(self) -> SamplingPlan:
        """Raises ConfigError: the file's plan is none."""
        return SamplingPlan.from_json(json.dumps(self.plan))


def arrays_path(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def write_baseline(path: Path, arrays: Mapping[str, Array], force: bool, **fields: Any) -> Baseline:
    """Writes both files, the JSON last: where it is, the other one is whole. `fields`: those of `Baseline` but the file's own.

    Raises:
        OutputError: one of the two exists and `force` is off, or cannot be written.
    """
    from safetensors.numpy import save

    beside = arrays_path(path)
    with atomic_file(path, force) as described:
        with atomic_file(beside, force) as temporary:
            temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
        file = ArraysFile(name=beside.name, sha256=file_sha256(beside), bytes=beside.stat().st_size)
        baseline = Baseline(arrays=file, **fields)
        text = json.dumps(baseline.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        described.write_text(f"{text}\n", encoding="utf-8")
    return baseline


def read_baseline(path: str | Path) -> tuple[Baseline, dict[str, Array]]:
    """A baseline and its arrays.

    Raises:
        InputError: one of its files is missing, damaged, not the other's, or not a baseline's.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    try:
        baseline = Baseline.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise InputError(f"The baseline {path} cannot be read ({error.strerror}). {AGAIN}") from error
    except (ValidationError, RecursionError) as error:
        wrong = first_mistakes(error) if isinstance(error, ValidationError) else "it is nested too deeply"
        raise InputError(f"{path} is no baseline ({wrong}). {AGAIN}") from error
    beside = path.parent / baseline.arrays.name
    if beside.name != baseline.arrays.name or beside.parent != path.parent:
        raise InputError(f"{path} names {baseline.arrays.name!r}, which is not beside it. {AGAIN}")
    if not beside.is_file():
        raise InputError(f"{beside}, the arrays of {path.name}, is missing. {AGAIN}")
    found = file_sha256(beside)
    if found != baseline.arrays.sha256:
        raise InputError(
            f"{beside} is not the file of {path.name} (SHA-256 {found[:12]}…, not {baseline.arrays.sha256[:12]}…). {AGAIN}"
        )
    try:
        arrays = load_file(beside)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{beside} cannot be read ({error}). {AGAIN}") from error
    if lacking := [name for name in (*GIVEN, *STAGES_SEEN) if name not in arrays]:
        raise InputError(f"{beside} has no {lacking[0]}. {AGAIN}")
    return baseline, arrays


def noise_sha256(seed: int, shape: tuple[int, int, int, int]) -> str:
    """Of the noise [C, F, h, w] that a seed gives here."""
    return hashlib.sha256(noise(seed, shape).astype("<f4", copy=False).tobytes()).hexdigest()
