"""The Kotlin engine and the app for tests: compiled where a JDK and the tools are at hand, or a reason why they are not."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "android_demo" / "build.py"
SOURCES = ROOT / "android_demo" / "engine" / "src"


if str(SCRIPT.parent) not in sys.path:  # as for whoever runs the script
    sys.path.append(str(SCRIPT.parent))

# ruff: noqa: E402
from building import apk, common, kotlin, sdk

__all__ = ["apk", "common", "kotlin", "sdk"]


def why_not() -> str | None:
    """What keeps the engine from being compiled here without a download; None: nothing."""
    try:
        common.java()
    except common.Missing as missing:
        return str(missing)
    folders = (common.OUT / kotlin.KOTLIN.replace("@", "-"), common.OUT / "junit")
    if not all(folder.is_dir() for folder in folders):
        return "Kotlin's compiler and JUnit are not in out/android: run make android-test once."
    return None


def why_no_apk() -> str | None:
    """What keeps the app from being built here without a download; None: nothing."""
    return why_not() or (None if sdk.here() else "Android's tools are not in out/android: run make android-apk once.")


needs_apk_tools = pytest.mark.skipif(why_no_apk() is not None, reason=why_no_apk() or "")
needs_kotlin = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def built(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """android_demo/build.py as a command."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def engine_files() -> list[Path]:
    """The Kotlin files of the engine, without its tests."""
    return sorted((SOURCES / "main").rglob("*.kt"))


def app_files() -> list[Path]:
    """All that the app is made of besides: what it decides, what it does with Android, and its resources."""
    folders = (SCRIPT.parent / "appcore" / "src" / "main", SCRIPT.parent / "app" / "src" / "main")
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".kt", ".xml"))


@cache
def class_path() -> str:
    """Of engine and tests, compiled if need be."""
    ended = built("classpath")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def desktop(*arguments: object, serving: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The engine's command line; `serving`: what follows `echoedge serve-programs`."""
    java = [common.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path(), "echoedge.engine.desktop.MainKt"]
    served = [sys.executable, "-m", "echoedge.cli", "serve-programs", *serving]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    return subprocess.run([*java, *map(str, arguments), "--", *map(str, served)], **options)
