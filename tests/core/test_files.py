"""core/files.py: what is written appears whole or not at all, hashes, and checks of free disk and memory."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from echoedge.core import files
from echoedge.core.errors import OutputError, ResourceError
from echoedge.core.files import (
    atomic_file,
    atomic_folder,
    available_memory,
    file_sha256,
    group_rooms,
    human_bytes,
    require_free_disk,
    require_free_memory,
)
from echoedge.core.work import claimed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(temporary: Path, text: str) -> None:
    """Write `text` into an atomic file, or into a file of an atomic folder."""
    target = temporary / "sub" / "a.txt" if temporary.is_dir() else temporary
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)


def content(path: Path) -> str:
    return (path / "sub" / "a.txt" if path.is_dir() else path).read_text()


Atomic = Callable[..., AbstractContextManager[Path]]
both = pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])


# --- 1. files and folders alike ---------------------------------------------------------------------------------------------------


@both
def test_appears_only_at_the_end(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / "new" / "deeper" / "out.bin"
    with atomic(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert ".partial" in temporary.name
        assert temporary.suffix == ".bin"
        fill(temporary, "whole")
        assert not target.exists()
    assert content(target) == "whole"
    assert names(target.parent) == ["out.bin"]


@both
def test_existing_output_is_refused_and_kept(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic(target) as temporary:
        fill(temporary, "old")
    with pytest.raises(OutputError, match=r"out exists\. Give another name or --force\."), atomic(target):
        pytest.fail("the body must not run")
    assert content(target) == "old"
    assert names(tmp_path) == ["out"]


@both
def test_force_replaces_at_the_end(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("old", "new"):
        with atomic(target, force=True) as temporary:
            fill(temporary, text)
            assert not target.exists() or content(target) == "old"
    assert content(target) == "new"
    assert names(tmp_path) == ["out"]


@both
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [False, True])
def test_failure_leaves_what_was_there(atomic: Atomic, error: type[BaseException], old: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if old:
        with atomic(target) as temporary:
            fill(temporary, "old")

    def fail() -> None:
        with atomic(target, force=True) as temporary:
            fill(temporary, "half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["out"] if old else [])
    assert not old or content(target) == "old"


@both
@pytest.mark.parametrize("letter", ["a", "é", "声"])
def test_a_name_may_be_as_long_as_the_system_takes(atomic: Atomic, letter: str, tmp_path: Path) -> None:
    name = letter * (251 // len(letter.encode())) + ".mp4"
    for again in range(2):
        with claimed(tmp_path / name, "animation"), atomic(tmp_path / name, force=True) as temporary:
            fill(temporary, f"whole {again}")
    assert content(tmp_path / name) == "whole 1"
    assert names(tmp_path) == [name]


@both
def test_output_that_appears_meanwhile_is_not_overwritten(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / "out"

    def race() -> None:
        with atomic(target) as temporary:
            fill(temporary, "mine")
            with atomic(target) as other:
                fill(other, "theirs")

    with pytest.raises(OutputError, match="exists"):
        race()
    assert content(target) == "theirs"
    assert names(tmp_path) == ["out"]


@both
def test_the_other_kind_is_never_replaced(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if atomic is atomic_file:
        target.mkdir()
    else:
        target.write_text("a file")
    with pytest.raises(OutputError, match="is a folder" if atomic is atomic_file else "is a file"), atomic(target, force=True):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["out"]


@both
def test_unwritable_parent(atomic: Atomic, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), atomic(tmp_path / "file" / "out"):
        pytest.fail("the body must not run")


@both
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_parent_without_permission(atomic: Atomic, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"), atomic(tmp_path / "out"):
            pytest.fail("the body must not run")
    finally:
        tmp_path.chmod(0o700)


@both
def test_full_disk_becomes_a_sentence(atomic: Atomic, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="disk is full"), atomic(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "out"):  # another error of the system passes as it is
        raise FileNotFoundError(errno.ENOENT, "elsewhere")
    assert names(tmp_path) == []


@both
def test_very_long_name(atomic: Atomic, tmp_path: Path) -> None:
    target = tmp_path / ("x" * 240 + ".bin")
    with atomic(target) as temporary:
        fill(temporary, "whole")
    assert content(target) == "whole"


# --- 2. files or folders only -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_file(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_old_folder_returns_if_the_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as temporary:
        fill(temporary, "old")
    rename = os.rename

    def fail_once(source: Path, destination: Path) -> None:
        if Path(destination) == target and ".old." not in Path(source).name:
            raise PermissionError(errno.EACCES, "refused")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(PermissionError), atomic_folder(target, force=True) as temporary:
        fill(temporary, "new")
    assert content(target) == "old"
    assert names(tmp_path) == ["out"]


def test_marker_limits_what_force_replaces(tmp_path: Path) -> None:
    precious, empty, ours = tmp_path / "precious", tmp_path / "empty", tmp_path / "ours"
    for folder, name in ((precious, "thesis.tex"), (empty, None), (ours, "manifest.json")):
        folder.mkdir()
        if name:
            (folder / name).write_text("old")
    with pytest.raises(OutputError, match=r"no manifest\.json"), atomic_folder(precious, force=True, marker="manifest.json"):
        pytest.fail("the body must not run")
    assert names(precious) == ["thesis.tex"]
    for folder in (empty, ours):
        with atomic_folder(folder, force=True, marker="manifest.json") as temporary:
            fill(temporary, "new")
        assert names(folder) == ["sub"]


# --- 3. signals -------------------------------------------------------------------------------------------------------------------

WAITING = """
import sys, time
from echoedge.core.files import {function}
with {function}(sys.argv[1], force=True) as temporary:
    (temporary / "a" if temporary.is_dir() else temporary).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("function", ["atomic_file", "atomic_folder"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP)],
)
def test_signal_removes_the_temporary_file(function: str, number: int, status: int, tmp_path: Path) -> None:
    script = WAITING.format(function=function)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert [".partial" in name for name in names(tmp_path)] == [True]
    process.send_signal(number)
    assert process.wait(timeout=20) == status
    process.stdout.close()
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_handler_is_lent_not_taken(number: int, tmp_path: Path) -> None:
    def of_the_application(_number: int, _frame: Any) -> None:
        pytest.fail("no signal is sent")

    assert signal.getsignal(number) is signal.SIG_DFL
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("")
        assert signal.getsignal(number) is not signal.SIG_DFL
    assert signal.getsignal(number) is signal.SIG_DFL
    signal.signal(number, of_the_application)
    try:
        with atomic_file(tmp_path / "b"):
            assert signal.getsignal(number) is of_the_application
        assert signal.getsignal(number) is of_the_application
    finally:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_what_runs_under_nohup_goes_on(tmp_path: Path) -> None:
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + WAITING.format(function="atomic_file")
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    process.stdout.close()


