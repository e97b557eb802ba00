"""Work in processes of its own: memory returns when a task ends, a kill becomes a sentence, and what is finished is not done again.

A `JobRunner` has a folder that belongs to one request and that one run holds at a time. A job is a function of the request, the
folder and what the jobs before it returned, run in a spawned process; its own record is written down when what it wrote is on the
disk, together with its time and its peak of memory. A runner that is opened again for the same request goes on behind what is
written; for another request the folder is emptied first. A job ends with the process that started it, however that ends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from ...core.errors import ConfigError, EchoEdgeError, ExportError
from ...core.files import atomic_file, disk_full_is_a_sentence, human_bytes, sync
from ...core.memory import Need, peak_bytes, require, resident_bytes, usable_cores
from ...core.work import DISK_FULL, WorkFolder
from ...targets.idle import return_freed_memory

_LABEL = "request"
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 5.0  # for processes that are told to end
Progress = Callable[[str, int, int], None]
LIGHT_BYTES = 1_000_000_000
_CLOCK_SECONDS = 2  # a file system's clock may be behind by so much
_ENDED = ("SIGTERM", "SIGHUP", "SIGINT")  # sent by people and systems that want a process to end
_KILLED: tuple[str, Any, Any] = ("killed", None, "")  # what a process answers that has ended without a word


@dataclass(frozen=True, eq=False)
class Job:
    """`work(request, folder, *given)` is a function of a module, for a spawned process imports it; `given`: what the jobs of
    `after` returned, in their order. It returns a record of the type `returns`. `need`: memory that it is expected to take;
    `stage`: what progress counts it under."""

    name: str
    stage: str
    work: Callable[..., BaseModel]
    returns: type[BaseModel]
    need: Need
    after: tuple[Job, ...] = ()

    @property
    def light(self) -> bool:
        """Its process may go on with the next one: what it leaves in memory does not matter."""
        return self.need.total <= LIGHT_BYTES


@dataclass(frozen=True)
class Done:
    """What a job returned, and what it took. peak_bytes: of its process until then, which may have done light jobs before."""

    result: Any  # of the job's `returns`
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def enter_worker() -> None:
    """At the start of a process that works for this one: Ctrl-C is the parent's to handle, what libraries print goes nowhere, and
    the process does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _serve(connection: Connection) -> None:
    """The body of a process: does the jobs that come down the connection, until it is closed."""
    enter_worker()
    import torch

    return_freed_memory()
    while True:
        try:
            work, request, folder, given, threads = connection.recv()
        except EOFError:
            return
        torch.set_num_threads(threads)
        connection.send(_answer(work, request, folder, given))


def _answer(work: Callable[..., BaseModel], request: Any, folder: Path, given: Sequence[BaseModel]) -> tuple[str, Any, Any]:
    """What became of a job: in a word, the class of an error or None, and the content."""
    began, started, cpu = time.time(), time.perf_counter(), time.process_time()
    try:
        with disk_full_is_a_sentence(folder, *DISK_FULL):
            result = work(request, folder, *given).model_dump(mode="json")
            _sync_written(folder, began)
    except EchoEdgeError as error:
        return ("refused", type(error), str(error))
    except MemoryError:
        return ("memory", None, "")
    except Exception as error:
        return ("failed", type(error).__name__, f"{error}\n{traceback.format_exc(limit=-3)}")
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu, "peak_bytes": peak_bytes()}
    return ("done", None, {"result": result, **took})


@dataclass
class _Worker:
    """A process, and the job that it has now."""

    process: SpawnProcess
    connection: Connection
    job: Job | None = None

    @classmethod
    def start(cls) -> _Worker:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,), daemon=True)
        process.start()
        other.close()
        return cls(process, own)

    def end(self) -> None:
        """Lets a process go that has nothing to do."""
        self.connection.close()
        self.process.join()

    def kill_after(self, seconds: float) -> None:
        """Waits for a process that was told to end, and kills it where a library has swallowed that."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _sync_written(folder: Path, began: float) -> None:
    """Has the system write to the disk what was written since `began`: a record must not be there before what it is of."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # another job's temporary file
                if path.stat().st_mtime >= began - _CLOCK_SECONDS:
                    sync(path)


def fate(process: str, status: int | None, remedy: str) -> str:
    """What became of a process that ended without an answer, from its exit status, and what to do. `process`: in words that
    complete "The …"; `remedy`: against want of memory."""
    name = signal.Signals(-status).name if status is not None and status < 0 else None
    if name == "SIGKILL":
        return f"The {process} was killed (SIGKILL), perhaps for memory. {remedy}"
    if name in _ENDED:
        return f"The {process} was ended from outside ({name}). Run the same command again."
    if name is not None:
        return (
            f"The {process} crashed ({name}). Run the same command again; if it crashes again, that is a fault in a library or in "
            "EchoEdge: report it with the command and the versions that `echoedge doctor` prints."
        )
    return f"The {process} ended without an answer, with exit status {status}. {remedy}"


def record_path(folder: Path, job: str) -> Path:
    """Where a runner in `folder` writes down what became of the job of that name."""
    return folder / f"{job.replace(' ', '-')}.done.json"


def _done(job: Job, content: Mapping[str, Any]) -> Done:
    return Done(**{**content, "result": job.returns.model_validate(content["result"])})


