"""The Swift engine for tests: built where a Swift is at hand, or a reason why it is not."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "ios_demo" / "build.py"
SOURCES = ROOT / "ios_demo" / "Sources"


@cache
def build() -> ModuleType:
    """ios_demo/build.py as a module."""
    spec = importlib.util.spec_from_file_location("ios_build", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@cache
def why_not() -> str | None:
    """What keeps the engine from being built here without a download; None: nothing."""
    script = build()
    ready = script.OUT / "trixie"
    if not os.environ.get("ECHOEDGE_SWIFT_CHROOT") and not ready.is_dir() and not script.native():
        return "There is no Swift here, and none in out/ios: run make ios-test once, as root."
    try:
        script.toolchain()
    except script.Missing as missing:
        return str(missing)
    return None


needs_swift = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def built(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """ios_demo/build.py as a command."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def engine_files() -> list[Path]:
    """The Swift files that a player on a phone consists of, but for what adapts a runtime."""
    return sorted((SOURCES / "EchoEdgeCore").rglob("*.swift"))


@cache
def player() -> list[str]:
    """What starts the engine's command line, built if need be."""
    ended = built("player")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return shlex.split(ended.stdout)


def desktop(*arguments: object, serving: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The engine's command line; `serving`: what follows `echoedge serve-programs`."""
    served = [sys.executable, "-m", "echoedge.cli", "serve-programs", *serving]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    return subprocess.run([*player(), *map(str, arguments), "--", *map(str, served)], **options)


def as_ppm(picture: Path, folder: Path) -> Path:
    """A picture as the command line reads it: decoding is a platform's, and Linux has no decoder of its own."""
    path = folder / f"{picture.stem}.ppm"
    with Image.open(picture) as opened:
        opened.convert("RGB").save(path)
    return path
