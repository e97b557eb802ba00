"""Mouth opening from pixels: against hand-drawn mouths, against the puppets' true opening, blurred, noisy and frozen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from echoedge.core.errors import InputError
from echoedge.core.metrics.mouth import mouth_amplitude, mouth_opening
from echoedge.core.train.puppets import HELD_OUT_SEED, PuppetClip, draw_clip

BOX = (8, 24, 6, 26)


@pytest.fixture(scope="module")
def clips() -> list[PuppetClip]:
    return [draw_clip(HELD_OUT_SEED + k) for k in range(24)]


def square_mouth(heights: list[int], skin: tuple[int, int, int] = (210, 160, 130)) -> np.ndarray:
    frames = np.full((len(heights), 32, 32, 3), skin, np.uint8)
    for frame, height in zip(frames, heights, strict=True):
        frame[12 : 12 + height, 10:22] = (40, 10, 15)
    return frames


def spoil(frames: np.ndarray, blur: float, noise: float, seed: int) -> np.ndarray:
    soft = gaussian_filter(frames.astype(np.float32), (0, blur, blur, 0))
    return np.clip(soft + np.random.default_rng(seed).normal(0, noise, soft.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("skin", [(250, 225, 205), (210, 160, 130), (110, 70, 45)])
def test_opening_counts_the_area_of_a_drawn_mouth(skin: tuple[int, int, int]) -> None:
    heights = [0, 2, 4, 6, 8]
    opening = mouth_opening(square_mouth(heights, skin), BOX)
    assert opening[0] == 0.0
    assert np.allclose(opening / opening[1], np.asarray(heights) / 2, atol=1e-9)
    if min(skin) > 100:  # a dark mouth on light skin counts fully: its share of the box
        assert opening[4] == pytest.approx(8 * 12 / (16 * 20))


def test_brightness_of_the_whole_picture_does_not_count() -> None:
    frames = square_mouth([4, 4, 4])
    frames[1:] = np.clip(frames[1:].astype(int) + np.asarray([10, -10])[:, None, None, None], 0, 255).astype(np.uint8)
    assert mouth_amplitude(frames, BOX) < 1e-3 < mouth_amplitude(square_mouth([3, 4, 5]), BOX)


def test_drawn_openings_are_recovered(clips: list[PuppetClip]) -> None:
    scores = [np.corrcoef(mouth_opening(c.frames, c.mouth_box), c.opening)[0, 1] for c in clips]
    assert np.mean(scores) > 0.96 and min(scores) > 0.9  # measured 0.98, worst 0.96


@pytest.mark.parametrize(("blur", "noise", "wanted"), [(1.0, 8.0, 0.88), (1.5, 12.0, 0.84)])
def test_blurred_noisy_frames_still_show_it(clips: list[PuppetClip], blur: float, noise: float, wanted: float) -> None:
    scores = [
        np.corrcoef(mouth_opening(spoil(c.frames, blur, noise, k), c.mouth_box), c.opening)[0, 1] for k, c in enumerate(clips)
    ]
    assert np.mean(scores) > wanted  # measured 0.94 and 0.92 over 48 clips


def test_a_mouth_that_moves_less_measures_less_and_a_frozen_one_nothing(clips: list[PuppetClip]) -> None:
    for clip in clips[:6]:
        frozen = np.repeat(clip.frames[:1], 25, axis=0)
        assert mouth_amplitude(frozen, clip.mouth_box) < 1e-12
    still = [draw_clip(HELD_OUT_SEED + k, head_action="stays still", face_action="") for k in range(6)]
    for clip in still:
        mean = clip.frames.astype(float).mean(axis=0)
        parts = [
            mouth_amplitude((mean + part * (clip.frames - mean)).astype(np.uint8), clip.mouth_box) for part in (1.0, 0.5, 0.25)
        ]
        assert parts[0] > 1.1 * parts[1] > 1.1 * 1.3 * parts[2]


@pytest.mark.parametrize(
    ("frames", "box"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), BOX),
        (np.zeros((32, 32, 3), np.uint8), BOX),
        (np.zeros((0, 32, 32, 3), np.uint8), BOX),
        (np.zeros((2, 32, 32, 3), np.uint8), (8, 40, 6, 26)),
        (np.zeros((2, 32, 32, 3), np.uint8), (8, 8, 6, 26)),
        (np.zeros((2, 32, 32, 3), np.uint8), (-1, 8, 6, 26)),
    ],
)
def test_what_cannot_be_measured_says_so(frames: np.ndarray, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError):
        mouth_opening(frames, box)
