"""The player of a board: does what docs/DEVICE_BENCH.md asks of an app, in the folder that a job lies in.

It prints its status in lines of their own and writes result.json when it is done. Its exit status is 0 where the job is done, 3
where it failed and said so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ....core.bundle import Bundle
from ....core.bundle.device_job import CONTRACT, JOB, RESULT, SAID, Job, Result, State, Status
from ....core.bundle.fields import first_mistakes
from ....core.errors import EchoEdgeError, InputError
from ....core.files import atomic_file, ended_like_interrupted
from ....core.versions import library_versions
from ...play.material import Material
from ...play.setting import Wanted
from ..clip import Course, measure_course
from .host import host_reading

DONE, FAILED = 0, 3


def own_name() -> str:
    """What this player calls itself, with its version."""
    return f"echoedge {library_versions()['echoedge']}"


def hello(folder: Path, word: str) -> Status:
    """What is said before anything is sent: which contract is kept to, and how much room there is."""
    return Status(
        job=word, state="ready", contract=CONTRACT, app=own_name(), free_bytes=shutil.disk_usage(folder).free,
        thermal_status=host_reading().state.thermal_status,
    )  # fmt: skip


def run_job(folder: Path, say: Callable[[str], None]) -> int:
    """Plays the job in `folder`, and says how far it is. Gives the exit status.

    Raises:
        InputError: there is no job, or it cannot be read: nobody could be answered.
    """
    job = read_job(folder)

    def tell(state: State, done: int = 0, total: int = 0, fault: str | None = None, message: str = "") -> None:
        status = Status(
            job=job.job, state=state, contract=CONTRACT, app=own_name(), done=done, total=total, fault=fault, message=message
        )  # fmt: skip
        say(SAID + status.model_dump_json())

    def progress(stage: str, done: int, total: int) -> None:
        if stage in ("runs", "sustained"):
            tell("playing" if stage == "runs" else "sustaining", done, total)

    tell("loading")
    try:
        if job.contract != CONTRACT:
            raise InputError(f"the job keeps to version {job.contract} of the contract, {own_name()} to {CONTRACT}")
        with ended_like_interrupted():
            result = _played(folder, job, progress)
            with atomic_file(folder / RESULT, force=True) as temporary:
                temporary.write_text(result.model_dump_json(), encoding="utf-8")
    except EchoEdgeError as error:
        tell("failed", fault="job", message=str(error))
    else:
        tell("done")
        return DONE
    return FAILED


def read_job(folder: Path) -> Job:
    """Raises InputError: it is not there, or no job."""
    path = folder / JOB
    try:
        return Job.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}). `echoedge bench BUNDLE --device ssh:HOST` writes it."
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{path} is no job ({first_mistakes(error)}). `echoedge bench BUNDLE --device ssh:HOST` writes one."
        ) from error


def _played(folder: Path, job: Job, progress: Callable[[str, int, int], None]) -> Result:
    bundle = Bundle.open(folder / job.bundle)
    wanted = Wanted(job.engine, job.clip, job.decoder, None, job.prompt, job.threads)
    case = read_case(folder, job, bundle)
    before = host_reading()
    course = Course(job.warm_up, job.sustained_s, job.reload)
    record, ends = measure_course(bundle, wanted, job.runs, course, case, progress)
    return Result(job=job.job, app=own_name(), record=record, before=before.state, after=host_reading().state, ends_s=ends or None)


def read_case(folder: Path, job: Job, bundle: Bundle) -> Material:
    """Portrait and voice of a job. Raises InputError: a file is missing, or is not of the clip's size."""
    clip = next((clip for clip in bundle.clips if str(clip) == job.clip), bundle.clip)
    portrait = _floats(folder / job.portrait, 3 * clip.height * clip.width)
    speech = _floats(folder / job.speech, clip.frames * clip.samples_per_frame)
    return Material(portrait.reshape(3, clip.height, clip.width), speech, job.prompt, job.seed)


def _floats(path: Path, count: int) -> NDArray[np.float32]:
    try:
        values = np.frombuffer(path.read_bytes(), "<f4")
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} of the job cannot be read ({error}).") from error
    if values.size != count:
        raise InputError(f"{path.name} of the job has {values.size} numbers; the clip takes {count}.")
    return values.astype(np.float32)
