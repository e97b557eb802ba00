"""core/metrics/diversity.py."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.diversity import diversity, motion


def clips(count: int, spread: float, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 190, (5, 16, 16, 3))
    return [np.clip(np.rint(base + rng.normal(0, spread, base.shape)), 0, 255).astype(np.uint8) for _ in range(count)]


@pytest.mark.parametrize("spread", [5.0, 20.0])
def test_independent_clips_differ_as_normal_numbers_do(spread: float) -> None:
    wanted = 2 * spread / np.sqrt(np.pi)  # the mean of |a - b|
    assert abs(diversity(clips(4, spread)) / wanted - 1) < 0.03  # of 3,840 values


def test_equal_clips_have_none_and_a_mean_has_less() -> None:
    same = clips(1, 5.0) * 3
    assert diversity(same) == 0.0
    some = clips(6, 20.0)
    half = [((a.astype(int) + b) // 2).astype(np.uint8) for a, b in zip(some[:3], some[3:], strict=True)]
    assert diversity(half) < 0.8 * diversity(some)


def test_motion_of_a_ramp_is_its_step() -> None:
    ramp = np.arange(0, 50, 5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    assert motion(ramp) == 5.0 and motion(ramp[:1]) == 0.0
    assert motion(np.repeat(ramp[:1], 4, 0)) == 0.0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="asked of 1 clip"):
        diversity(clips(1, 1.0))
    with pytest.raises(InputError, match="have the shapes"):
        diversity([clips(1, 1.0)[0], clips(1, 1.0)[0][:3]])
