"""runtime/play/colour.py: LAB against published values, matched statistics, what is left alone, and upstream's 8 bits as an option.

Upstream's recorded picture: tests/upstream/checks_frames.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from echoedge.core.errors import InputError
from echoedge.runtime.play.colour import ColourMatcher, lab_to_rgb, match_colours, rgb_to_lab, rgb_to_lab8

EVERY_NINTH = np.stack(np.meshgrid(*[np.arange(0, 256, 9)] * 3, indexing="ij"), -1).reshape(1, -1, 3).astype(np.uint8)


def picture(seed: int, height: int = 40, width: int = 32) -> np.ndarray:
    """Soft colours, none of them at the edge of the gamut: uint8 [height, width, 3]."""
    coarse = np.random.default_rng(seed).integers(70, 180, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def tinted(pixels: np.ndarray) -> np.ndarray:
    """As frames drift: darker, flatter, towards yellow."""
    return np.rint(np.clip(pixels * 0.8 + [20, 16, 6], 0, 255)).astype(np.uint8)


def statistics(pixels: np.ndarray) -> np.ndarray:
    lab = rgb_to_lab(pixels)
    return np.stack([lab.mean((0, 1)), lab.std((0, 1))])


# ---- LAB -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "lab"),  # CIE 1976 under D65, as published for sRGB's corners
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((128, 128, 128), (53.59, 0.0, 0.0)),
    ],
)
def test_lab_is_the_published(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    ours = rgb_to_lab(np.array(rgb, np.uint8)) / [2.55, 1, 1] - [0, 128, 128]
    np.testing.assert_allclose(ours, lab, rtol=0, atol=0.02)  # measured: 0.0051


@pytest.mark.parametrize(
    ("rgb", "lab"),  # computed by OpenCV 5.0; the first three depend on the last bit of its tables
    [
        ((0, 6, 98), (24, 163, 77)),
        ((0, 98, 254), (119, 165, 45)),
        ((15, 209, 159), (191, 73, 141)),
        ((255, 0, 0), (136, 208, 195)),
        ((0, 0, 255), (82, 207, 20)),
        ((255, 255, 255), (255, 128, 128)),
        ((0, 0, 0), (0, 128, 128)),
    ],
)
def test_lab_in_8_bits_is_the_librarys(rgb: tuple[int, ...], lab: tuple[int, ...]) -> None:
    assert rgb_to_lab8(np.array(rgb, np.uint8)).tolist() == list(lab)


def test_lab_in_8_bits_is_nearly_lab_rounded() -> None:
    off = np.abs(rgb_to_lab8(EVERY_NINTH) - rgb_to_lab(EVERY_NINTH))
    assert off.max() < 3  # measured: 1.96
    assert off.mean() < 0.4  # of rounding alone: 0.25; measured: 0.27


def test_there_and_back() -> None:
    """Upstream's 8 bits lose what the frame had before anything is matched."""
    np.testing.assert_array_equal(lab_to_rgb(rgb_to_lab(EVERY_NINTH)), EVERY_NINTH)
    lost = np.abs(lab_to_rgb(rgb_to_lab8(EVERY_NINTH).astype(float)).astype(int) - EVERY_NINTH)
    assert lost.max() > 10  # measured: 22, of all colours 27


# ---- matching --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upstream_compat", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_tinted_frame_gets_its_colours_back(seed: int, upstream_compat: bool) -> None:
    original = picture(seed)
    drifted = tinted(original)
    matched = match_colours(drifted, original, upstream_compat)
    assert matched.dtype == np.uint8
    off = np.abs(statistics(matched) - statistics(original))
    assert off.max() < (0.5 if upstream_compat else 0.1)  # levels; measured: 0.11 and 0.03
    assert np.abs(statistics(drifted) - statistics(original)).max() > 5  # measured: 7.6
    assert np.abs(matched.astype(int) - original).mean() < np.abs(drifted.astype(int) - original).mean() / 3  # measured: a tenth


def test_reference_and_frame_are_not_exchanged() -> None:
    a, b = picture(0), picture(1)
    off = [np.abs(statistics(match_colours(a, b)) - statistics(target)).max() for target in (b, a)]
    assert off[0] < 1 < 5 < off[1]


def test_a_frame_of_the_same_colours_is_left_alone_and_upstream_changes_it() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(match_colours(frame, frame), frame)
    changed = np.abs(match_colours(frame, frame, upstream_compat=True).astype(int) - frame)
    assert changed.max() > 3  # measured: 12
    assert (changed > 0).mean() > 0.1  # measured: 0.45


def test_a_reference_may_have_another_size() -> None:
    matched = match_colours(picture(0, 40, 32), picture(1, 16, 48))
    assert matched.shape == (40, 32, 3)
    assert np.abs(statistics(matched) - statistics(picture(1, 16, 48))).max() < 1


@pytest.mark.parametrize("upstream_compat", [False, True])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_a_flat_frame_takes_on_the_mean(level: int, upstream_compat: bool) -> None:
    """Upstream divides by its spread of zero."""
    reference, flat = picture(2), np.full((8, 8, 3), level, np.uint8)
    with np.errstate(all="raise"):
        matched = match_colours(flat, reference, upstream_compat)
        np.testing.assert_array_equal(match_colours(flat, flat, upstream_compat), flat)
        collapsed = match_colours(reference, flat, upstream_compat)
    assert len(np.unique(matched.reshape(-1, 3), axis=0)) == 1
    np.testing.assert_allclose(statistics(matched)[0], statistics(reference)[0], rtol=0, atol=2)  # of 8 bits
    assert np.abs(collapsed.astype(int) - level).max() <= 1


def test_one_odd_pixel_is_not_blown_up() -> None:
    frame = np.full((400, 400, 3), 100, np.uint8)
    frame[0, 0, 2] = 101  # the channels' spread is a thousandth of a level
    matched = match_colours(frame, picture(0)).astype(int)
    assert np.abs(matched[0, 0] - matched[1, 1]).max() <= 2


# ---- streaming -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upstream_compat", [False, True])
def test_every_frame_is_matched_to_the_first(upstream_compat: bool) -> None:
    frames = [picture(seed) for seed in range(4)]
    matcher = ColourMatcher(upstream_compat=upstream_compat)
    matched = [matcher(frame) for frame in frames]
    np.testing.assert_array_equal(matched[0], frames[0])
    for frame, ours in zip(frames[1:], matched[1:], strict=True):
        np.testing.assert_array_equal(ours, match_colours(frame, frames[0], upstream_compat))
        assert not np.array_equal(ours, match_colours(frame, frames[1], upstream_compat))
    held = [value for value in vars(matcher).values() if not isinstance(value, bool)]
    assert [part.size for pair in held for part in pair] == [3, 3]  # a mean and a deviation, no frame


def test_a_given_reference_is_matched_from_the_first_frame_on() -> None:
    matcher = ColourMatcher(picture(1))
    np.testing.assert_array_equal(matcher(picture(0)), match_colours(picture(0), picture(1)))


@pytest.mark.parametrize(
    "frame",
    [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8)],
)
def test_frames_that_are_no_pictures(frame: Any) -> None:
    for call in (lambda: ColourMatcher()(frame), lambda: ColourMatcher(frame), lambda: ColourMatcher(picture(0))(frame)):
        with pytest.raises(InputError, match=r"it must be uint8 \[height, width, 3\]"):
            call()
