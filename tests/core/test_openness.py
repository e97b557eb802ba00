"""Openness against closed forms: draws made of a part in common and noise of known strength."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.openness import CEILING_DB, openness


def made(draws: int, common: float, noise: float, seed: int = 0) -> np.ndarray:
    """[draws, 30, 24, 24, 3]: a first frame of 128, then plus or minus `common` in turn for all, and each draw's normal `noise`."""
    rng = np.random.default_rng(seed)
    sign = np.where(np.arange(30) % 2, 1.0, -1.0)[:, None, None, None] * common
    clips = 128.0 + sign + rng.normal(0.0, 1.0, (draws, 30, 24, 24, 3)) * noise
    clips[:, 0] = 128.0
    return np.clip(np.round(clips), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("draws", [2, 6])
def test_a_part_in_common_and_a_part_of_chance(draws: int) -> None:
    """Variance adds up: c² of what is common, n² + 1/12 (rounding) of chance; steps between frames have 4 c² and 2 n²."""
    common, noise = 12.0, 9.0
    found = openness([(made(draws, common, noise), None)])
    chance = noise**2 + 1 / 12
    assert found.diversity_db == pytest.approx(10 * np.log10(255**2 / (2 * chance)), abs=0.05)  # measured within 0.01
    assert found.open_share == pytest.approx(chance / (chance + common**2), abs=0.005)
    # 28 of 29 steps are between free frames; the first has c² and n².
    shared, free = (28 * 4 + 1) / 29 * common**2, (28 * 2 + 1) / 29 * chance
    assert found.motion == pytest.approx(shared + free, rel=0.01)
    assert found.motion_in_mean == pytest.approx(shared / (shared + free), abs=0.005)


def test_equal_draws_are_closed_and_mere_chance_is_open() -> None:
    same = np.repeat(made(1, 12.0, 3.0), 4, axis=0)
    closed = openness([(same, None)])
    assert (closed.diversity_db, closed.open_share, closed.motion_in_mean) == (CEILING_DB, 0.0, 1.0)
    free = openness([(made(4, 0.0, 9.0), None)])
    assert free.open_share == pytest.approx(1.0, abs=0.01) and free.motion_in_mean == pytest.approx(0.0, abs=0.01)
    still = openness([(np.repeat(same[:, :1], 5, axis=1), None)])
    assert still.motion == 0.0 and np.isnan(still.open_share) and np.isnan(still.motion_in_mean)


def test_a_mask_looks_at_its_pixels_alone_and_groups_weigh_the_same() -> None:
    draws = made(3, 5.0, 0.0)
    draws[:, :, :12] = made(3, 0.0, 9.0)[:, :, :12]
    top = np.zeros((24, 24), bool)
    top[:12] = True
    assert openness([(draws, ~top)]).open_share == 0.0 and openness([(draws, top)]).open_share > 0.98
    both = openness([(draws, top), (draws[:, :, ::-1], ~top)])
    assert both == openness([(draws, top)])


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no draws"),
        ([(np.zeros((1, 5, 8, 8, 3), np.uint8), None)], "two draws"),
        ([(np.zeros((3, 1, 8, 8, 3), np.uint8), None)], "two frames"),
        ([(np.zeros((2, 5, 8, 8, 3), np.uint8), np.zeros((8, 8), bool))], "at least one pixel"),
    ],
)
def test_what_cannot_be_compared_says_so(groups: list, words: str) -> None:
    with pytest.raises(InputError, match=words):
        openness(groups)
