"""cli/app.py: export, train and demo: what they say, and one sentence for everything that a user can get wrong with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from echoedge.core.bundle import Bundle, Figures
from echoedge.core.bundle.records import read_records
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.compile import Proof
from echoedge.runtime.play.clips import read_clip
from echoedge.runtime.registry import REGISTRY

from .bundles import HOLLOW
from .commands import Run, complaint, process
from .inline import Inline
from .test_animate_cli import made

# ---- export ----------------------------------------------------------------------------------------------------------------------


def test_export_says_what_it_made_and_what_comes_next(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nano with the compiler standing aside: plan, reference run, goldens and manifest are real."""
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    monkeypatch.setitem(REGISTRY, "executorch", HOLLOW)
    unproven = run("export", "--out", tmp_path / "a.echoedge", "--weights", "fp32", "--frames", 5, "--steps", 1)
    assert "is ready, lowered to executorch: not executed on this host." in unproven.out
    monkeypatch.setattr(pipeline, "prove", lambda *_, **__: Proof(figures=Figures(psnr_db=99.0)))
    path = tmp_path / "nano.echoedge"
    ended = run("export", "--out", path, "--weights", "fp32", "--frames", 5, "--steps", 1)
    assert ended.status == 0, ended
    assert f"is ready. Next: echoedge verify {path}" in ended.out
    bundle = Bundle.open(path)
    assert (bundle.clip.frames, bundle.plan().steps, bundle.manifest.model.preset) == (5, 1, "nano")
    assert bundle.plan().window is not None
    assert "exists. Give another name or --force." in complaint(run("export", "--out", path))
    told = json.loads(run("export", "--out", path, "--frames", 5, "--steps", 1, "--force", "--json").out)
    assert told["bundle"] == str(path)
    assert set(told["programs"]) == set(bundle.manifest.programs)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "nanoo"], r"no model 'nanoo'\. Choose from: nano, flash, preview\. Did you mean 'nano'\?"),
        (["--model", "flash"], r"--checkpoint names the folder with the weights of flash"),
        (["--target", "tflite"], r"target is 'tflite'\. Choose from: executorch"),
        (["--weights", "int9"], r"no weights 'int9'\. Choose from fp32, int8, int4, .*Did you mean 'int8'\?"),
        (["--weights", "gone.json"], r"recipe gone\.json cannot be read"),
        (["--size", "large"], r"--size is 'large'; write HEIGHTxWIDTH"),
        (["--size", "²x64"], r"--size is '²x64'; write HEIGHTxWIDTH"),
        (["--size", "64x65"], r"width is 65; it must be a multiple of 16, such as 64 or 80\."),
        (["--size", "128x128"], r"nano was trained at 64x64"),
        (["--frames", "24"], r"frames is 24; it must be 4n\+1, such as 21 or 25\."),
        (["--frames", "1"], r"--frames is 1; a window needs 5 frames at least"),
        (["--layout", "one"], r"--layout goes with --model flash or preview, or with --target coreml"),
        (["--target", "coreml", "--layout", "one"], r"layout is 'one'\. Choose from: gpu, ane"),
        (["--target", "coreml", "--layout", "ane", "--ios", "15"], r"ios is 15\. Choose from 17, 18"),
        (["--checkpoint", "somewhere"], r"--checkpoint is for flash and preview"),
    ],
)
def test_a_wrong_export_is_one_sentence_with_the_good_values(options: list[str], expected: str, run: Run, tmp_path: Path) -> None:
    assert re.search(expected, complaint(run("export", *options, "--out", tmp_path / "a.echoedge")))
    assert not list(tmp_path.iterdir())


# ---- train -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("nano", "--keep-vae"), "--keep-vae takes the VAE of a weights file: name it with --start"),
        (("nano", "--method", "ful"), "method is 'ful'.*Did you mean 'full'"),
        (("nano", "--world", "busy"), "no world 'busy'. Choose from: calm, lively"),
        (("nano", "--method", "plain", "--without", "ndpo"), "The recipe has no preference steps"),
        (("study", "--without", "ndpo"), "--without is 'ndpo'; write PART=FILE"),
        (("study", "--only", "vea"), "no section or part 'vea'.*Sections: vae, choices"),
        (("study", "--without", "nothing=a.safetensors"), "no section or part 'nothing'"),
        (("study", "--weights", "gone.safetensors"), "gone.safetensors"),
    ],
)  # fmt: skip
def test_a_mistake_in_training_is_one_sentence_and_leaves_nothing(
    options: tuple[str, ...], expected: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(expected, complaint(run("train", *options)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_what_it_keeps_and_ends_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "echoedge.cli", "train", "nano", "--workdir", str(work), "--clips", "64"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stdout is not None
    assert running.stdout.readline().startswith("1. pool")
    second = process("train", "nano", "--workdir", work, "--clips", 64)
    assert second.returncode == 2
    assert f"is used by another training, process {running.pid}, which is running" in " ".join(second.stderr.split())
    helpers = psutil.Process(running.pid).children(recursive=True)
    assert helpers  # they draw clips
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number, told
    kept = f"{work} keeps what was finished: the same command goes on from there." in " ".join(told.split())
    assert kept == (number == signal.SIGINT)
    assert psutil.wait_procs(helpers, timeout=20)[1] == []
    assert work.is_dir()


# ---- demo ------------------------------------------------------------------------------------------------------------------------


def test_demo_does_not_replace_what_is_there(run: Run, tmp_path: Path) -> None:
    made(tmp_path / "clip.mp4", b"mine")
    assert "clip.mp4 exists. Give another folder with --out, or --force." in complaint(run("demo", "--out", tmp_path))
    assert "is a file; --out names a folder." in complaint(run("demo", "--out", tmp_path / "clip.mp4"))


@pytest.mark.slow
def test_nano_all_the_way(tmp_path: Path) -> None:
    """What `echoedge demo` does, with the real compiler and the trained weights."""
    demo = tmp_path / "demo"
    command = [sys.executable, "-m", "echoedge.cli", "demo", "--out", str(demo)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(path.name for path in demo.iterdir()) == ["clip.mp4", "contact_sheet.png", "nano.echoedge"]
    records = read_records(Bundle.open(demo / "nano.echoedge")).own
    assert sorted((record.verb, record.engine.name) for record in records) == [
        ("bench", "executorch"), ("bench", "torch"), ("verify", "executorch"),
    ]  # fmt: skip
    assert len(read_clip(demo / "clip.mp4").frames) == 97
    bundle = Bundle.open(demo / "nano.echoedge")
    assert bundle.program("denoise").delegation["forward"].other_ops == {}
