"""pyproject.toml's contracts of import-linter: a floor that imports a higher one is reported, and the tree as it is, is not."""

from __future__ import annotations

import os
import re
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
        ("cli/bench.py", "from ..runtime import registry", "options into arguments of api"),
    ],
)
def test_who_may_import_whom(file: str | None, line: str, contract: str, tmp_path: Path) -> None:
    package = tmp_path / "echoedge"
    package.mkdir()
    for name in FLOORS:
        shutil.copytree(ROOT / name, package / name, ignore=lambda _, names: [n for n in names if n in ("assets", "__pycache__")])
    for name in ("__init__.py", "api.py", "api_players.py", "api_studies.py"):
        shutil.copy(ROOT / name, package / name)
    if file is not None:
        with (package / file).open("a") as changed:
            changed.write(f"\n{line}\n")
    ended = linted(tmp_path)
    assert ended.returncode == (0 if file is None else 1), ended.stdout + ended.stderr
    broken = [told for told in ended.stdout.splitlines() if told.endswith("BROKEN")]
    assert bool(broken) == (file is not None)
    assert file is None or any(contract in told for told in broken)


MOST_LINES = 600


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py") if ".venv" not in path.parts]


def too_long(paths: list[Path]) -> list[str]:
    return [path.name for path in paths if len(path.read_text().splitlines()) > MOST_LINES]


def test_no_file_is_longer_than_a_reader_holds_in_mind(tmp_path: Path) -> None:
    everything = [*sources(*FLOORS, "tests", "docs"), *ROOT.glob("*.py")]
    assert len(everything) > 300
    assert too_long(everything) == []
    (tmp_path / "long.py").write_text("x = 1\n" * (MOST_LINES + 1))
    assert too_long([tmp_path / "long.py"]) == ["long.py"]


def test_what_a_variant_does_differently_is_data() -> None:
    """`ModelConfig.audio_path` says it; two pipelines' options are told apart in one more place."""
    asking = [path for path in sources(*FLOORS) if re.search(r"variant\"?\]? [!=]= ", path.read_text())]
    assert {path.relative_to(ROOT).as_posix() for path in asking} == {"runtime/play/reference.py"}
