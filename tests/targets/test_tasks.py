"""targets/tasks.py: work in processes of its own, done once, resumed after a kill, refused before it is begun."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from echoedge.core import memory
from echoedge.core.errors import ConfigError, ExportError, ResourceError
from echoedge.core.memory import Need
from echoedge.targets.tasks import Task, Workshop, resident

SMALL = Need({"the process": 1})


def silent(*_: object) -> None:
    """No progress."""


def notes(request: Any, folder: Path) -> dict[str, Any]:
    """Leaves a line in the folder each time it runs."""
    with (folder / "runs").open("a") as file:
        file.write(f"{request}\n")
    return {"pid": os.getpid()}


def reads(_request: Any, folder: Path) -> dict[str, Any]:
    return {"seen": (folder / "runs").read_text()}


def refuses(request: Any, _folder: Path) -> dict[str, Any]:
    raise ConfigError(f"{request} cannot be.")


def fails(_request: Any, _folder: Path) -> dict[str, Any]:
    raise ZeroDivisionError("by nothing")


def dies(_request: Any, _folder: Path) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def dies_once(_request: Any, folder: Path) -> dict[str, Any]:
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def takes_memory(_request: Any, _folder: Path) -> dict[str, Any]:
    held = b"x" * 300_000_000
    time.sleep(0.5)
    return {"held": len(held)}


def task(work: Any, name: str = "work", after: tuple[str, ...] = (), need: Need = SMALL) -> Task:
    return Task(name, "programs", work, need, after)


def test_a_task_runs_in_another_process_after_what_it_reads(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    tasks = [task(reads, "second", ("first",)), task(notes, "first")]
    done = Workshop(tmp_path / "w", "key").run(tasks, "r", lambda *step: told.append(step))
    assert done["second"].result == {"seen": "r\n"}
    assert done["first"].result["pid"] != os.getpid()
    assert done["first"].peak_bytes > 0
    assert (told[0], told[-1]) == (("programs", 0, 2), ("programs", 2, 2))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    for _ in range(2):
        Workshop(tmp_path / "w", "key").run([task(notes)], "r", silent)
    assert (tmp_path / "w" / "runs").read_text() == "r\n"


def test_another_request_begins_anew(tmp_path: Path) -> None:
    Workshop(tmp_path / "w", "key").run([task(notes)], "a", silent)
    Workshop(tmp_path / "w", "other").run([task(notes)], "b", silent)
    assert (tmp_path / "w" / "runs").read_text() == "b\n"


def test_a_killed_task_is_a_sentence_and_the_next_run_goes_on(tmp_path: Path) -> None:
    tasks = [task(notes, "first"), task(dies_once, "second", ("first",))]
    with pytest.raises(ExportError, match=r"process of second was killed .*Run the same command again: what is finished is kept"):
        Workshop(tmp_path / "w", "key").run(tasks, "r", silent)
    done = Workshop(tmp_path / "w", "key").run(tasks, "r", silent)
    assert set(done) == {"first", "second"}
    assert (tmp_path / "w" / "runs").read_text() == "r\n"  # the first was not run again


def test_errors_that_a_user_can_mend_come_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^this cannot be\.$"):
        Workshop(tmp_path / "w", "key").run([task(refuses)], "this", silent)


def test_other_errors_name_the_task(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="work failed with ZeroDivisionError: by nothing"):
        Workshop(tmp_path / "w", "key").run([task(fails)], "r", silent)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(notes, "a"), task(notes, "a")], "tasks 'a' and 'a' have one record"),
        ([task(notes, "a b"), task(notes, "a-b")], "tasks 'a b' and 'a-b' have one record"),
        ([task(notes, "a"), task(reads, "b", ("c",))], "b waits for 'c', which is not there. Choose from: a, b"),
        ([task(notes, "a", ("b",)), task(notes, "b", ("a",))], "wait for each other: (a -> b -> a|b -> a -> b)"),
        ([task(notes, "a", ("a",))], "wait for each other: a -> a"),
    ],
)
def test_tasks_that_could_never_end_are_refused_before_anything_runs(tasks: list[Task], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Workshop(tmp_path / "w", "key").run(tasks, "r", silent)
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["request"]


def test_too_little_memory_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000)
    tasks = [task(notes, "first"), task(notes, "second", need=Need({"weights": 5_000}, {"weights": "take int4."}))]
    with pytest.raises(ResourceError, match=r"needed for second.*5\.00 kB for weights\. The cheapest remedy: take int4\."):
        Workshop(tmp_path / "w", "key").run(tasks, "r", silent)
    assert not (tmp_path / "w" / "runs").exists()


def test_a_budget_keeps_tasks_from_running_together(tmp_path: Path) -> None:
    tasks = [task(takes_memory, name, need=Need({"bytes": 600})) for name in ("first", "second")]
    own = resident("self") + 50_000_000
    together = Workshop(tmp_path / "a", "key", jobs=2, budget=own + 1_200)
    together.run(tasks, "r", silent)
    alone = Workshop(tmp_path / "b", "key", jobs=2, budget=1_000)  # less than this process has: one task at a time all the same
    alone.run(tasks, "r", silent)
    assert together.peak_bytes > alone.peak_bytes + 150_000_000  # two processes of 300 MB and the libraries, or one


def test_records_are_json_that_a_person_can_read(tmp_path: Path) -> None:
    Workshop(tmp_path / "w", "key").run([task(notes, "compile denoise")], "r", silent)
    record = json.loads((tmp_path / "w" / "compile-denoise.done.json").read_text())
    assert set(record) == {"result", "seconds", "cpu_seconds", "peak_bytes"}


def test_memory_of_processes() -> None:
    assert 0 < resident("self") <= resident("self", peak=True)
    assert resident(2**22 + 1) == 0
