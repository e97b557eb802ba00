"""Fréchet distance: closed forms of Gaussians, SciPy's matrix root, and drawn clips whole, mixed and spoiled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from echoedge.core.errors import InputError
from echoedge.core.metrics.frechet import FEATURES, frechet_distance, frechet_video_distance, gaussian_distance, video_features
from echoedge.core.train.puppets import HELD_OUT_SEED, PuppetClip, draw_clip


@pytest.fixture(scope="module")
def clips() -> list[PuppetClip]:
    return [draw_clip(HELD_OUT_SEED + 900 + k, 17) for k in range(32)]


def positive(rng: np.random.Generator, size: int, rank: int) -> np.ndarray:
    a = rng.standard_normal((size, rank))
    return a @ a.T


# --- closed forms -----------------------------------------------------------------------------------------------------------------


def test_commuting_gaussians_have_the_textbook_distance() -> None:
    """|m₁ - m₂|² + Σ (√s₁ - √s₂)² for diagonal covariances."""
    m, n, s, t = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0]), np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25])
    wanted = 5.0 + 4.0 + 1.0 + 0.25
    assert gaussian_distance(m, np.diag(s), n, np.diag(t)) == pytest.approx(wanted, abs=1e-12)
    assert gaussian_distance(n, np.diag(t), m, np.diag(s)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("rank", [6, 3])
def test_other_gaussians_agree_with_scipys_matrix_root(rank: int) -> None:
    rng = np.random.default_rng(rank)
    a, b, m, n = positive(rng, 6, rank), positive(rng, 6, 6), rng.standard_normal(6), rng.standard_normal(6)
    cross = np.trace(sqrtm(a @ b)).real
    wanted = float((m - n) @ (m - n) + np.trace(a) + np.trace(b) - 2 * cross)
    # Singular products lose digits in sqrtm: measured 2e-9 at rank 3, 7e-16 at rank 6.
    assert gaussian_distance(m, a, n, b) == pytest.approx(wanted, rel=1e-6)


def test_samples_of_two_gaussians_come_near_the_distance_of_their_distributions() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.0, 1.0, (20_000, 4)), rng.normal(0.5, 2.0, (20_000, 4))
    assert frechet_distance(a, b) == pytest.approx(4 * 0.25 + 4 * 1.0, rel=0.03)  # measured 0.002
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a + 3.0, a) == pytest.approx(36.0, rel=1e-9)
    assert frechet_distance(3.0 * a, a) == pytest.approx(
        4.0 * np.trace(np.cov(a, rowvar=False)) + 4.0 * (a.mean(axis=0) ** 2).sum(), rel=1e-9
    )


# --- clips ------------------------------------------------------------------------------------------------------------------------


def test_features_are_fixed_finite_and_see_motion(clips: list[PuppetClip]) -> None:
    frames = clips[0].frames
    first, again = video_features([frames])[0], video_features([frames])[0]
    assert first.shape == (FEATURES,) and first.dtype == np.float64 and np.isfinite(first).all()
    assert np.array_equal(first, again)
    frozen = np.repeat(frames[:1], len(frames), axis=0)
    shuffled = frames[np.random.default_rng(0).permutation(len(frames))]
    for other in (frozen, shuffled):  # the same pictures, other motion
        assert np.abs(video_features([other])[0] - first).max() > 1e-3
    assert video_features([frames[:1]]).shape == (1, FEATURES)


def test_drawn_clips_are_near_other_drawn_clips_and_far_from_spoiled_ones(clips: list[PuppetClip]) -> None:
    one, other = [c.frames for c in clips[:16]], [c.frames for c in clips[16:]]
    assert frechet_video_distance(one, one) == pytest.approx(0.0, abs=1e-6)
    rng = np.random.default_rng(0)
    blurred = [gaussian_filter(f.astype(np.float32), (0, 3, 3, 0)).astype(np.uint8) for f in one]
    noisy = [np.clip(f + rng.normal(0, 40, f.shape), 0, 255).astype(np.uint8) for f in one]
    flicker = [np.clip(f + rng.normal(0, 40, (len(f), 1, 1, 1)), 0, 255).astype(np.uint8) for f in one]
    frozen = [np.repeat(f[:1], len(f), axis=0) for f in one]
    floor = frechet_video_distance(other, one)  # of 16 other people: measured 0.58
    for spoiled in (blurred, noisy, flicker, frozen, [one[0]] * 16):
        assert frechet_video_distance(spoiled, one) > 1.5 * floor


@pytest.mark.parametrize(
    "call",
    [
        lambda: video_features([]),
        lambda: video_features([np.zeros((4, 8, 8, 3), np.float32)]),
        lambda: frechet_distance(np.zeros((1, 4)), np.zeros((5, 4))),
        lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))),
        lambda: gaussian_distance(np.zeros(3), np.eye(2), np.zeros(3), np.eye(3)),
        lambda: frechet_video_distance([np.zeros((4, 8, 8, 3), np.uint8)] * 2, [np.zeros((4, 8, 8, 3), np.uint8)] * 2),
    ],
)
def test_what_has_no_distance_says_so(call) -> None:
    with pytest.raises(InputError):
        call()
