"""core/metrics/seams.py: clips spliced together jump at the splice, whole ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.seams import changes_over, seam_jump
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip


@pytest.fixture(scope="module")
def turning() -> list[np.ndarray]:
    return [draw_clip(HELD_OUT_SEED + k, 50, head_action="turns left").frames for k in range(6)]


def test_changes_are_mean_squares_over_the_reach() -> None:
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    frames[1], frames[2, 0, 0, 0] = 2, 12
    np.testing.assert_allclose(changes_over(frames), [4.0, (11 * 4 + 100) / 12, 12.0])
    np.testing.assert_allclose(changes_over(frames, 2), [12.0, 4.0])


def test_a_whole_clip_has_no_seam_and_a_spliced_one_has(turning: list[np.ndarray]) -> None:
    whole = [seam_jump(clip, [25], reach) for clip in turning for reach in (1, 4)]
    spliced = [seam_jump(np.concatenate([clip[:25], clip[:25]]), [25], reach) for clip in turning for reach in (1, 4)]
    assert np.mean(whole) < 2
    assert min(spliced) > 3 * np.mean(whole)


def test_a_seam_in_the_wrong_place_is_not_found(turning: list[np.ndarray]) -> None:
    spliced = np.concatenate([turning[0][:25], turning[0][:25]])
    assert 3 * seam_jump(spliced, [12]) < seam_jump(spliced, [25])


def test_noise_changes_as_much_at_a_seam_as_elsewhere() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    assert seam_jump(frames, [10, 20, 30]) == pytest.approx(1.0, abs=0.1)
    assert seam_jump(frames, [10, 20, 30], 4) == pytest.approx(1.0, abs=0.1)
    assert seam_jump(np.zeros((8, 4, 4, 3), np.uint8), [4]) == 0.0


@pytest.mark.parametrize(
    ("seams", "reach", "message"),
    [([0], 1, "seams \\[0\\]"), ([8], 1, "between 1 and 7"), ([], 1, "at least one"), ([5], 4, "between 1 and 4"),
     ([4], 8, "reach is 8"), ([4], 0, "reach is 0"), (range(1, 8), 1, "nothing to compare")],
)  # fmt: skip
def test_what_cannot_be_judged_says_so(seams: list[int], reach: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seam_jump(np.zeros((8, 4, 4, 3), np.uint8), seams, reach)
