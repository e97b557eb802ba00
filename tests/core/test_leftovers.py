"""core/leftovers.py: what killed runs left is found and goes; what runs use, what others own and what is precious stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from echoedge.core.errors import InputError
from echoedge.core.files import CLAIM, atomic_file, atomic_folder
from echoedge.core.leftovers import leftovers, remove
from echoedge.core.work import WorkFolder, claimed

WRITING = """
import sys, time
from pathlib import Path
from echoedge.core.files import atomic_file, atomic_folder
from echoedge.core.work import WorkFolder
folder = Path(sys.argv[1])
with WorkFolder(folder / ".b.echoedge.work", "export"), atomic_file(folder / "a.mp4") as file, atomic_folder(folder / "b.v1.echoedge") as half:
    (folder / ".b.echoedge.work" / "weights").write_bytes(bytes(700))
    file.write_bytes(bytes(1000))
    (half / "programs").mkdir()
    (half / "programs" / "denoise.pte").write_bytes(bytes(500))
    print("ready", flush=True)
    time.sleep(60)
"""  # noqa: E501
NOT_OURS = [".vimrc", ".notes.partial", ".a.12-x.partial", "a.partial", ".thesis.work"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With things that look alike and are others'."""
    for name in NOT_OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("dear")
    return tmp_path


def started(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITING, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def test_what_a_kill_leaves_is_named_with_its_size_and_goes(folder: Path) -> None:
    process = started(folder)
    assert leftovers([folder]) == []  # it is in use
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    found = leftovers([folder, folder])
    assert sorted((x.path.name.split(".")[1], x.bytes) for x in found if ".partial" in x.path.name) == [("a", 1000), ("b", 500)]
    assert {x.path.name: 700 <= x.bytes < 800 for x in found if ".partial" not in x.path.name} == {".b.echoedge.work": True}
    assert all(remove(leftover) for leftover in found)
    assert sorted(os.listdir(folder)) == sorted(NOT_OURS)
    assert not any(remove(leftover) for leftover in found)


def test_what_this_process_writes_is_not_left_over(folder: Path) -> None:
    with atomic_file(folder / "out"), atomic_folder(folder / "bundle"), WorkFolder(folder / ".x.work", "export"):
        assert leftovers([folder]) == []


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(folder: Path) -> None:
    path = folder / f".a.mp4.{os.getpid():x}-0123abcd.partial.mp4"
    path.touch()
    assert leftovers([folder]) == []
    os.utime(path, (0, 0))  # long before this process began
    assert [leftover.path for leftover in leftovers([folder])] == [path]


def test_an_output_that_was_put_aside_stays_unless_it_was_replaced(folder: Path) -> None:
    aside = folder / ".b.echoedge.ffffff0-0123abcd.old.partial"
    aside.mkdir()
    (aside / "manifest.json").write_text("{}")
    (found,) = leftovers([folder])
    assert found.precious and "rename it" in found.what
    assert not remove(found)
    assert (aside / "manifest.json").exists()
    (folder / "b.echoedge").mkdir()  # the new one took its place
    (found,) = leftovers([folder])
    assert not found.precious
    assert remove(found)
    assert not aside.exists()


def test_a_claim_that_nobody_holds_is_named_and_goes(folder: Path) -> None:
    path = folder / f".clip.mp4{CLAIM}"
    with claimed(folder / "clip.mp4", "animation"):
        assert path.exists() and leftovers([folder]) == []
    assert not path.exists()
    path.write_text("")  # a kill before it says whose it is
    (found,) = leftovers([folder])
    assert found.path == path and "claim on clip.mp4" in found.what
    with claimed(folder / "clip.mp4", "animation"):
        assert not remove(found)
        assert path.exists()
    path.write_text(f"{os.getpid()}\nanimation\n")
    assert remove(found) and not path.exists()


def test_links_are_not_followed(folder: Path) -> None:
    (folder / ".l.ffffff0-0123abcd.partial").symlink_to(folder / "a.partial")
    assert leftovers([folder]) == []


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere cannot be read"):
        leftovers([tmp_path / "nowhere"])
