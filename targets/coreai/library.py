"""Apple's packages: of the versions that were tried and no others, imported where they are needed, and quiet."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

RUNTIME = {"coreai-core": "1.0.0b3"}
COMPILER = {**RUNTIME, "coreai-torch": "0.4.3"}  # releases before 1.0, whose files and operators change between them
INSTALL = "pip install 'echoedge[coreai]'"


def misfit(packages: dict[str, str]) -> str | None:
    """Which of these packages is missing or another version than the one that it has to be, in words; None where all are right."""
    for name, version in packages.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} {version}, which is not here"
        if found != version:
            return f"{name} {version}, and {found} is here"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the packages tell of themselves off the system's output and error streams."""
    for text in (sys.stdout, sys.stderr):
        text.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(null, stream)
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # a program around this one may have put others there
            yield
    finally:
        for stream, old in zip((1, 2), kept, strict=True):
            os.dup2(old, stream)
            os.close(old)
        os.close(null)
