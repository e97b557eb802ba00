"""How a command ended, the one sentence of a mistake, a process of its own, and the type of the `run` fixture (conftest.py)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status and what it printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "echoedge.cli", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "300"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment, **options)


def complaint(ended: Ended) -> str:
    """The one sentence that a user reads, without its kind."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert ended.status == 2, ended
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert len(lines) == 1, lines
    kind, _, sentence = lines[0].partition(": ")
    assert re.fullmatch("[a-z]+", kind), lines
    assert sentence.rstrip().endswith((".", "?")), lines
    return sentence
