"""Names with spaces, brackets and letters of any alphabet, of everything that a verb reads and writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import echoedge
from echoedge import api
from echoedge.core.weights.nano import assets
from echoedge.quantize.recipes import read_recipe
from echoedge.runtime.export import pipeline
from echoedge.runtime.play.clips import read_clip
from echoedge.runtime.registry import REGISTRY

from .bundles import HOLLOW, small_request
from .commands import Run
from .inline import Inline

DEMO = assets() / "demo"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Büro 声 [b]"
    path.mkdir()
    return path


def test_a_bundle_and_what_is_played(run: Run, folder: Path, bundle_path: Path) -> None:
    bundle, image, audio = folder / "né 1.echoedge", folder / "[red] Ада.png", folder / "-声 音.wav"
    shutil.copytree(bundle_path, bundle)
    shutil.copy(DEMO / "ada.png", image)
    shutil.copy(DEMO / "hello.wav", audio)
    film, sheet = folder / "nächster Ordner" / "clip é.mp4", folder / "sheet [i].png"
    ended = run("animate", bundle, "--image", image, "--audio", audio, "--out", film)
    assert ended.status == 0 and str(film) in ended.out.replace("\n", "")
    assert len(read_clip(film).frames) > 0
    api.contact_sheet(bundle, clip=film, image=image, out=sheet)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    for words in (("inspect",), ("verify", "--record"), ("bench", "--record", "--runs", "1")):
        assert run(*words, bundle).status == 0, words
    assert len(echoedge.inspect(bundle).record_files()) == 2
    assert run("doctor", folder, "--json").status == 0


def test_an_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    monkeypatch.setitem(REGISTRY, "hollow", HOLLOW)
    recipe = folder / "recipe é.json"
    recipe.write_text(json.dumps({"name": "é", "rules": [{"weights": "int8"}]}))
    assert read_recipe(str(recipe)).name == "é"
    manifest = pipeline.export_bundle(small_request("fp32", "hollow"), folder / "né 2.echoedge")
    assert echoedge.inspect(folder / "né 2.echoedge").manifest == manifest
    assert sorted(path.name for path in folder.iterdir()) == ["né 2.echoedge", "recipe é.json"]


def test_a_checkpoint(run: Run, folder: Path) -> None:
    random = folder / "gewürfelt [x]"
    assert set(api.make_random(random, components=["tiny_vae"])) == {"taew2_1.pth"}
    assert str(random) in run("inspect", random).out.replace("\n", "")
