"""The evaluation as a whole: every negative control is refused, tables hold what was measured, spoiled runs are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.train.controls import BARS, CONTROLS, controls
from echoedge.core.train.evaluate import evaluate, held_out, measure, measure_clip, separated, table
from echoedge.core.train.generate import Sampled
from echoedge.core.train.puppets import PuppetClip


@pytest.fixture(scope="module")
def clips() -> list[PuppetClip]:
    return held_out(8, first=7000, frames=50)


def blended(clip: PuppetClip, share: float) -> np.ndarray:
    """The clip with its motion around the mean picture scaled."""
    mean = clip.frames.astype(float).mean(axis=0)
    return np.round(mean + share * (clip.frames - mean)).astype(np.uint8)


def test_every_control_is_refused_by_every_metric_it_names(clips: list[PuppetClip]) -> None:
    rows = controls(clips)
    assert {row["metric"] for row in rows} == set(BARS)
    assert len(rows) == sum(len(control.metrics) for control in CONTROLS)
    assert [row for row in rows if not (row["truth_passes"] and row["control_fails"])] == []
    assert next(row["spoiled"] for row in rows if row["metric"] == "lag_frames") == pytest.approx(4.0, abs=0.5)
    json.dumps(rows)


def test_the_table_holds_means_and_both_spreads() -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan], [3.0, 4.0, 5.0, np.nan]])
    found = table({"a": values, "b": np.array([[1.0]]), "c": np.array([[np.nan, np.nan]])})
    assert found["a"] == {
        "mean": 3.0,
        "over_clips": 1.0,
        "over_seeds": round(2**0.5, 4),
        "median": 3.0,
        "lowest": 1.0,
        "highest": 5.0,
        "figures": 6,
    }
    assert found["b"] == {
        "mean": 1.0,
        "over_clips": None,
        "over_seeds": None,
        "median": 1.0,
        "lowest": 1.0,
        "highest": 1.0,
        "figures": 1,
    }
    assert found["c"]["mean"] is None and found["c"]["figures"] == 0
    json.dumps(found, allow_nan=False)


def test_the_truth_is_perfect_and_a_still_clip_is_not(clips: list[PuppetClip]) -> None:
    few = clips[:3]
    true = Sampled([c.frames for c in few], np.ones((3, 2, 2)))
    still = Sampled([np.repeat(c.frames[:1], 50, axis=0) for c in few], np.full((3, 2, 2), 1.5, np.float32))
    good, bad = evaluate([true, true], few, [true, true]), evaluate([still, still], few, [true, true])
    json.dumps([good, bad], allow_nan=False)
    assert good["face_psnr_db"]["mean"] == good["reference_psnr_db"]["mean"] == 150.0
    assert good["mouth_amplitude"]["mean"] == good["reference_amplitude"]["mean"] == 1.0
    assert good["frechet"]["mean"] == good["latent_error"]["mean"] == good["lipsync"]["over_seeds"] == 0.0
    assert bad["mouth_amplitude"]["mean"] == bad["lipsync"]["mean"] == 0.0 and bad["latent_error"]["mean"] == 0.5
    assert bad["frechet"]["mean"] > 0.5 and bad["reference_psnr_db"]["mean"] < 40


def test_weaker_motion_is_told_apart_and_equal_takes_are_not(clips: list[PuppetClip]) -> None:
    true = measure([Sampled([c.frames for c in clips])], clips)
    weaker = measure([Sampled([blended(c, 0.8) for c in clips])], clips)
    found = separated(true, weaker)
    assert found["mouth_energy"]["separated"] and found["mouth_energy"]["difference"] == pytest.approx(-0.36, abs=0.02)
    assert found["face_psnr_db"]["separated"] and not found["background_psnr_db"]["separated"]
    assert found["frechet"]["t"] is None  # one seed: one pair
    assert not any(row["separated"] for row in separated(true, true).values())
    json.dumps(found, allow_nan=False)


def test_silence_and_single_frames_have_no_ratios_and_no_drift() -> None:
    from echoedge.core.train.puppets import draw_clip

    silent = draw_clip(1_008_000, 25, head_action="stays still", face_action="", waveform=np.zeros(1, np.float32))
    single = draw_clip(1_008_001, 1)
    for clip in (silent, single):
        found = measure_clip(clip.frames, clip)
        assert found["lipsync"] == 0.0 and found["lag_frames"] == 0.0
        assert np.isnan(found["mouth_amplitude"]) and np.isnan(found["drift_db_per_s"])
        assert found["background_psnr_db"] == 150.0


def test_what_does_not_match_says_so(clips: list[PuppetClip]) -> None:
    few = clips[:2]
    true = Sampled([c.frames for c in few])
    one = Sampled(true.videos[:1])
    for runs, judged, reference in (([], few, None), ([one], few, None), ([one], few[:1], None), ([true], few, [])):
        with pytest.raises(InputError):
            measure(runs, judged, reference)
    with pytest.raises(InputError, match="its truth"):
        measure_clip(few[0].frames[:20], few[0])
    with pytest.raises(InputError, match="on one side"):
        separated({"a": np.zeros((1, 3))}, {"a": np.zeros((2, 3))})
