"""Folders of work that goes on where a killed run stopped: one run at a time, and nothing is deleted that no run has made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from .errors import OutputError
from .files import ended_like_interrupted

MARKER = ".echoedge-work"
LOCK = ".lock"
_OURS = (MARKER, LOCK)


class WorkFolder:
    """The folder `path`, made if it is not there, held by this process as long as the `with` block lasts. `use`: what for, in words
    that complete "used by another …". SIGTERM and SIGHUP end the block by an exception, as Ctrl-C does.

    It takes a folder that does not exist, an empty one, or one that an earlier run has marked as work; another one is left alone.

    Raises (on entering):
        OutputError: it is a file or some other folder, cannot be written, or another run holds it.
    """

    def __init__(self, path: str | Path, use: str) -> None:
        self.path, self.use = Path(os.path.abspath(path)), use
        self._lock, self._exit = FileLock(self.path / LOCK), ExitStack()

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; work needs a folder. Give another name.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not is_work(self.path):
                if any(self.path.iterdir()):
                    raise OutputError(
                        f"{self.path} holds files that no run has made, and work would write among them. Choose an empty "
                        "folder, or a name that does not exist."
                    )
                (self.path / MARKER).write_text(f"{self.use}\n")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{self.path} is used by another {self.use}, which is running. Wait until it has ended, or choose another folder."
            ) from None
        except OSError as error:
            raise OutputError(f"{self.path} cannot be used for work ({error.strerror}). Give another name.") from error
        self._exit.callback(self._lock.release)
        self._exit.enter_context(ended_like_interrupted())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.close()
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


def in_use(folder: Path) -> bool:
    """Whether a run holds the work folder `folder` now."""
    lock = FileLock(folder / LOCK)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def tells_what_stays(sentence: str) -> Iterator[None]:
    """Adds to an interruption (Ctrl-C) in the `with` block what it leaves behind, for the command line to say."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.add_note(sentence)
        raise
