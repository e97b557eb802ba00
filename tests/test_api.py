"""api.py: what the functions do is what the commands do; nothing heavy is imported before one is called."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import echoedge
from echoedge import api
from echoedge.core.errors import BundleError, ConfigError, InputError
from echoedge.core.weights.nano import assets
from echoedge.runtime import engines

from .bundles import HOLLOW, small_engine
from .commands import Run
from .inline import Inline

DEMO = assets() / "demo"
VERBS = ("animate", "bench", "export", "inspect", "verify")


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, echoedge; heavy = {'numpy', 'torch', 'pydantic', 'av', 'executorch', 'typer'} & set(sys.modules); "
        f"assert not heavy, heavy; assert all(callable(getattr(echoedge, name)) for name in {VERBS}); "
        "assert not hasattr(echoedge, 'annimate')"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_film_is_the_one_of_the_command(bundle_path: Path, tmp_path: Path, run: Run) -> None:
    given = {"image": DEMO / "ada.png", "audio": DEMO / "hello.wav", "prompt": "a woman nods", "seed": 3}
    told: list[str] = []
    film = echoedge.animate(bundle_path, out=tmp_path / "a.mp4", progress=lambda stage, *_: told.append(stage), **given)  # type: ignore[arg-type]
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    ended = run("animate", bundle_path, *options, "--out", tmp_path / "b.mp4", "--json")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    printed = json.loads(ended.out)
    same = ("frames", "seconds", "engine", "prompt", "evaluations", "size")
    assert {name: printed[name] for name in same} == {name: film.to_dict()[name] for name in same}
    assert list(dict.fromkeys(told)) == ["listen", "look", "prepare", "denoise", "decode"]
    assert sum(film.stage_seconds.values()) > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        film.frames = 7  # type: ignore[misc]
    other = echoedge.animate(bundle_path, out=tmp_path / "c.mp4", **given | {"seed": 4})  # type: ignore[arg-type]
    assert other.frames == film.frames
    assert (tmp_path / "c.mp4").read_bytes() != (tmp_path / "a.mp4").read_bytes()


def test_the_contact_sheet_shows_the_crop_of_the_film(bundle_path: Path, tmp_path: Path) -> None:
    sheets = []
    for index, crop in enumerate((None, (0, 0, 300), (200, 200, 300))):
        film, sheet = tmp_path / f"{index}.mp4", tmp_path / f"{index}.png"
        echoedge.animate(bundle_path, image=DEMO / "ada.png", audio=DEMO / "hello.wav", out=film, crop=crop)
        api.contact_sheet(bundle_path, clip=film, image=DEMO / "ada.png", out=sheet, crop=crop)
        sheets.append(sheet.read_bytes())
    assert len(set(sheets)) == 3
    with pytest.raises(InputError, match=r"crop is \(1, 2\); give \(top, left, size\)"):
        echoedge.animate(bundle_path, image=DEMO / "ada.png", audio=DEMO / "hello.wav", out=film, crop=(1, 2))  # type: ignore[arg-type]


def test_verify_and_bench_give_what_the_commands_print(bundle_path: Path, tmp_path: Path, run: Run) -> None:
    bundle = tmp_path / "b.echoedge"
    shutil.copytree(bundle_path, bundle)
    verdict = echoedge.verify(bundle, record=True)
    printed = json.loads(run("verify", bundle, "--json").out)
    assert verdict.passed and [row["name"] for row in printed["rows"]] == [row.name for row in verdict.rows]
    (speed,) = echoedge.bench(bundle, runs=1, record=True)
    assert set(json.loads(run("bench", bundle, "--runs", 1, "--json").out)[0]) == set(speed.to_dict())
    assert {path.name.split("-")[1] for path in echoedge.inspect(bundle).record_files()} == {"verify", "bench"}


def test_several_engines_are_measured_apart(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.runtime.bench import clip

    asked: list[str] = []

    def here(_bundle: object, wanted: clip.Wanted, *_: object) -> object:
        asked.append(wanted.engine)
        return wanted.engine

    monkeypatch.setattr(clip, "measure_apart", here)
    monkeypatch.setattr(engines, "_torch", lambda *_: small_engine())
    assert echoedge.bench(bundle_path, engines=("auto", "torch"), runs=1) == ("auto", "torch")  # type: ignore[comparison-overlap]
    assert asked == ["auto", "torch"]


def test_an_export_is_the_one_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.runtime.export import pipeline
    from echoedge.runtime.registry import REGISTRY

    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    monkeypatch.setitem(REGISTRY, "hollow", HOLLOW)
    manifest = echoedge.export(tmp_path / "nano.echoedge", target="hollow", frames=5, steps=1)
    assert echoedge.inspect(tmp_path / "nano.echoedge").manifest == manifest
    assert (manifest.clips[0].frames, manifest.target.name) == (5, "hollow")


def test_what_cannot_be_is_refused_in_one_sentence(bundle_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint names the folder with the weights of flash"):
        echoedge.export(tmp_path / "x", model="flash")
    with pytest.raises(ConfigError, match="weights are built in"):
        echoedge.export(tmp_path / "x", checkpoint=tmp_path)
    with pytest.raises(ConfigError, match="one of the two"):
        echoedge.animate(image="a", audio="b", out="c")
    with pytest.raises(ConfigError, match=r"text_rows is 32; it goes with the models flash and preview"):
        echoedge.export(tmp_path / "x", text_rows=32)
    given = {"image": DEMO / "ada.png", "audio": DEMO / "hello.wav", "out": tmp_path / "c.mp4"}
    for name, value in {"model": "flash", "size": (64, 64), "frames": 9, "match_colours": True, "resident": True}.items():
        with pytest.raises(ConfigError, match=rf"{name} is .*; it goes with a checkpoint"):
            echoedge.animate(bundle_path, **given, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads is 2; it goes with a bundle"):
        echoedge.animate(checkpoint=tmp_path, threads=2, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"nobody\.png"):
        echoedge.animate(bundle_path, image="nobody.png", audio=DEMO / "hello.wav", out=tmp_path / "c.mp4")
    with pytest.raises(BundleError, match="There is no bundle"):
        echoedge.inspect(tmp_path / "gone.echoedge")


def test_the_examples_fit_the_functions() -> None:
    """Those of the module and of README.md: every call has arguments that its function takes."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    calls = re.findall(r"echoedge\.(\w+)(\(.*?\))(?=[\n.\[])", f"{api.__doc__}\n{readme}")
    found = [(name, text) for name, text in calls if name in VERBS]
    assert {name for name, _ in found} >= {"export", "animate", "verify", "bench"}
    for name, text in found:
        positional, named = eval(f"(lambda *a, **k: (a, k)){text}")
        inspect.signature(getattr(echoedge, name)).bind(*positional, **named)
    with pytest.raises(TypeError):
        inspect.signature(echoedge.animate).bind("nano.echoedge", picture="a.png")
