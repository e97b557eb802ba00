"""A student that begins where another one of the same teacher ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ConfigError
from ...core.model.transformer import DiT
from ...core.weights.nano import load_nano, nano_digest, read_passport
from ...core.weights.passport import CLOSE, Passport


@dataclass(frozen=True)
class Start:
    """A student's transformer, and the SHA-256 of the file that it is from."""

    dit: DiT
    digest: str


def load_start(path: Path, wanted: Passport) -> Start:
    """The student in a weights file, to go on from. `wanted`: the passport of what it is to become.

    Raises:
        ConfigError: the file holds a teacher, or a student of another teacher, of another method or of other noise levels.
        CheckpointError: it cannot be read.
    """
    found = read_passport(path)
    if found is None:
        raise ConfigError(f"{path} holds a teacher, and not a student to start from. Leave --start, or name a student's file.")
    if found.teacher != wanted.teacher:
        raise ConfigError(
            f"{path} is a student of the teacher {found.teacher[:12]}, and not of {wanted.teacher[:12]}. Name its own with "
            "--teacher."
        )
    if found.method != wanted.method:
        raise ConfigError(f"{path} is a {found.method} student, and not a {wanted.method} one. Give --method {found.method}.")
    for steps in sorted(found.levels.keys() & wanted.levels.keys()):
        ours, theirs = wanted.levels[steps], found.levels[steps]
        if len(ours) != len(theirs) or any(abs(a - b) > CLOSE for a, b in zip(ours, theirs, strict=True)):
            told = (", ".join(f"{level:.3f}" for level in levels) for levels in (theirs, ours))
            raise ConfigError(f"{path} takes {steps} steps at the noise levels {next(told)}; these lessons have {next(told)}.")
    if not found.levels.keys() & wanted.levels.keys():
        raise ConfigError(f"{path} takes {found.allowed} steps, and these lessons are for {wanted.allowed}.")
    return Start(load_nano(path=path).dit, nano_digest(path))
