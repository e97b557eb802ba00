"""runtime/export/calibration.py: what is recorded is what nano is given, and none of it is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from echoedge.core.config import NANO_CLIP
from echoedge.core.model.programs import Denoise, EncodeConditions, Model
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.train.generate import sample
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip
from echoedge.core.weights.nano import load_nano
from echoedge.runtime.export.calibration import CLIPS, FIRST_SEED, calibration_samples, record

PLAN = build_plan(replace(PLAN_PRESETS["nano"], steps=2))


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_nano()


def test_recording_changes_nothing_and_keeps_every_call(nano: Model) -> None:
    clips = [draw_clip(FIRST_SEED + i) for i in range(2)]
    recorder = record(nano, clips, PLAN, seed=3)
    assert len(recorder.encoded) == len(PLAN.branches) == 2
    assert len(recorder.denoised) == len(recorder.velocities) == PLAN.evaluations == 4
    # The last step's velocities make the clip: guide and advance them as the sampler does.
    latents = sample(nano, clips, PLAN, seed=3)
    again = record(nano, clips, PLAN, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(recorder.velocities, again.velocities, strict=True))
    assert not np.array_equal(latents, sample(nano, clips, PLAN, seed=4))
    first = recorder.denoised[0][0]
    assert torch.equal(first, recorder.denoised[1][0])  # both branches of a step see the same latents
    assert not torch.equal(first, recorder.denoised[2][0])


def test_samples_are_calls_of_the_programs(nano: Model) -> None:
    samples = calibration_samples(nano, PLAN, clips=3)
    assert {name: len(calls) for name, calls in samples.items()} == {"encode_conditions": 2, "denoise": 4}
    assert [call[0].shape[0] for call in samples["denoise"]] == [1, 1, 1, 1]
    whole = record(nano, [draw_clip(FIRST_SEED + i) for i in range(3)], PLAN, 7_000_000)
    step = Denoise(nano.dit, NANO_CLIP, keep_residual=False)
    with torch.no_grad():
        for number, call in enumerate(samples["denoise"]):
            expected = whole.velocities[number][number % 3 : number % 3 + 1]
            assert float((step(*call) - expected).abs().max()) < 1e-4  # measured: 7e-6
        wrong = whole.velocities[0][1:2]
        assert float((step(*samples["denoise"][0]) - wrong).abs().max()) > 0.1
        conditions = EncodeConditions(nano.dit)(*samples["encode_conditions"][0])
    assert conditions[1].shape[:2] == (nano.config.layers, 3)


def test_no_clip_is_held_out() -> None:
    assert FIRST_SEED + CLIPS <= HELD_OUT_SEED
