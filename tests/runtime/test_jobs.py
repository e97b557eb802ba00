"""runtime/export/jobs.py: work in processes of its own, done once, resumed after a kill, refused before it is begun."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import BaseModel

from echoedge.core import memory
from echoedge.core.errors import ConfigError, ExportError, OutputError, ResourceError
from echoedge.core.memory import Need, resident_bytes
from echoedge.runtime.export.jobs import LIGHT_BYTES, Done, Job, JobRunner, fate

REPO = Path(__file__).resolve().parents[2]
SMALL = Need({"the process": 1})


class Noted(BaseModel):
    """What the jobs of these tests return."""

    pid: int = 0
    seen: str = ""
    held: int = 0


def silent(*_: object) -> None:
    """No progress."""


def notes(request: Any, folder: Path, *_given: BaseModel) -> BaseModel:
    """Leaves a line in the folder each time it runs."""
    with (folder / "runs").open("a") as file:
        file.write(f"{request}\n")
    return Noted(pid=os.getpid())


def reads(_request: Any, folder: Path, *_given: BaseModel) -> BaseModel:
    return Noted(seen=(folder / "runs").read_text())


def refuses(request: Any, _folder: Path) -> BaseModel:
    raise ConfigError(f"{request} cannot be.")


def fails(_request: Any, _folder: Path) -> BaseModel:
    raise ZeroDivisionError("by nothing")


def dies(_request: Any, _folder: Path) -> BaseModel:
    os.kill(os.getpid(), signal.SIGKILL)
    return Noted()


def dies_once(_request: Any, folder: Path, *_given: BaseModel) -> BaseModel:
    if not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Noted()


def does_not_end(_request: Any, folder: Path, *_given: BaseModel) -> BaseModel:
    """As where a library swallows what a signal's handler raises."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(120)
    return Noted()


def refuses_then(request: Any, folder: Path, *_given: BaseModel) -> BaseModel:
    while not (folder / "pid").exists():
        time.sleep(0.05)
    raise ConfigError(f"{request} cannot be.")


def sends_itself(number: int, _folder: Path) -> BaseModel:
    os.kill(os.getpid(), number)
    return Noted()


def waits(_request: Any, folder: Path) -> BaseModel:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
    return Noted()


def takes_memory(_request: Any, _folder: Path) -> BaseModel:
    held = b"x" * 300_000_000
    time.sleep(0.5)
    return Noted(held=len(held))


def task(work: Any, name: str = "work", after: tuple[Job, ...] = (), need: Need = SMALL) -> Job:
    return Job(name, "programs", work, Noted, need, after)


def work_on(folder: Path, tasks: list[Job], request: Any = "r", key: str = "key", progress: Any = silent) -> dict[str, Done]:
    with JobRunner(folder, key) as runner:
        return runner.run(tasks, request, progress)


def test_a_task_runs_in_another_process_after_what_it_reads(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    first = task(notes, "first")
    tasks = [task(reads, "second", (first,)), first]
    done = work_on(tmp_path / "w", tasks, progress=lambda *step: told.append(step))
    assert done["second"].result == Noted(seen="r\n")
    assert done["first"].result.pid != os.getpid()
    assert done["first"].peak_bytes > 0
    assert (told[0], told[-1]) == (("programs", 0, 2), ("programs", 2, 2))


def test_light_jobs_share_a_process_and_a_heavy_one_has_its_own(tmp_path: Path) -> None:
    """A heavy job's memory goes with its process, and it begins in one that holds nothing yet."""
    heavy = Need({"weights": LIGHT_BYTES + 1})
    one, two = task(notes, "one"), task(notes, "two")
    three = task(notes, "three", need=heavy, after=(one, two))
    four = task(notes, "four", after=(three,))
    with JobRunner(tmp_path / "w", "key", at_once=1) as runner:
        done = runner.run([one, two, three, four], "r", silent)
    pids = {name: each.result.pid for name, each in done.items()}
    assert pids["one"] == pids["two"]
    assert len({pids["two"], pids["three"], pids["four"]}) == 3


def test_a_job_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.runtime.export.jobs._GRACE_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="r cannot be"), JobRunner(tmp_path / "w", "key", at_once=2) as runner:
        runner.run([task(does_not_end, "one"), task(refuses_then, "two")], "r", silent)
    assert not psutil.pid_exists(int((tmp_path / "w" / "pid").read_text()))


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    for _ in range(2):
        work_on(tmp_path / "w", [task(notes)])
    assert (tmp_path / "w" / "runs").read_text() == "r\n"


def test_another_request_begins_anew(tmp_path: Path) -> None:
    work_on(tmp_path / "w", [task(notes)], "a")
    work_on(tmp_path / "w", [task(notes)], "b", key="other")
    assert (tmp_path / "w" / "runs").read_text() == "b\n"


def test_a_killed_task_is_a_sentence_and_the_next_run_goes_on(tmp_path: Path) -> None:
    first = task(notes, "first")
    tasks = [first, task(dies_once, "second", (first,))]
    with pytest.raises(ExportError, match=r"process of second was killed .*Run the same command again: what is finished is kept"):
        work_on(tmp_path / "w", tasks)
    done = work_on(tmp_path / "w", tasks)
    assert set(done) == {"first", "second"}
    assert (tmp_path / "w" / "runs").read_text() == "r\n"  # the first was not run again


def test_errors_that_a_user_can_mend_come_through_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^this cannot be\.$"):
        work_on(tmp_path / "w", [task(refuses)], "this")


