"""Files that appear whole or not at all, hashes, and checks of free disk and memory.

What is being written lies beside its target as `.NAME.PROCESS-TOKEN.partial`; it takes the target's name by a rename, at the end.
Only a kill that no process can catch (SIGKILL, a power cut) leaves such a file behind; `core/leftovers.py` tells it from what is in
use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

from .errors import EchoEdgeError, OutputError, ResourceError

CHUNK_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RUST_NUMBER = re.compile(r"\(os error (\d+)\)")
_LONGEST_NAME = 120  # bytes of the target's name in that of a file beside it; systems allow 255 in all
CLAIM = ".echoedge-lock"  # ends the name of a file that says that a run is at work on what lies beside it
_ENDING = ("SIGTERM", "SIGHUP")  # signals that end a process unless it handles them; Windows has no SIGHUP


def human_bytes(count: int) -> str:
    """`count` bytes in decimal units with three figures: 3130000000 -> "3.13 GB"."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, hex; constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: str | Path, force: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name beside `path` and rename it at the end.

    Yields the temporary path: an empty file to be overwritten, with the suffix of `path`. Missing parent folders are created.
    If the body raises, is interrupted (Ctrl-C) or ended (SIGTERM, SIGHUP, in the main thread), the temporary file is removed and
    whatever lay under `path` before stays as it was.

    Raises:
        OutputError: `path` exists and `force` is off; it is a folder; its folder cannot be written.
        ResourceError: the disk filled up.
    """
    target = _absolute(path)
    _refuse_existing(target, force, kind="file")
    temporary = _temporary_beside(target, kind="file")
    try:
        with ended_like_interrupted(), disk_full_is_a_sentence(target):
            yield temporary
            sync(temporary)
            _refuse_existing(target, force, kind="file")
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


@contextmanager
def atomic_folder(path: str | Path, force: bool = False, marker: str | None = None) -> Iterator[Path]:
    """Write a folder under a temporary name beside `path` and rename it at the end.

    Yields the temporary folder, empty. With `force` an existing folder is replaced only at the end, and is put back if the rename
    fails. `marker` limits what `force` may replace: a folder that is empty or contains a file of that name.
    Otherwise as `atomic_file`.

    Raises:
        OutputError: `path` exists and `force` is off, or it is nothing that `force` may replace; its parent cannot be written.
        ResourceError: the disk filled up.
    """
    target = _absolute(path)
    _refuse_existing(target, force, kind="folder", marker=marker)
    temporary = _temporary_beside(target, kind="folder")
    try:
        with ended_like_interrupted(), disk_full_is_a_sentence(target):
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            _refuse_existing(target, force, kind="folder", marker=marker)
            _replace_folder(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(target.parent)


def check_folder(path: str | Path, force: bool = False, marker: str | None = None) -> None:
    """Refuse now what `atomic_folder` would refuse later: for work that takes long before there is something to write.

    Raises:
        OutputError: as `atomic_folder`.
    """
    target = _absolute(path)
    _refuse_existing(target, force, kind="folder", marker=marker)
    _temporary_beside(target, kind="folder").rmdir()


def folder_bytes(folder: str | Path) -> int:
    """Bytes of the files in a folder and below; 0 if it does not exist."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def require_free_disk(path: str | Path, needed: int) -> None:
    """Check that the file system of `path` (which need not exist yet) has `needed` bytes free.

    Raises:
        ResourceError: it has less; the message gives both figures.
    """
    folder = next(parent for parent in (_absolute(path), *_absolute(path).parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{human_bytes(needed)} of disk is needed for {path}, and {human_bytes(free)} is free. "
            "Free some space or choose another disk."
        )


def require_free_memory(needed: int, purpose: str = "this step") -> None:
    """Check that `needed` bytes of memory can be allocated, as far as the system tells (see `available_memory`).

    Raises:
        ResourceError: fewer are available; the message gives both figures.
    """
    available = available_memory()
    if available < needed:
        raise ResourceError(
            f"{human_bytes(needed)} of memory is needed for {purpose}, and {human_bytes(available)} is available. "
            "Close other programs, or choose a smaller clip, a smaller model or a larger machine."
        )


def available_memory() -> int:
    """Bytes that a new allocation can use: the system's figure, lowered by the limits of the process's control groups."""
    return min(psutil.virtual_memory().available, *group_rooms(), 1 << 62)


def group_rooms(root: str | Path = "/") -> list[int]:
    """Bytes left in each control group (v1 or v2) that limits this process; page cache that can be dropped counts as left.

    Empty where nothing is limited, and on systems other than Linux. `root` is the folder that holds /proc and /sys.
    """
    root, limits = Path(root), []
    for line in (_read_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0" and not controllers:
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = base / group.strip("/")
        for level in (folder, *folder.parents):  # every enclosing group limits; inside a container only the last may be visible
            room = _cgroup_room(level, *names)
            if room is not None:
                limits.append(room)
            if level == base:
                break
    return limits


def _cgroup_room(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    """Bytes left in one memory control group; None if it sets no limit."""
    limit, usage = _read_text(folder / limit_name), _read_text(folder / usage_name)
    if limit is None or usage is None or limit.strip() == "max":
        return None
    statistics = (line.split() for line in (_read_text(folder / "memory.stat") or "").splitlines())
    droppable = next((int(fields[1]) for fields in statistics if fields[0] == cache_name), 0)
    return max(0, int(limit) - int(usage) + droppable)


def _read_text(path: Path) -> str | None:
    """The file's text; None if the system has no such file."""
    try:
        return path.read_text()
    except OSError:
        return None


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _refuse_existing(target: Path, force: bool, kind: Literal["file", "folder"], marker: str | None = None) -> None:
    if not os.path.lexists(target):
        return
    if kind == "file" and target.is_dir():
        raise OutputError(f"{target} is a folder. Give the name of a file.")
    if kind == "folder" and not target.is_dir():
        raise OutputError(f"{target} is a file. Give the name of a folder.")
    if not force:
        raise OutputError(f"{target} exists. Give another name or --force.")
    if marker is not None and any(target.iterdir()) and not (target / marker).is_file():
        raise OutputError(f"{target} has no {marker}: it is some other folder, and --force does not replace it. Give another name.")


def _temporary_beside(target: Path, kind: Literal["file", "folder"]) -> Path:
    """Create an empty file or folder beside `target`, under a name that nothing else uses."""
    temporary = target.with_name(f"{_aside(target)}.partial{target.suffix}") if target.name else target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            temporary.touch(exist_ok=False)
        else:
            temporary.mkdir()
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}: {error.filename}). Give another name.") from error
    return temporary


def _aside(target: Path) -> str:
    """The beginning of a name beside `target` that nothing else uses, and that says which process works there."""
    return f".{name_within(target.name)}.{os.getpid():x}-{secrets.token_hex(4)}"


def name_within(name: str) -> str:
    """The name, or what stands for it within names of files beside it where it is long: its beginning and a part of its hash."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST_NAME:
        return name
    return f"{data[:_LONGEST_NAME].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"


def _replace_folder(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`; an old `target` is deleted afterwards, or put back if the rename fails."""
    if not os.path.lexists(target):
        os.rename(temporary, target)
        return
    old = target.with_name(f"{_aside(target)}.old.partial")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old)


