"""core/train/ablation.py: modality weights compared on the shipped nano, recorded with all that the comparison depends on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.errors import ConfigError, OutputError
from echoedge.core.nano import load_nano
from echoedge.core.phases import PhaseWeights
from echoedge.core.samplers import NoGuidance, PlanOptions, build_plan
from echoedge.core.train.ablation import compare_modality_weights
from echoedge.core.train.evaluate import ClipScore, generate, held_out, score_clips

OPTIONS = PlanOptions(steps=3, shift=3.0, solver="euler", guidance=NoGuidance())
CANDIDATES = {
    "same": PhaseWeights(points=((0.5, (1.0, 1.0, 1.0)),), kind="constant"),
    "deaf": PhaseWeights(points=((1.0, (1.0, 1.0, 0.0)),)),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, ClipScore], dict[str, Any]]:
    path = tmp_path_factory.mktemp("ablation") / "phda.json"
    scores = compare_modality_weights(load_nano(), CANDIDATES, OPTIONS, held_out(4), path)
    return scores, json.loads(path.read_text())


def test_uniform_is_the_plan_without_modality_weights(compared: tuple[dict[str, ClipScore], Any]) -> None:
    clips = held_out(4)
    assert compared[0]["uniform"] == score_clips(generate(load_nano(), clips, build_plan(OPTIONS)), clips)


def test_equal_weights_score_equally_and_silence_does_not(compared: tuple[dict[str, ClipScore], Any]) -> None:
    scores, _ = compared
    assert scores["same"] == scores["uniform"]
    assert scores["uniform"].lipsync > 0.8 > 0.5 > scores["deaf"].lipsync  # 0.94 and 0.30 measured
    assert scores["deaf"].mouth_amplitude_share < 0.5 * scores["uniform"].mouth_amplitude_share  # 0.24 and 0.99 measured


def test_the_record_says_all_that_the_figures_depend_on(compared: tuple[dict[str, ClipScore], dict[str, Any]]) -> None:
    scores, record = compared
    assert list(record["runs"]) == ["uniform", "same", "deaf"]
    for name, run in record["runs"].items():
        assert run["score"] == asdict(scores[name]) and len(run["modality_weights"]) == OPTIONS.steps
    assert record["runs"]["deaf"]["modality_weights"] == [[[1.0], [1.0], [0.0]]] * 3
    assert record["runs"]["deaf"]["schedule"]["points"] == [[1.0, [1.0, 1.0, 0.0]]]
    assert record["model"] == {"name": "nano", "config_sha256": load_nano().config.digest}
    assert record["clip_seeds"] == [clip.seed for clip in held_out(4)] and record["noise_seed"] == 0
    assert record["plan"]["solver_name"] == "euler" and "modality_weights" not in record["plan"]


@pytest.mark.parametrize(
    ("candidates", "options", "complaint"),
    [
        ({"uniform": PhaseWeights()}, OPTIONS, "baseline's name"),
        ({}, replace(OPTIONS, modality=CANDIDATES["deaf"]), "weights of their own"),
    ],
)
def test_comparisons_without_a_baseline_are_refused(candidates: Any, options: PlanOptions, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        compare_modality_weights(load_nano(), candidates, options, held_out(1), tmp_path / "a.json")


def test_an_earlier_record_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(OutputError, match=r"a\.json"):
        compare_modality_weights(load_nano(), {}, replace(OPTIONS, steps=1), held_out(2), path)
    assert path.read_text() == "{}"