def test_other_threads_can_write(tmp_path: Path) -> None:
    def work() -> None:
        with atomic_file(tmp_path / "out") as temporary:
            temporary.write_text("whole")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert content(tmp_path / "out") == "whole"


# --- 4. hashes and figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, files.CHUNK_BYTES, files.CHUNK_BYTES + 1])
def test_sha256(size: int, tmp_path: Path) -> None:
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    (tmp_path / "a").write_bytes(data + b"!")
    assert file_sha256(tmp_path / "a") != hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_994_999, "9.99 MB"),
        (9_995_000, "10.0 MB"),
        (3_129_000_000, "3.13 GB"),
        (10**15, "1000 TB"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_free_disk(tmp_path: Path) -> None:
    require_free_disk(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(ResourceError, match=r"1000 TB of disk is needed for .*yet, and .* is free"):
        require_free_disk(tmp_path / "not" / "there" / "yet", 10**15)


# --- 5. memory, on a made-up system -----------------------------------------------------------------------------------------------

GIB = 1 << 30


def system(root: Path, cgroup: str, **groups: dict[str, str]) -> Path:
    """/proc and /sys of a machine; keys of `groups` are folders below /sys/fs/cgroup with "__" for "/"."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for group, contents in groups.items():
        folder = root / "sys/fs/cgroup" / group.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / name).write_text(text)
    return root


def test_memory_without_a_group(tmp_path: Path) -> None:
    assert group_rooms(system(tmp_path, "")) == []
    assert group_rooms(tmp_path / "no Linux") == []


def test_memory_of_a_v2_group_counts_droppable_cache(tmp_path: Path) -> None:
    group = {"memory.max": f"{2 * GIB}\n", "memory.current": f"{GIB}\n", "memory.stat": f"anon 5\ninactive_file {GIB // 2}\n"}
    assert group_rooms(system(tmp_path, "0::/job\n", job=group)) == [GIB + GIB // 2]


def test_memory_of_an_enclosing_v2_group(tmp_path: Path) -> None:
    free, tight = {"memory.max": "max\n", "memory.current": "5\n"}, {"memory.max": f"{GIB}\n", "memory.current": "0\n"}
    assert group_rooms(system(tmp_path, "0::/outer/inner\n", outer=tight, outer__inner=free)) == [GIB]
    assert group_rooms(system(tmp_path / "b", "0::/outer/inner\n", outer=free, outer__inner=free)) == []


def test_memory_of_a_v1_group(tmp_path: Path) -> None:
    group = {"memory.limit_in_bytes": f"{3 * GIB}\n", "memory.usage_in_bytes": f"{2 * GIB}\n"}
    assert group_rooms(system(tmp_path, "5:cpu:/x\n4:cpuacct,memory:/job\n", memory__job=group)) == [GIB]


def test_memory_of_an_overfull_group_is_zero(tmp_path: Path) -> None:
    group = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}
    assert group_rooms(system(tmp_path, "0::/job\n", job=group)) == [0]


@pytest.mark.parametrize(("rooms", "expected"), [([], 5), ([7, 3], 3), ([7], 5)])
def test_the_tightest_limit_counts(rooms: list[int], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * GIB))
    monkeypatch.setattr(files, "group_rooms", lambda: [room * GIB for room in rooms])
    assert available_memory() == expected * GIB


def test_free_memory_on_this_machine() -> None:
    assert 1 << 20 < available_memory() <= psutil.virtual_memory().total
    require_free_memory(1)
    with pytest.raises(ResourceError, match=r"1000 TB of memory is needed for the export, and .* is available"):
        require_free_memory(10**15, "the export")
