"""Mouth motion against the truth: drawn squares scaled by hand, frozen and noisy mouths, a still truth."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.motion import mouth_energy, mouth_motion
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip

BOX = (8, 24, 6, 26)


def square_mouth(heights: list[int]) -> np.ndarray:
    frames = np.full((len(heights), 32, 32, 3), (210, 160, 130), np.uint8)
    for frame, height in zip(frames, heights, strict=True):
        frame[12 : 12 + height, 10:22] = (40, 10, 15)
    return frames


def test_energy_of_a_step_is_its_square_over_the_box() -> None:
    frames = np.full((3, 32, 32, 3), 100, np.uint8)
    frames[1, 10:14, 10:15] = 130  # 20 of 320 pixels change by 30, and back
    assert mouth_energy(frames, BOX) == pytest.approx(20 * 900 / 320)
    frames[:, 26:] = np.random.default_rng(0).integers(0, 255, (3, 6, 32, 3))  # outside the box nothing counts
    assert mouth_energy(frames, BOX) == pytest.approx(20 * 900 / 320)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_mouth_that_opens_wider_by_a_factor_measures_that_factor(scale: int) -> None:
    heights = [0, 1, 2, 1, 0, 2]
    found = mouth_motion(square_mouth([scale * h for h in heights]), square_mouth(heights), BOX)
    assert found.amplitude == pytest.approx(scale)
    assert found.energy == pytest.approx(scale)  # of a moving edge: as many more pixels change, each by the same


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0])
def test_contrast_scales_energy_by_its_square(scale: float) -> None:
    clip = draw_clip(HELD_OUT_SEED + 3)
    mean = clip.frames.astype(float).mean(axis=0)
    weaker = np.round(mean + scale * (clip.frames - mean)).astype(np.uint8)
    assert mouth_motion(weaker, clip.frames, clip.mouth_box).energy == pytest.approx(
        scale**2, rel=0.01
    )  # measured 0.0004: rounding


def test_a_frozen_mouth_has_none_and_flicker_has_too_much() -> None:
    clip = draw_clip(HELD_OUT_SEED)
    frozen = np.repeat(clip.frames[:1], len(clip.frames), axis=0)
    found = mouth_motion(frozen, clip.frames, clip.mouth_box)
    assert found.energy == 0.0 and found.amplitude < 1e-9
    noise = np.random.default_rng(0).normal(0, 20, clip.frames.shape)
    assert mouth_motion(np.clip(clip.frames + noise, 0, 255).astype(np.uint8), clip.frames, clip.mouth_box).energy > 1.5


def test_where_the_truth_is_still_or_a_single_frame_there_is_no_ratio() -> None:
    still = square_mouth([3, 3, 3])
    for truth, frames in ((still, square_mouth([1, 2, 3])), (still[:1], still[:1])):
        found = mouth_motion(frames, truth, BOX)
        assert np.isnan(found.energy) and np.isnan(found.amplitude)
    assert mouth_energy(still[:1], BOX) == 0.0


def test_what_cannot_be_compared_says_so() -> None:
    with pytest.raises(InputError, match="must be equal"):
        mouth_motion(square_mouth([1, 2]), square_mouth([1, 2, 3]), BOX)
    with pytest.raises(InputError, match="mouth box"):
        mouth_energy(square_mouth([1, 2]), (0, 40, 0, 10))
