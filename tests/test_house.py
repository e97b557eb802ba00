"""pyproject.toml's contracts of import-linter: a floor that imports a higher one is reported, and the tree as it is, is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("core", "quantize", "targets", "runtime", "cli")


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        (None, "", ""),
        ("core/errors.py", "from ..runtime import registry", "A floor imports the floors below it"),
        ("core/bundle/programs.py", "from ..weights import nano", "neither is known to the format"),
        ("core/sampling/loop.py", "import torch", "needs no torch"),
    ],
)
def test_who_may_import_whom(file: str | None, line: str, contract: str, tmp_path: Path) -> None:
    package = tmp_path / "echoedge"
    package.mkdir()
    for name in FLOORS:
        shutil.copytree(ROOT / name, package / name, ignore=lambda _, names: [n for n in names if n in ("assets", "__pycache__")])
    for name in ("__init__.py", "api.py"):
        shutil.copy(ROOT / name, package / name)
    if file is not None:
        with (package / file).open("a") as changed:
            changed.write(f"\n{line}\n")
    ended = linted(tmp_path)
    assert ended.returncode == (0 if file is None else 1), ended.stdout + ended.stderr
    broken = [told for told in ended.stdout.splitlines() if told.endswith("BROKEN")]
    assert bool(broken) == (file is not None)
    assert file is None or any(contract in told for told in broken)
