"""setup.py and pyproject.toml: what the package consists of, and that building and installing it prints nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FLOORS = ("core", "quantize", "targets", "runtime", "cli")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's package, with things beside and inside it that are not to be shipped."""
    folder = tmp_path_factory.mktemp("source") / "repository"
    for floor in FLOORS:
        shutil.copytree(REPO / floor, folder / floor, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*REPO.glob("*.py"), *(REPO / name for name in ("pyproject.toml", "README.md", "LICENSE"))):
        shutil.copy(path, folder)
    for name in ("tests/test_a.py", "tests/core/test_b.py", "docs/page.md", "out/c.py", "core/__pycache__/d.py", "core/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def built(source: Path, kind: str, folder: Path) -> tuple[set[str], str]:
    """The names in the wheel that setuptools makes, as pip asks it to, and what it said on the error stream."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist()), ended.stderr


def test_the_wheel_holds_modules_and_assets_and_nothing_else(source: Path, tmp_path: Path) -> None:
    names, said = built(source, "wheel", tmp_path)
    modules = {path.relative_to(REPO) for floor in FLOORS for path in (REPO / floor).rglob("*.py")}
    assets = {path.relative_to(REPO) for path in (REPO / "core" / "assets").rglob("*") if path.is_file()}
    assets.add(Path("runtime/fit/devices.json"))
    root = {Path(path.name) for path in REPO.glob("*.py")} - {Path("setup.py")}
    expected = {f"echoedge/{path.as_posix()}" for path in modules | assets | root}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "echoedge/core/assets/nano/nano.safetensors" in names
    assert "Warning" not in said


def test_the_wheel_works_where_nothing_else_of_the_project_is(source: Path, tmp_path: Path) -> None:
    """Installed into a fresh environment that finds the libraries it depends on, and the project nowhere but in the wheel."""
    built(source, "wheel", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    binaries, (packages,) = tmp_path / "fresh" / "bin", (tmp_path / "fresh").glob("lib/*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])

    def run(*command: str) -> str:
        ended = subprocess.run([binaries / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir", str(wheel))
    assert run("python", "-c", "import echoedge; print(echoedge.__file__)").strip() == str(packages / "echoedge" / "__init__.py")
    assert "executorch" in run("echoedge", "doctor")
    shutil.rmtree(packages / "echoedge" / "cli")
    assert subprocess.run([binaries / "echoedge", "doctor"], cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_an_editable_installation_warns_of_nothing(source: Path, tmp_path: Path) -> None:
    names, said = built(source, "editable", tmp_path)
    assert any(name.endswith("finder.py") for name in names)
    assert "Warning" not in said


def test_a_folder_that_is_left_out_would_be_warned_of(source: Path, tmp_path: Path) -> None:
    """The check above can fail: with the assets listed nowhere, setuptools says so."""
    other = tmp_path / "source"
    shutil.copytree(source, other, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    text = (other / "setup.py").read_text()
    assert 'exclude=["*.__pycache__"]' in text
    (other / "setup.py").write_text(text.replace('exclude=["*.__pycache__"]', 'exclude=["*.__pycache__", "core.assets*"]'))
    (tmp_path / "wheel").mkdir()
    _, said = built(other, "wheel", tmp_path / "wheel")
    assert "Package 'echoedge.core.assets.nano' is absent" in said