class JobRunner:
    """The work folder `folder` for the request that `key` identifies, held as long as the `with` block lasts.

    `at_once`: so many jobs at a time, as far as their needs and this process fit into `budget` bytes together.

    Raises (on entering):
        OutputError: the folder is not one that a runner has made, or another run holds it.
    """

    def __init__(self, folder: Path, key: str, at_once: int = 2, budget: int | None = None) -> None:
        self.folder, self.key, self.at_once, self.budget = folder, key, at_once, budget
        self.peak_bytes = 0  # of this process and its jobs together, while `run` runs
        self._work, self._exit = WorkFolder(folder, "export"), ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            entered.enter_context(self._work)
            label = self.folder / _LABEL
            if not label.is_file() or label.read_text() != self.key:
                label.unlink(missing_ok=True)  # first: records must not outlive what they are of under the name of their request
                self._work.empty()
                with atomic_file(label) as temporary:
                    temporary.write_text(self.key)
            self._exit = entered.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.__exit__(kind, error, trace)

    def remove(self) -> None:
        """Deletes the folder; what is finished is not needed any more."""
        self._work.remove()

    def finished(self, job: Job) -> Done | None:
        """What is written down of a job; None if it has not ended well."""
        path = record_path(self.folder, job.name)
        return _done(job, json.loads(path.read_text())) if path.is_file() else None

    def run(self, jobs: Sequence[Job], request: Any, progress: Progress) -> dict[str, Done]:
        """Runs what has not been done.

        Raises:
            ConfigError: two jobs have one record, or one waits for a job that is not there.
            ResourceError: a job needs more memory than there is; the message names the largest part and a remedy.
            ExportError: a job failed or was killed.
        """
        self._check_order(jobs)
        results = {job.name: done for job in jobs if (done := self.finished(job))}
        stages: dict[str, list[Job]] = {}
        for job in jobs:
            stages.setdefault(job.stage, []).append(job)
            if job.name not in results:
                require(job.need, job.name, self.budget)
        workers: list[_Worker] = []

        def tell() -> None:
            for stage, members in stages.items():
                progress(stage, sum(job.name in results for job in members), len(members))

        tell()
        try:
            while len(results) < len(jobs):
                for job in jobs:
                    if self._ready(job, results, workers):
                        self._begin(job, request, [results[before.name].result for before in job.after], workers)
                self._watch(workers)
                for worker in [worker for worker in workers if worker.job is not None]:
                    assert worker.job is not None
                    if worker.connection.poll() or not worker.process.is_alive():
                        results[worker.job.name] = self._collect(worker.job, worker)
                        if not worker.job.light:
                            workers.remove(worker)
                            worker.end()
                        worker.job = None
                        tell()
            for worker in workers:
                worker.end()
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.kill_after(_GRACE_SECONDS)
        return results

    def _begin(self, job: Job, request: Any, given: Sequence[BaseModel], workers: list[_Worker]) -> None:
        """A light job in a process that is idle, if there is one; a heavy one in a process of its own, where nothing lies but
        what it needs. Light jobs share the cores; a heavy one has them all."""
        for idle in [worker for worker in workers if worker.job is None]:
            if not (job.light and idle.process.is_alive()):
                workers.remove(idle)
                idle.end()
        worker = next((worker for worker in workers if worker.job is None), None)
        if worker is None:
            worker = _Worker.start()
            workers.append(worker)
        worker.job = job
        cores = usable_cores()
        worker.connection.send((job.work, request, self.folder, given, max(1, cores // self.at_once) if job.light else cores))

    def _check_order(self, jobs: Sequence[Job]) -> None:
        """That every job has what it waits for, and its record to itself."""
        records: dict[Path, str] = {}
        for job in jobs:
            record = record_path(self.folder, job.name)
            if record in records:
                raise ConfigError(f"The jobs {records[record]!r} and {job.name!r} have one record. Name each once.")
            records[record] = job.name
        for job in jobs:
            if strangers := [before.name for before in job.after if before not in jobs]:
                names = ", ".join(other.name for other in jobs)
                raise ConfigError(f"{job.name} waits for {strangers[0]!r}, which is not there. Choose from: {names}.")

    def _ready(self, job: Job, results: Mapping[str, Done], workers: Sequence[_Worker]) -> bool:
        running = [worker.job for worker in workers if worker.job is not None]
        if job.name in results or job in running or any(before.name not in results for before in job.after):
            return False
        taken = resident_bytes() + sum(other.need.total for other in running)
        fits = self.budget is None or taken + job.need.total <= self.budget
        return not running or (len(running) < self.at_once and fits)

    def _watch(self, workers: Sequence[_Worker]) -> None:
        """Waits a moment and looks how much memory everything takes together."""
        time.sleep(_POLL_SECONDS)
        now = resident_bytes() + sum(resident_bytes(worker.process.pid) for worker in workers)
        self.peak_bytes = max(self.peak_bytes, now)

    def _collect(self, job: Job, worker: _Worker) -> Done:
        try:
            kind, what, content = worker.connection.recv() if worker.connection.poll() else _KILLED
        except (EOFError, ConnectionResetError):
            kind, what, content = _KILLED
        if kind == "killed":
            worker.process.join()
        if kind == "done":
            with atomic_file(record_path(self.folder, job.name), force=True) as temporary:
                temporary.write_text(json.dumps(content))
            return _done(job, content)
        if kind == "refused":
            raise what(content)
        if kind == "failed":
            raise ExportError(f"{job.name} failed with {what}: {content}")
        remedy = (
            f"It was expected to take {human_bytes(job.need.total)}, most of it for {job.need.largest}. Close other programs, or "
            "work with --jobs 1. Run the same command again: what is finished is kept."
        )
        if kind == "memory":
            raise ExportError(f"{job.name} ran out of memory. {remedy}")
        raise ExportError(fate(f"process of {job.name}", worker.process.exitcode, remedy))
