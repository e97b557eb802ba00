"""Work in processes of its own: memory returns when a task ends, a kill becomes a sentence, and what is finished is not done again.

A `Workshop` is a folder that belongs to one request. Each task of it is a function of the request and the folder, run in a spawned
process; what it returns, JSON, is written down when it has ended, together with its time and its peak of memory. A workshop that is
opened again for the same request goes on behind what is written; for another request it is emptied first.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, EchoEdgeError, ExportError
from ..core.files import atomic_file, human_bytes
from ..core.memory import Need, require
from .idle import return_freed_memory

_POLL_SECONDS = 0.1
Progress = Callable[[str, int, int], None]
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


def _enter(work: Callable[[Any, Path], dict[str, Any]], request: Any, folder: Path, threads: int, answer: Connection) -> None:
    """The body of a task's process. Ctrl-C is its parent's to handle; what libraries print goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import torch

    return_freed_memory()
    torch.set_num_threads(threads)
    started = time.perf_counter()
    try:
        result = work(request, folder)
    except EchoEdgeError as error:
        answer.send(("refused", type(error), str(error)))
        return
    except MemoryError:
        answer.send(("memory", None, ""))
        return
    except Exception as error:
        answer.send(("failed", type(error).__name__, f"{error}\n{traceback.format_exc(limit=-3)}"))
        return
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time(), "peak_bytes": resident("self", peak=True)}
    answer.send(("done", None, {"result": result, **took}))


def resident(process: int | str, peak: bool = False) -> int:
    """Resident bytes of a process, now or at its peak; 0 where the system does not say, or it has ended."""
    try:
        rows = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    wanted = "VmHWM:" if peak else "VmRSS:"
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith(wanted)), 0)


class Workshop:
    """The folder `folder` for the request that `key` identifies.

    `jobs`: tasks at once, as far as their needs and this process fit into `budget` bytes together.
    """

    def __init__(self, folder: Path, key: str, jobs: int = 2, budget: int | None = None) -> None:
        self.folder, self.jobs, self.budget = folder, jobs, budget
        self.peak_bytes = 0  # of this process and its tasks together, while `run` runs
        label = folder / "request"
        if folder.exists() and (not label.is_file() or label.read_text() != key):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        label.write_text(key)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, task: Task) -> Path:
        return self.folder / f"{task.name.replace(' ', '-')}.done.json"

    def finished(self, task: Task) -> Done | None:
        """What is written down of a task; None if it has not ended well."""
        path = self._record(task)
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
                        threads = os.cpu_count() or 1
                        process = context.Process(target=_enter, args=(task.work, request, self.folder, threads, sender))
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
            if self._record(task) in records:
                raise ConfigError(f"The tasks {records[self._record(task)]!r} and {task.name!r} have one record. Name each once.")
            records[self._record(task)] = task.name
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
        taken = resident("self") + sum(other.need.total for other, _, _ in running.values())
        return not running or self.budget is None or taken + task.need.total <= self.budget

    def _watch(self, running: Mapping[str, tuple[Task, SpawnProcess, Connection]]) -> None:
        """Waits a moment and looks how much memory everything takes together."""
        time.sleep(_POLL_SECONDS)
        now = resident("self") + sum(resident(process.pid or 0) for _, process, _ in running.values())
        self.peak_bytes = max(self.peak_bytes, now)

    def _collect(self, task: Task, process: SpawnProcess, answer: Connection) -> Done:
        try:
            kind, what, content = answer.recv() if answer.poll() else _KILLED
        except EOFError:
            kind, what, content = _KILLED
        process.join()
        if kind == "done":
            with atomic_file(self._record(task), force=True) as temporary:
                temporary.write_text(json.dumps(content))
            return Done(**content)
        again = "Run the same command again: what is finished is kept."
        if kind == "refused":
            raise what(content)
        if kind == "failed":
            raise ExportError(f"{task.name} failed with {what}: {content}")
        raise ExportError(
            f"The process of {task.name} was killed (exit status {process.exitcode}), most likely for memory: it was expected to "
            f"take {human_bytes(task.need.total)}, most of it for {task.need.largest}. Close other programs, or work with --jobs "
            f"1. {again}"
        )