def test_other_errors_name_the_task(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="work failed with ZeroDivisionError: by nothing"):
        work_on(tmp_path / "w", [task(fails)])


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(notes, "a"), task(notes, "a")], "jobs 'a' and 'a' have one record"),
        ([task(notes, "a b"), task(notes, "a-b")], "jobs 'a b' and 'a-b' have one record"),
        ([task(notes, "a"), task(reads, "b", (task(notes, "c"),))], "b waits for 'c', which is not there. Choose from: a, b"),
    ],
)
def test_tasks_that_could_never_end_are_refused_before_anything_runs(tasks: list[Job], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        work_on(tmp_path / "w", tasks)
    assert not (tmp_path / "w" / "runs").exists()


def test_too_little_memory_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000)
    tasks = [task(notes, "first"), task(notes, "second", need=Need({"weights": 5_000}, {"weights": "take int4."}))]
    with pytest.raises(ResourceError, match=r"needed for second.*5\.00 kB for weights\. The cheapest remedy: take int4\."):
        work_on(tmp_path / "w", tasks)
    assert not (tmp_path / "w" / "runs").exists()


def test_a_budget_keeps_tasks_from_running_together(tmp_path: Path) -> None:
    tasks = [task(takes_memory, name, need=Need({"bytes": 600})) for name in ("first", "second")]
    own = resident_bytes() + 50_000_000
    with JobRunner(tmp_path / "a", "key", at_once=2, budget=own + 1_200) as together:
        together.run(tasks, "r", silent)
    with JobRunner(
        tmp_path / "b", "key", at_once=2, budget=1_000
    ) as alone:  # less than this process has: one at a time all the same
        alone.run(tasks, "r", silent)
    assert together.peak_bytes > alone.peak_bytes + 150_000_000  # two processes of 300 MB and the libraries, or one


def test_records_are_json_that_a_person_can_read(tmp_path: Path) -> None:
    work_on(tmp_path / "w", [task(notes, "compile denoise")])
    record = json.loads((tmp_path / "w" / "compile-denoise.done.json").read_text())
    assert set(record) == {"result", "seconds", "cpu_seconds", "peak_bytes"}


# ---- one run at a time, in a folder of its own -----------------------------------------------------------------------------------


def test_a_second_run_is_refused_at_once(tmp_path: Path) -> None:
    with JobRunner(tmp_path / "w", "key") as first:
        with (
            pytest.raises(OutputError, match=r"w is used by another export, process \d+, which"),
            JobRunner(tmp_path / "w", "other"),
        ):
            pytest.fail("the body must not run")
        assert first.run([task(notes)], "r", silent)["work"].result
    assert work_on(tmp_path / "w", [task(notes)])
    assert (tmp_path / "w" / "runs").read_text() == "r\n"  # the one that was refused has deleted nothing


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"holds files that no run has made"):
        work_on(tmp_path / "w", [task(notes)])
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["thesis.tex"]


def test_what_was_half_emptied_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while another request empties the folder: its records are not the first request's any more."""
    work_on(tmp_path / "w", [task(notes)])

    def killed(_self: Any) -> None:
        (tmp_path / "w" / "runs").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("echoedge.core.work.WorkFolder.empty", killed)
        with pytest.raises(KeyboardInterrupt):
            work_on(tmp_path / "w", [task(notes)], key="other")
    work_on(tmp_path / "w", [task(notes)])
    assert (tmp_path / "w" / "runs").read_text() == "r\n"


# ---- how processes end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-signal.SIGKILL, r"^The process of it was killed \(SIGKILL\), perhaps for memory\. Take less\.$"),
        (-signal.SIGSEGV, r"^The process of it crashed \(SIGSEGV\)\. .*report it"),
        (-signal.SIGABRT, r"crashed \(SIGABRT\)"),
        (-signal.SIGBUS, r"crashed \(SIGBUS\)"),
        (-signal.SIGTERM, r"was ended from outside \(SIGTERM\)"),
        (3, r"ended without an answer, with exit status 3\. Take less\."),
    ],
)
def test_what_became_of_a_process(status: int, told: str) -> None:
    assert re.search(told, fate("process of it", status, "Take less."))


@pytest.mark.parametrize(("number", "told"), [(signal.SIGKILL, "perhaps for memory"), (signal.SIGSEGV, r"crashed \(SIGSEGV\)")])
def test_the_signal_that_ended_a_task_is_told(number: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"process of work .*{told}") as found:
        work_on(tmp_path / "w", [task(sends_itself)], int(number))
    assert ("memory" in str(found.value)) == (number == signal.SIGKILL)


WORKING = """
import sys
sys.path.append(sys.argv[1])
from pathlib import Path
from tests.runtime.test_jobs import task, waits, silent
from echoedge.runtime.export.jobs import JobRunner
if __name__ == "__main__":
    with JobRunner(Path(sys.argv[2]), "key") as runner:
        runner.run([task(waits)], "r", silent)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_tasks_end_with_the_process_that_began_them(number: int, tmp_path: Path) -> None:
    script, work = tmp_path / "script.py", tmp_path / "w"
    script.write_text(WORKING)
    process = subprocess.Popen([sys.executable, str(script), str(REPO), str(work)], stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (work / "pid").exists() and (work / "pid").read_text():
            break
        time.sleep(0.1)
    worker = psutil.Process(int((work / "pid").read_text()))
    process.send_signal(number)
    assert process.wait(timeout=30) == (-number if number == signal.SIGKILL else 128 + number)
    assert psutil.wait_procs([worker], timeout=20)[1] == []
    with JobRunner(work, "key"):  # free again
        assert (work / "pid").exists()
