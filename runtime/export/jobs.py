"""Work in processes of its own: memory returns when a task ends, a kill becomes a sentence, and what is finished is not done again.

A `Workshop` is a folder that belongs to one request and that one run holds at a time. Each task of it is a function of the request
and the folder, run in a spawned process; what it returns, JSON, is written down when what it wrote is on the disk, together with
its time and its peak of memory. A workshop that is opened again for the same request goes on behind what is written; for another
request it is emptied first. A task ends with the process that started it, however that ends.
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
from graphlib import CycleError, TopologicalSorter
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...core.errors import ConfigError, EchoEdgeError, ExportError
from ...core.files import atomic_file, human_bytes, sync
from ...core.memory import Need, peak_bytes, require, resident_bytes, usable_cores
from ...core.work import WorkFolder
from ...targets.idle import return_freed_memory

_LABEL = "request"
_POLL_SECONDS = 0.1
Progress = Callable[[str, int, int], None]
_CLOCK_SECONDS = 2  # a file system's clock may be behind by so much
_ENDED = ("SIGTERM", "SIGHUP", "SIGINT")  # sent by people and systems that want a process to end
_KILLED: tuple[str, Any, Any] = ("killed", None, "")  # what a process answers that has ended without a word


@dataclass(frozen=True)
class Task:
    """`work(request, folder)` is a function of a module, for a spawned process imports it. `after`: tasks that it reads from.
    `need`: memory that it is expected to take; `stage`: what progress counts it under."""

    name: str
    stage: str
    work: Callable[[Any, Path], dict[str, Any]]
    need: Need
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What a task returned, and what it took."""

    result: dict[str, Any]
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


def _enter(work: Callable[[Any, Path], dict[str, Any]], request: Any, folder: Path, threads: int, answer: Connection) -> None:
    """The body of a task's process."""
    enter_worker()
    import torch

    return_freed_memory()
    torch.set_num_threads(threads)
    began, started = time.time(), time.perf_counter()
    try:
        result = work(request, folder)
        _sync_written(folder, began)
    except EchoEdgeError as error:
        answer.send(("refused", type(error), str(error)))
        return
    except MemoryError:
        answer.send(("memory", None, ""))
        return
    except Exception as error:
        answer.send(("failed", type(error).__name__, f"{error}\n{traceback.format_exc(limit=-3)}"))
        return
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time(), "peak_bytes": peak_bytes()}
    answer.send(("done", None, {"result": result, **took}))


def _sync_written(folder: Path, began: float) -> None:
    """Has the system write to the disk what was written since `began`: a record must not be there before what it is of."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # another task's temporary file
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


def record_path(folder: Path, task: str) -> Path:
    """Where a workshop in `folder` writes down what became of the task of that name."""
    return folder / f"{task.replace(' ', '-')}.done.json"


class Workshop:
    """The work folder `folder` for the request that `key` identifies, held as long as the `with` block lasts.

    `jobs`: tasks at once, as far as their needs and this process fit into `budget` bytes together.

    Raises (on entering):
        OutputError: the folder is not one that a workshop has made, or another run holds it.
    """

    def __init__(self, folder: Path, key: str, jobs: int = 2, budget: int | None = None) -> None:
        self.folder, self.key, self.jobs, self.budget = folder, key, jobs, budget
        self.peak_bytes = 0  # of this process and its tasks together, while `run` runs
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

    def finished(self, task: Task) -> Done | None:
        """What is written down of a task; None if it has not ended well."""
        path = record_path(self.folder, task.name)
        return Done(**json.loads(path.read_text())) if path.is_file() else None

    def run(self, tasks: Sequence[Task], request: Any, progress: Progress) -> dict[str, Done]:
        """Runs what has not been done.

        Raises:
            ConfigError: two tasks have one record, or one waits for itself or for a task that is not there.
            ResourceError: a task needs more memory than there is; the message names the largest part and a remedy.
            ExportError: a task failed or was killed.
        """
        self._check_order(tasks)
        results = {task.name: done for task in tasks if (done := self.finished(task))}
        stages: dict[str, list[Task]] = {}
        for task in tasks:
            stages.setdefault(task.stage, []).append(task)
            if task.name not in results:
                require(task.need, task.name, self.budget)
        running: dict[str, tuple[Task, SpawnProcess, Connection]] = {}

        def tell() -> None:
            for stage, members in stages.items():
                progress(stage, sum(task.name in results for task in members), len(members))

        tell()
        context = multiprocessing.get_context("spawn")
        try:
            while len(results) < len(tasks):
                for task in tasks:
                    if len(running) < self.jobs and self._ready(task, results, running):
                        answer, sender = context.Pipe(duplex=False)
                        arguments = (task.work, request, self.folder, usable_cores(), sender)
                        process = context.Process(target=_enter, args=arguments, daemon=True)
                        process.start()
                        sender.close()
                        running[task.name] = (task, process, answer)
                self._watch(running)
                for name, (task, process, answer) in list(running.items()):
                    if answer.poll() or not process.is_alive():
                        results[name] = self._collect(task, process, answer)
                        del running[name]
                        tell()
        finally:
            for _, process, _ in running.values():
                process.terminate()
                process.join()
        return results

    def _check_order(self, tasks: Sequence[Task]) -> None:
        """That every task can have its turn, and its record to itself."""
        records: dict[Path, str] = {}
        for task in tasks:
            record = record_path(self.folder, task.name)
            if record in records:
                raise ConfigError(f"The tasks {records[record]!r} and {task.name!r} have one record. Name each once.")
            records[record] = task.name
        names = [task.name for task in tasks]
        for task in tasks:
            if strangers := [name for name in task.after if name not in names]:
                raise ConfigError(f"{task.name} waits for {strangers[0]!r}, which is not there. Choose from: {', '.join(names)}.")
        try:
            TopologicalSorter({task.name: task.after for task in tasks}).prepare()
        except CycleError as error:
            raise ConfigError(f"Tasks wait for each other: {' -> '.join(error.args[1])}. Take one of them out.") from error

    def _ready(self, task: Task, results: Mapping[str, Done], running: Mapping[str, Any]) -> bool:
        if task.name in results or task.name in running or any(name not in results for name in task.after):
            return False
        taken = resident_bytes() + sum(other.need.total for other, _, _ in running.values())
        return not running or self.budget is None or taken + task.need.total <= self.budget

    def _watch(self, running: Mapping[str, tuple[Task, SpawnProcess, Connection]]) -> None:
        """Waits a moment and looks how much memory everything takes together."""
        time.sleep(_POLL_SECONDS)
        now = resident_bytes() + sum(resident_bytes(process.pid) for _, process, _ in running.values())
        self.peak_bytes = max(self.peak_bytes, now)

    def _collect(self, task: Task, process: SpawnProcess, answer: Connection) -> Done:
        try:
            kind, what, content = answer.recv() if answer.poll() else _KILLED
        except EOFError:
            kind, what, content = _KILLED
        process.join()
        if kind == "done":
            with atomic_file(record_path(self.folder, task.name), force=True) as temporary:
                temporary.write_text(json.dumps(content))
            return Done(**content)
        if kind == "refused":
            raise what(content)
        if kind == "failed":
            raise ExportError(f"{task.name} failed with {what}: {content}")
        remedy = (
            f"It was expected to take {human_bytes(task.need.total)}, most of it for {task.need.largest}. Close other programs, or "
            "work with --jobs 1. Run the same command again: what is finished is kept."
        )
        if kind == "memory":
            raise ExportError(f"{task.name} ran out of memory. {remedy}")
        raise ExportError(fate(f"process of {task.name}", process.exitcode, remedy))
