"""cli/quantize.py: help, refusals, searches from end to end at toy size, and recipes that export reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echoedge.core.plan import samplers
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.work import WorkFolder
from echoedge.quantize.recipes import read_recipe
from echoedge.runtime.studies import rounding_study, sensitivity

from .commands import Ended, Run
from .core.tiny import tiny_config
from .runtime.test_block_search import SIZES, released


def sentence(ended: Ended) -> str:
    assert ended.status == 2, ended
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1
    return ended.err.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    released(tmp_path, "flash")
    monkeypatch.setattr(Checkpoint, "config", lambda _: tiny_config("flash", **SIZES))
    return tmp_path / "model" / "transformer"


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nano in two steps, fitted to two clips, three of its layers searched."""
    plans = {"nano": replace(samplers.PLAN_PRESETS["nano"], steps=2)}
    monkeypatch.setattr(samplers, "PLAN_PRESETS", plans)
    whole = sensitivity.SensitivityStudy.__init__

    def fewer(self: sensitivity.SensitivityStudy, *given: object) -> None:
        whole(self, *given, calibration=2)  # type: ignore[arg-type]
        kept = ("denoise/dit.head.head", "denoise/dit.blocks.1.self_attn.o", "denoise/dit.blocks.0.ffn.2")
        self.layers = {name: self.layers[name] for name in kept}

    monkeypatch.setattr(sensitivity.SensitivityStudy, "__init__", fewer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- search ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["search", "compare"])
def test_two_runs_do_not_share_a_work_folder(command: str, run: Run, tmp_path: Path) -> None:
    target = ["--target-db", 20] if command == "search" else []

    def refused(work: Path) -> str:
        return sentence(run("quantize", command, "--out", tmp_path / "a.json", "--work", work, *target))

    with WorkFolder(tmp_path / "work", "search"):
        assert f"work is used by another search, process {os.getpid()}, which is running" in refused(tmp_path / "work")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    assert "holds files that no run has made" in refused(tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_help_says_what_there_is(run: Run) -> None:
    assert all(name in run("quantize", "--help").out for name in ("search", "compare"))
    text = run("quantize", "search", "--help").out
    assert all(option in text for option in ("--target-db", "--target-share", "--max-bytes", "--checkpoint", "--blocks", "--work"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "a.json"), "Give one target: --target-db, --target-share or --max-bytes, not 0."),
        (("--out", "a.json", "--target-db", "30", "--max-bytes", "5"), "not 2."),
        (("--out", "a.json", "--target-share", "97"), "--target-share is 97.0; it is a share"),
        (("--out", "a.json", "--target-db", "nan"), "--target-db is nan; it is a number of decibels"),
        (("--out", "a.json", "--target-db", "30", "--group", "40"), "--group is 40; the backend takes multiples of 32."),
        (("--out", "a", "--target-db", "30"), "a recipe's name ends in .json"),
        (("--out", "a.json", "--target-db", "30", "--blocks", "1"), "--blocks goes with --checkpoint"),
        (("--out", "a.json", "--target-db", "30", "--listen", "1"), "--listen is 1"),
        (("--out", "a.json", "--target-db", "30", "--checkpoint", "absent"), "absent does not exist"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(run: Run, options: tuple[str, ...], said: str) -> None:
    assert said in " ".join(sentence(run("quantize", "search", *options)).split())


def test_a_checkpoint_is_searched_and_the_recipe_can_be_read(run: Run, folder: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", folder, "--work", tmp_path / "work", "--size", "32x48", "--blocks", "0,2")
    ended = run("quantize", "search", *options, "--out", tmp_path / "mine.json", "--target-db", "25")
    assert ended.status == 0, ended
    assert "28 of them measured" in " ".join(ended.out.split())
    assert "echoedge export --model tiny --checkpoint" in " ".join(ended.out.split())
    recipe = read_recipe(str(tmp_path / "mine.json"))
    assert recipe.name == "mine"
    assert recipe.needs_samples
    again = run("quantize", "search", *options, "--out", tmp_path / "small.json", "--max-bytes", "120000", "--json")
    figures = json.loads(again.out)
    assert figures["bytes"] <= 120_000
    assert figures["measured_layers"] == 28
    assert read_recipe(figures["recipe"]) != recipe
    assert "exists" in sentence(run("quantize", "search", *options, "--out", tmp_path / "mine.json", "--target-db", "35"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--blocks", "0,x"), "--blocks is '0,x'; write numbers with commas"),
        (("--blocks", "7", "--size", "32x48"), "the model has blocks 0 to 2."),
        (("--size", "big"), "--size is 'big'; write HEIGHTxWIDTH"),
    ],
)
def test_what_a_checkpoint_does_not_have(run: Run, folder: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    given = ("--checkpoint", folder, "--work", tmp_path / "work", "--out", tmp_path / "a.json", "--target-db", "30")
    assert said in " ".join(sentence(run("quantize", "search", *given, *options)).split())


@pytest.mark.usefixtures("small_nano")
def test_nano_is_searched(run: Run, tmp_path: Path) -> None:
    options = ("--work", tmp_path / "work", "--clips", "1", "--played", "2")
    ended = run("quantize", "search", *options, "--out", tmp_path / "mine.json", "--max-bytes", "200000")
    assert ended.status == 0, ended
    text = " ".join(ended.out.split())
    assert "bytes of weights; guided velocity" in text
    assert "int4: " in text
    assert "Next: echoedge export --weights" in text
    assert read_recipe(str(tmp_path / "mine.json")).rule_for("denoise", "dit.head.head") is not None
    refused = run("quantize", "search", *options[:2], "--clips", "2", "--out", tmp_path / "b.json", "--max-bytes", "200000")
    assert "clips differs" in " ".join(sentence(refused).split())


# ---- compare ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_nano")
def test_ways_to_round_are_compared(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = rounding_study._ways

    def some(study: sensitivity.SensitivityStudy) -> Iterator[object]:
        return (way for way in ways(study) if way[0] == "nearest")

    monkeypatch.setattr(rounding_study, "_ways", some)
    monkeypatch.setattr(rounding_study, "UNIFORM", ("int4",))
    output = tmp_path / "figures.json"
    options = ("--out", output, "--work", tmp_path / "work", "--clips", "1", "--played", "2")
    ended = run("quantize", "compare", *options)
    assert ended.status == 0, ended
    record = json.loads(output.read_text())
    rows = {row["name"]: row for row in (*record["int4_roundings"], *record["equal_size"])}
    assert list(rows) == ["nearest", "int4", "searched, within int4"]
    assert rows["int4"]["guided_db"] > rows["nearest"]["guided_db"]
    assert rows["searched, within int4"]["bytes"] <= rows["int4"]["bytes"]
    assert rows["nearest"]["bytes"] == rows["int4"]["bytes"]
    assert all(0.3 < row["lipsync_share"] < 3 for row in rows.values())
    assert "Uniform and searched" in ended.out
    assert "exists" in sentence(run("quantize", "compare", *options))
