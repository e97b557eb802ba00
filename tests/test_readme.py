"""README.md: the lines of the released model do what they say, one after the other, on a checkpoint of toy width."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from echoedge.core.config import FLASH, Variant
from echoedge.core.model import architecture
from echoedge.core.weights import checkpoints
from echoedge.core.weights.nano import assets
from echoedge.runtime.export import pipeline
from echoedge.runtime.play import reference
from echoedge.runtime.play.clips import read_clip

from .commands import Run
from .core.tiny_checkpoint import playable_sizes
from .inline import Inline

README = Path(__file__).parents[1] / "README.md"
SMALLER = ("--decoders", "tiny", "--size", "32x48", "--frames", "9")  # for the time that full size takes to compile
DEMO = assets() / "demo"


def command_lines() -> list[list[str]]:
    """Every line of README.md that calls the tool, as a shell splits it."""
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("    echoedge ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def released_lines() -> list[list[str]]:
    """Those about the folder `flash` and its bundle."""
    return [words for words in command_lines() if {"flash", "flash.echoedge"} & set(words)]


def test_no_line_writes_what_an_earlier_one_wrote() -> None:
    written = [words[words.index("--out") + 1] for words in command_lines() if "--out" in words]
    assert len(written) > 3
    assert len(set(written)) == len(written)


@pytest.fixture
def place(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the lines name; flash at toy width, its jobs in this process."""
    toy = playable_sizes("flash")
    sizes = replace(toy, transformer=replace(toy.transformer, text_len=FLASH.text_len))  # prompts may be as long as the model's
    for module in (architecture, checkpoints, reference):
        monkeypatch.setattr(module, "Architecture", lambda _: sizes)
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    shutil.copytree(folders["flash"], tmp_path / "flash")
    config = next(path for path in (tmp_path / "flash").rglob("config.json") if "text_len" in path.read_text())
    config.write_text(json.dumps(json.loads(config.read_text()) | {"text_len": FLASH.text_len}))
    Image.open(DEMO / "ada.png").convert("RGB").save(tmp_path / "portrait.jpg")
    shutil.copy(DEMO / "hello.wav", tmp_path / "speech.mp3")  # files are known by their content
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_of_the_released_model_work_in_order(run: Run, place: Path) -> None:
    lines = released_lines()
    assert [words[0] for words in lines] == ["animate", "checkpoint", "export", "animate", "verify", "bench"]
    for words in lines:
        if "--checkpoint" in words and words[0] == "animate":
            continue  # tests/test_reference_cli.py plays checkpoints
        ended = run(*words, *(SMALLER if words[0] == "export" else ()))
        assert ended.status == 0, (words, ended)
        assert "--prompts PACK" not in ended.err
    assert len(read_clip(place / "flash.mp4").frames) == 25
    assert "3 of 17 rows were not judged" in run("verify", "flash.echoedge").out
    assert "prompt 'a woman talks'" in run("bench", "flash.echoedge", "--runs", "1").out


def test_without_prompts_it_says_before_and_after_what_is_missing(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export is stopped where it would begin to compile."""

    class Stopped(Inline):
        def run(self, *_: object) -> dict[str, object]:  # type: ignore[override]
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "JobRunner", Stopped)
    export = next(words for words in released_lines() if words[0] == "export")
    at = export.index("--prompts")
    said = " ".join(run(*export[:at], *export[at + 2 :], *SMALLER).err.split())
    assert "will have no text encoder and no prompts: it plays with --prompts PACK alone. Make one with: echoedge" in said
    assert run(*next(words for words in released_lines() if words[0] == "checkpoint")).status == 0
    assert "no prompts" not in run(*export, *SMALLER).err
    assert not (place / "flash.echoedge").exists()
