"""What killed runs have left in a folder: half-written outputs, and claims and work that no run holds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from .errors import InputError
from .files import CLAIM, folder_bytes
from .work import WorkFolder, in_use, is_work, remove_claim

_PARTIAL = re.compile(r"\.(?P<name>.+)\.(?P<process>[0-9a-f]+)-[0-9a-f]{8}(?P<old>\.old)?\.partial(\.[^.]+)?")
_WORK = re.compile(r"\..+\.work")


@dataclass(frozen=True)
class Leftover:
    """A file or folder, its size in bytes, and what it is, in words. `precious`: it may be all that is left of an output, and is
    never deleted."""

    path: Path
    bytes: int
    what: str
    precious: bool = False


def leftovers(folders: Iterable[Path]) -> list[Leftover]:
    """What lies in `folders` themselves, not deeper; what a running process uses is left out.

    Raises:
        InputError: one is not a folder that can be read.
    """
    found: dict[Path, Leftover] = {}
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise InputError(f"{folder} cannot be read ({error.strerror}). Name a folder.") from error
        for path in entries:
            leftover = _leftover(path)
            if leftover is not None:
                found.setdefault(path.resolve(), leftover)
    return list(found.values())


def remove(leftover: Leftover) -> bool:
    """Deletes it, unless it is precious or a run has taken it up in the meantime. Returns whether it is gone.

    Raises:
        OutputError: a run takes it up in this moment.
    """
    found = _leftover(leftover.path)
    if found is None or found.precious:
        return False
    if found.path.name.endswith(CLAIM):
        return remove_claim(found.path)
    if _WORK.fullmatch(found.path.name):
        with WorkFolder(found.path, "cleaning") as work:
            work.remove()
    elif found.path.is_dir():
        shutil.rmtree(found.path)
    else:
        found.path.unlink()
    return True


def _leftover(path: Path) -> Leftover | None:
    if path.is_symlink() or not path.exists():
        return None
    if _WORK.fullmatch(path.name):
        if not path.is_dir() or not is_work(path) or in_use(path):
            return None
        return Leftover(path, _size(path), "work of an export that was stopped; the same command goes on from it")
    if path.name.endswith(CLAIM):
        if not path.name.startswith(".") or not path.is_file() or in_use(path):
            return None
        return Leftover(
            path, _size(path), f"claim on {path.name[1 : -len(CLAIM)]}, of a run that was killed; the next one takes it"
        )
    match = _PARTIAL.fullmatch(path.name)
    if match is None or _written_by(path, int(match["process"], 16)):
        return None
    if match["old"] and not path.with_name(match["name"]).exists():
        return Leftover(path, _size(path), f"what was {match['name']} before a run that was to replace it; rename it", True)
    return Leftover(path, _size(path), f"half of {match['name']}, of a run that was killed")


def _written_by(path: Path, process: int) -> bool:
    """Whether the process that began `path` is still there; one that began after the last change has only inherited the number."""
    try:
        return psutil.Process(process).create_time() <= path.stat().st_mtime + 1
    except (psutil.NoSuchProcess, OSError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else folder_bytes(path)
