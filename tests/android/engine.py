"""The Kotlin engine for tests: compiled where a JDK and the compiler are at hand, or a reason why it is not."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "android_demo" / "build.py"
SOURCES = ROOT / "android_demo" / "engine" / "src"


@cache
def build() -> ModuleType:
    """android_demo/build.py as a module."""
    spec = importlib.util.spec_from_file_location("android_build", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def why_not() -> str | None:
    """What keeps the engine from being compiled here without a download; None: nothing."""
    script = build()
    try:
        script.java()
    except script.Missing as missing:
        return str(missing)
    folders = (script.OUT / script.KOTLIN.replace("@", "-"), script.OUT / "junit")
    if not all(folder.is_dir() for folder in folders):
        return "Kotlin's compiler and JUnit are not in out/android: run make android-test once."
    return None


needs_kotlin = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def built(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """android_demo/build.py as a command."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def engine_files() -> list[Path]:
    """The Kotlin files that a player on a phone consists of."""
    return sorted((SOURCES / "main").rglob("*.kt"))


@cache
def class_path() -> str:
    """Of engine and tests, compiled if need be."""
    ended = built("classpath")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def desktop(*arguments: object, serving: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The engine's command line; `serving`: what follows `echoedge serve-programs`."""
    java = [build().java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path(), "echoedge.engine.desktop.MainKt"]
    served = [sys.executable, "-m", "echoedge.cli", "serve-programs", *serving]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    return subprocess.run([*java, *map(str, arguments), "--", *map(str, served)], **options)
