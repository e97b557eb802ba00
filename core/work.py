"""One run at a time on an output, and folders of work that goes on where a killed run stopped; nothing is deleted that no run has
made.

Locks are the system's: they end with the process, however that ends. A kill leaves the file of one, which the next run takes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from .errors import OutputError
from .files import CLAIM, disk_full_is_a_sentence, ended_like_interrupted, name_within

MARKER = ".echoedge-work"
LOCK = ".lock"
_OURS = (MARKER, LOCK)
DISK_FULL = ("keeps what was finished", "Free some space; the same command goes on")  # of work, for `disk_full_is_a_sentence`


@contextmanager
def claimed(path: str | Path, use: str) -> Iterator[None]:
    """Holds the output `path`, a file or a folder that need not exist, as long as the `with` block lasts: for work that takes long
    before there is something to write. `use`: as that of `WorkFolder`, and signals end the block in the same way.

    Raises (on entering):
        OutputError: another run holds it, or its folder cannot be written.
        ResourceError: the disk is full.
    """
    target = Path(os.path.abspath(path))
    lock = target.with_name(f".{name_within(target.name)}{CLAIM}")
    missing = [folder for folder in target.parents if not folder.exists()]
    with ended_like_interrupted(), ExitStack() as leaving:
        try:
            with disk_full_is_a_sentence(target):
                for folder in reversed(missing):
                    folder.mkdir(exist_ok=True)
                    leaving.callback(_try, folder.rmdir)  # it stays where something is in it
                leaving.enter_context(_held(lock, target, use, "give another name"))
                leaving.callback(_try, lock.unlink)  # while it is held: who has opened it in the meantime finds it gone
        except OSError as error:
            raise OutputError(f"{target} cannot be written ({error.strerror}: {error.filename}). Give another name.") from error
        yield


@contextmanager
def _held(lock: Path, what: Path, use: str, remedy: str) -> Iterator[FileLock]:
    """Holds the file `lock`, which says who does: a process and its use, a line each."""
    holder = _holder(lock)  # first: some versions of filelock empty a file that they try to lock
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        number, other = holder or _holder(lock) or ("", use)
        process = f", process {number}" if number else ""
        raise OutputError(
            f"{what} is used by another {other}{process}, which is running. Wait until it has ended, or {remedy}."
        ) from None
    try:
        if (_holder(lock) or ("", ""))[0] != str(os.getpid()):  # where the system has no locks, filelock has written that itself
            lock.write_text(f"{os.getpid()}\n{use}\n", encoding="utf-8")
        yield held
    finally:
        held.release()


def _holder(lock: Path) -> tuple[str, str] | None:
    """Process and use of who holds a lock, or has last held it."""
    try:
        process, use, *_ = lock.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return None
    return (process, use) if process.isdigit() else None


def _try(action: Callable[[], None]) -> None:
    with suppress(OSError):
        action()


class WorkFolder:
    """The folder `path`, made if it is not there, held by this process as long as the `with` block lasts. `use`: what for, in words
    that complete "used by another …". SIGTERM and SIGHUP end the block by an exception, as Ctrl-C does.

    It takes a folder that does not exist, an empty one, or one that an earlier run has marked as work; another one is left alone.

    Raises (on entering):
        OutputError: it is a file or some other folder, cannot be written, or another run holds it.
    """

    def __init__(self, path: str | Path, use: str) -> None:
        self.path, self.use = Path(os.path.abspath(path)), use
        self._lock: FileLock
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; work needs a folder. Give another name.")
        try:
            with ExitStack() as entered:
                entered.enter_context(disk_full_is_a_sentence(self.path, *DISK_FULL))
                self.path.mkdir(parents=True, exist_ok=True)
                if not is_work(self.path):
                    self._mark()
                self._lock = entered.enter_context(_held(self.path / LOCK, self.path, self.use, "choose another folder"))
                entered.enter_context(ended_like_interrupted())
                self._exit = entered.pop_all()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be used for work ({error.strerror}). Give another name.") from error
        return self

    def _mark(self) -> None:
        if any(not entry.name.endswith(CLAIM) for entry in self.path.iterdir()):
            raise OutputError(
                f"{self.path} holds files that no run has made, and work would write among them. Choose an empty folder, or a "
                "name that does not exist."
            )
        (self.path / MARKER).write_text(f"{self.use}\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.__exit__(kind, error, trace)
        if isinstance(error, KeyboardInterrupt) and self.path.exists():
            error.add_note(f"{self.path} keeps what was finished: the same command goes on from there.")

    def empty(self) -> None:
        """Deletes what earlier runs have left in it."""
        for entry in self.path.iterdir():
            if entry.name not in _OURS:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def remove(self) -> None:
        """Deletes it with everything in it."""
        self.empty()
        if os.name == "nt":  # Windows deletes no open file
            self._lock.release()
        shutil.rmtree(self.path)


def is_work(folder: Path) -> bool:
    """Whether a run has marked `folder` as its own."""
    return (folder / MARKER).is_file()


def in_use(path: Path) -> bool:
    """Whether a run holds the work folder or the claim `path` now."""
    lock = FileLock(path / LOCK if path.is_dir() else path)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def remove_claim(path: Path) -> bool:
    """Deletes the claim of a run that was killed. Returns whether it is gone: not where a run holds it."""
    try:
        with FileLock(path).acquire(timeout=0):
            path.unlink()
            return True
    except Timeout:
        return False


@contextmanager
def tells_what_stays(sentence: str) -> Iterator[None]:
    """Adds to an interruption (Ctrl-C) in the `with` block what it leaves behind, for the command line to say."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.add_note(sentence)
        raise
