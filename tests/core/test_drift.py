"""Background drift in dB per second: added drift is measured, flicker is not drift, drawn clips have none."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.drift import CEILING_DB, background_drift
from echoedge.core.train.portraits import regions
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip

EVERYWHERE = np.ones((16, 16), bool)


def drifting(seconds: int, start_db: float, db_per_s: float, fps: int = 10) -> np.ndarray:
    """Grey frames whose squares alternate above and below 128, so that second s has start_db + s * db_per_s to the mean picture."""
    sign = np.where(np.arange(fps) % 2 == 0, 1.0, -1.0)
    if fps % 2:
        raise ValueError("The mean of a second must be grey.")
    sizes = [255 * 10 ** (-(start_db + s * db_per_s) / 20) for s in range(seconds)]
    levels = np.concatenate([128 + size * sign for size in sizes])
    return np.broadcast_to(np.round(levels).astype(np.uint8)[:, None, None, None], (seconds * fps, 16, 16, 3))


@pytest.mark.parametrize("db_per_s", [0.0, -0.5, -1.0, 0.7])
def test_added_drift_is_measured(db_per_s: float) -> None:
    found = background_drift(drifting(10, 24.0, db_per_s), EVERYWHERE, fps=10)
    assert found.slope_db_per_s == pytest.approx(db_per_s, abs=0.03)  # rounding to whole levels; measured 0.022
    assert found.change_db == pytest.approx(9 * db_per_s, abs=0.4)  # measured 0.28
    assert found.psnr_db[0] == pytest.approx(24.0, abs=0.15)


def test_flicker_lowers_all_seconds_alike() -> None:
    rng = np.random.default_rng(0)
    frames = np.clip(128 + rng.normal(0, 10, (80, 16, 16, 3)), 0, 255).astype(np.uint8)
    found = background_drift(frames, EVERYWHERE, fps=10)
    assert abs(found.slope_db_per_s) < 0.15 and found.psnr_db[-1] == pytest.approx(28.1, abs=0.6)


def test_a_drawn_clip_does_not_drift_and_a_fading_one_does() -> None:
    clip = draw_clip(HELD_OUT_SEED + 2, 110)  # four full seconds and a part
    background = regions(clip.identity).background
    true = background_drift(clip.frames, background)
    assert true.psnr_db == (CEILING_DB,) * 4 and true.slope_db_per_s == 0.0 and true.change_db == 0.0
    ramp = np.arange(110)[:, None, None, None] / 110
    fading = (clip.frames * (1 - 0.3 * ramp) + 128 * 0.3 * ramp).astype(np.uint8)
    found = background_drift(fading, background)
    assert found.slope_db_per_s < -3 and found.change_db < -10


def test_only_the_background_counts() -> None:
    clip = draw_clip(HELD_OUT_SEED + 5, 50)
    background = regions(clip.identity).background
    spoiled = clip.frames.copy()
    spoiled[:, ~background] = np.random.default_rng(0).integers(0, 255, (50, int((~background).sum()), 3))
    assert background_drift(spoiled, background).slope_db_per_s == 0.0


@pytest.mark.parametrize(("frames", "fps"), [(49, 25), (1, 25), (25, 0)])
def test_too_short_a_clip_says_so(frames: int, fps: int) -> None:
    with pytest.raises(InputError, match="two seconds"):
        background_drift(np.zeros((frames, 16, 16, 3), np.uint8), EVERYWHERE, fps)
