"""core/work.py: one run at a time in a folder of its own, and nothing deleted that no run has made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from echoedge.core.errors import OutputError
from echoedge.core.work import MARKER, WorkFolder, in_use, is_work, tells_what_stays

HOLDING = """
import sys, time
from echoedge.core.work import WorkFolder
with WorkFolder(sys.argv[1], "search"):
    print("ready", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_work_stays_for_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "work"
    with WorkFolder(folder, "search"):
        (folder / "measured").write_text("1")
    assert is_work(folder) and not in_use(folder)
    with WorkFolder(folder, "search") as work:
        assert names(folder) == ["measured"]
        work.empty()
        assert names(folder) == []
    assert is_work(folder)


def test_it_goes_with_everything_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("mine")
    with WorkFolder(tmp_path / "work", "search") as work:
        (tmp_path / "work" / "sub").mkdir()
        (tmp_path / "work" / "sub" / "a").touch()
        (tmp_path / "work" / "link").symlink_to(tmp_path / "mine")
        work.remove()
    assert names(tmp_path) == ["mine"]
    assert names(tmp_path / "mine") == ["thesis"]


def test_an_empty_folder_is_taken_and_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with WorkFolder(tmp_path / "empty", "search"):
        assert in_use(tmp_path / "empty")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    (tmp_path / "letter").write_text("dear")
    for name, message in (("photos", "holds files that no run has made"), ("letter", "is a file")):
        with pytest.raises(OutputError, match=message), WorkFolder(tmp_path / name, "search"):
            pytest.fail("the body must not run")
    assert os.listdir(tmp_path / "photos") == ["a.jpg"]


def test_a_kill_between_folder_and_marker_leaves_one_to_take(tmp_path: Path) -> None:
    with WorkFolder(tmp_path / "work", "search"):
        pass
    for path in (tmp_path / "work").iterdir():  # what is there before the marker: nothing
        path.unlink()
    with WorkFolder(tmp_path / "work", "search"):
        assert (tmp_path / "work" / MARKER).exists()


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path / "w")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert in_use(tmp_path / "w")
    refusal = f"w is used by another search, process {process.pid}, which is running"
    with pytest.raises(OutputError, match=refusal), WorkFolder(tmp_path / "w", "export"):
        pytest.fail("the body must not run")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    process.stdout.close()
    assert not in_use(tmp_path / "w")
    with WorkFolder(tmp_path / "w", "search"):
        pass


def test_an_interruption_says_what_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as found, tells_what_stays("b stays"), WorkFolder(tmp_path / "a", "search"):
        raise KeyboardInterrupt
    assert found.value.__notes__ == [f"{tmp_path / 'a'} keeps what was finished: the same command goes on from there.", "b stays"]
    with pytest.raises(ValueError, match="other") as other, tells_what_stays("b stays"), WorkFolder(tmp_path / "a", "search"):
        raise ValueError("other")
    assert not hasattr(other.value, "__notes__")
