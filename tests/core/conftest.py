"""Where tests of core's files start: a tiny checkpoint of each variant, and a bundle of one program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from echoedge.core.config import Variant

from .tiny_bundle import write
from .tiny_checkpoint import write_checkpoint


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Variant, Path]:
    top = tmp_path_factory.mktemp("checkpoints")
    return {variant: write_checkpoint(top / f"as-{variant}" / "released", variant) for variant in ("flash", "preview")}


@pytest.fixture
def folder(written: dict[Variant, Path], tmp_path: Path) -> Path:
    """A copy of the flash folder, to be changed."""
    return shutil.copytree(written["flash"], tmp_path / "flash")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "build" / "denoise.pte"
    path.parent.mkdir()
    path.write_bytes(b"compiled" * 200_000)  # more than one chunk
    return path


@pytest.fixture
def root(tmp_path: Path, program: Path) -> Path:
    path = tmp_path / "nano.echoedge"
    write(path, program)
    return path
