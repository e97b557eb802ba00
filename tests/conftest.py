"""What every test starts from."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from echoedge.core.bundle import Bundle

from .bundles import export_small

# Whoever starts the tests in the background may have switched Ctrl-C off; programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run where they are asked for: pytest -m slow."""
    if not config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; run with -m slow"))


@pytest.fixture(autouse=True)
def _the_same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int8 bundle of the small model, compiled once; a test that changes it works on a copy."""
    path = tmp_path_factory.mktemp("bundle") / "small.echoedge"
    export_small(path)
    return path


@pytest.fixture
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)