def sync(path: Path) -> None:
    """Have the system write a file or a folder's list of names to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows has no handle for a folder
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_is_a_sentence(
    target: Path, stopped: str = "was not written", remedy: str = "Free some space or choose another disk"
) -> Iterator[None]:
    """Turns what any library says of a full disk in the `with` block into one sentence: what became of `target`, what to do.

    Raises:
        ResourceError: the disk is full, or files may not be as large as one would be.
    """
    try:
        yield
    except Exception as error:
        number = None if isinstance(error, EchoEdgeError) else _disk_trouble(error)
        if number is None:
            raise
        if number == errno.EFBIG:
            raise ResourceError(
                f"A file is larger than this disk or ulimit -f allows: {target} {stopped}. Raise the limit or choose another disk."
            ) from error
        raise ResourceError(f"The disk is full: {target} {stopped}. {remedy}.") from error


def _disk_trouble(error: BaseException) -> int | None:
    """The system's number of an error that a disk is full, or a file too large for it; None if it is another error. Libraries wrap
    the system's errors in their own, and those in Rust tell the number in their text alone."""
    seen: list[BaseException] = []
    while error not in seen:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (told := _RUST_NUMBER.search(str(error))):
            number = int(told[1])
        if number in _DISK_FULL:
            return number
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return None


def reserve(path: Path, size: int) -> None:
    """Has the system set `size` bytes of disk aside for a file: where its pages are written through memory, a full disk would end
    the process. Systems that cannot are left to try.

    Raises:
        OSError: the disk has not so much left.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process by an exception, as Ctrl-C does, so that what is being written is removed.

    A handler that the application has installed is left alone, and so is a signal that it ignores; outside the main thread Python
    cannot install one.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    lent: list[int] = []
    if threading.current_thread() is threading.main_thread():
        lent = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
        lent = [number for number in lent if signal.getsignal(number) is signal.SIG_DFL]
    for number in lent:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in lent:
            signal.signal(number, signal.SIG_DFL)
