"""The app's one class that knows ExecuTorch's library, run on a Java machine over a stand-in of that library.

That the real library has every method it calls, with the same types, is test_apk.py's to show; here it is what the calls come to.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .engine import apk, class_path, common, needs_apk_tools
from .test_bench import phone

pytestmark = needs_apk_tools
SOURCES = Path(__file__).with_name("stand_in")


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs `Check.java`."""
    apk.build()
    out = tmp_path_factory.mktemp("stand_in")
    jars = f"{class_path()}:{common.OUT / 'app.jar'}"
    javac = Path(common.java()).with_name("javac")
    files = map(str, sorted(SOURCES.rglob("*.java")))
    ended = subprocess.run([javac, "-cp", jars, "-d", out, *files], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [common.java(), "-XX:TieredStopAtLevel=1", "-cp", f"{out}:{jars}"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose programs are formulas, two of them in one file."""
    phone("material", tmp_path)
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    programs = manifest["programs"]
    programs["text_conditions"]["artifact"]["prefix"] = "text_"
    programs["image_conditions"]["artifact"] = programs["text_conditions"]["artifact"] | {"prefix": "image_"}
    path.write_text(json.dumps(manifest))
    return path.parent


def test_a_clip_through_the_adapter_is_the_engines_own_to_the_bit(launch: list[str], bundle: Path) -> None:
    ended = subprocess.run([*launch, "Check", str(bundle)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "adapter: all is well, 11 methods\n"


def test_a_library_that_gives_other_numbers_is_found(launch: list[str], bundle: Path) -> None:
    ended = subprocess.run([*launch, "-Dchanged=true", "Check", str(bundle)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "other numbers" in ended.stderr
