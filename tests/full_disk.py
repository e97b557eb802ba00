"""Disks that are too small or may not be written: a file system in memory that only the process that asked for it sees."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_IN_A_SPACE_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
_MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2"; shift 2; exec "$@"'


def told_on_a_disk(folder: Path, options: str, script: str, *arguments: object) -> Any:
    """What a Python script prints as JSON in its last line. For it, `folder`, its first argument, is another, empty disk, mounted
    with `options` (size=4m), which is gone when it ends. A test is skipped where users may not mount."""
    if why := _cannot_mount():
        pytest.skip(f"no file system can be mounted here: {why}")
    words = [*_IN_A_SPACE_OF_ITS_OWN, _MOUNT, "sh", options, folder, sys.executable, "-c", script, folder, *arguments]
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@cache
def _cannot_mount() -> str:
    """Why not, in the system's words; empty where it works."""
    try:
        tried = subprocess.run([*_IN_A_SPACE_OF_ITS_OWN, _MOUNT, "sh", "size=64k", "/tmp", "true"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return tried.stderr.strip() or "no reason was given" if tried.returncode else ""
