"""What every test starts from."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

for _name in ("COLUMNS", "LINES"):  # a process of pytest-xdist has them, and consoles made on import would keep to them
    os.environ.pop(_name, None)

# ruff: noqa: E402
from echoedge.cli import app as cli
from echoedge.core.bundle import Bundle
from echoedge.core.config import Variant
from echoedge.core.weights.accounts import NEEDED_FOR
from echoedge.core.weights.random_checkpoint import write_random_checkpoint

from .bundles import export_apple, export_small
from .commands import Ended, Run
from .core.tiny_checkpoint import playable_sizes

# Whoever starts the tests in the background may have switched Ctrl-C off; programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ  # this is one of several processes that share the tests, one a core

if SIDE_BY_SIDE:
    os.environ["OMP_NUM_THREADS"] = "1"  # for what tests start
    torch.set_num_threads(1)


LONGEST = ("test_export_checkpoint.py", "test_readme.py", "test_export.py", "test_cli.py", "test_nano.py")  # files, minutes first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process ends with one alone. Slow tests run where they are asked for: pytest -m
    slow."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if not config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(autouse=True)
def _the_same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, for its speed. Whatever it lets escape fails the test."""
    monkeypatch.setenv("COLUMNS", "300")

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["echoedge", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Ended(status, *capfd.readouterr())

    return command


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Variant, Path]:
    """Checkpoints of flash and preview with every component at toy width, to be played and not to be changed."""
    found: dict[Variant, Path] = {}
    for name in ("flash", "preview"):
        found[name] = tmp_path_factory.mktemp("released") / name
        write_random_checkpoint(found[name], name, [*NEEDED_FOR], dtype=torch.float32, architecture=playable_sizes(name))
    return found


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of the small model, compiled once for all processes; a test that changes it works on a copy."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if SIDE_BY_SIDE else base) / "small.echoedge"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            export_small(path)
    return path


@pytest.fixture(scope="session")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model's bundle for Core ML, its weights of 8 bits; shared as `bundle_path` is."""
    pytest.importorskip("coremltools", reason="the extra coreml is not installed")
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if SIDE_BY_SIDE else base) / "apple" / "small.echoedge"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            export_apple(path)
    return path


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)
