"""Background and face by region: closed forms for a shift of levels, what lies outside the mask, other people, blur."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from echoedge.core.errors import InputError
from echoedge.core.metrics.identity import region_score
from echoedge.core.train.portraits import regions
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip


def picture(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((32, 32), bool)
    mask[4:20, 6:26] = True
    return rng.integers(20, 230, (32, 32, 3)).astype(np.uint8), mask


@pytest.mark.parametrize("levels", [1, 5, 20])
def test_a_shift_of_levels_has_its_psnr(levels: int) -> None:
    still, mask = picture()
    frames = np.repeat((still + levels)[None], 3, axis=0).astype(np.uint8)
    score = region_score(frames, still, mask)
    assert score.psnr_db == pytest.approx(20 * np.log10(255 / levels), abs=1e-9)
    one_of_three = np.repeat(still[None], 3, axis=0)
    one_of_three[1] += np.uint8(levels)
    assert region_score(one_of_three, still, mask).psnr_db == pytest.approx(
        20 * np.log10(255 / levels) + 10 * np.log10(3), abs=1e-9
    )


def test_only_the_mask_counts() -> None:
    still, mask = picture()
    frames = np.repeat(still[None], 2, axis=0)
    frames[:, ~mask] = 0
    score = region_score(frames, still, mask)
    assert score.psnr_db == 150.0 and score.ssim == pytest.approx(1.0)
    frames[:, mask] = 0
    assert region_score(frames, still, mask).psnr_db < 10 and region_score(frames, still, mask).ssim < 0.3


def test_a_clip_is_compared_frame_by_frame() -> None:
    clip = draw_clip(HELD_OUT_SEED + 4, 25, head_action="turns left")
    face = regions(clip.identity).head
    assert region_score(clip.frames, clip.frames, face).psnr_db == 150.0
    assert region_score(clip.frames, clip.frames[0], face).psnr_db < 30  # it turned


def test_background_and_face_of_drawn_people() -> None:
    """A person's background is the portrait's to the last bit; blur, noise and other people lower each figure."""
    for seed in range(4):
        clip, other = draw_clip(HELD_OUT_SEED + seed), draw_clip(HELD_OUT_SEED + 50 + seed)
        where = regions(clip.identity)
        portrait, rng = clip.frames[0], np.random.default_rng(seed)
        true = region_score(clip.frames, portrait, where.background)
        assert true.psnr_db == 150.0 and true.ssim == pytest.approx(1.0)
        noisy = np.clip(clip.frames + rng.normal(0, 10, clip.frames.shape), 0, 255).astype(np.uint8)
        soft = gaussian_filter(clip.frames, (0, 2, 2, 0))
        for mask in (where.background, where.head):
            assert 25 < region_score(noisy, clip.frames, mask).psnr_db < 32  # 28.1 for noise of 10 levels, before clipping
            assert region_score(soft, clip.frames, mask).ssim < 0.97
            wrong = region_score(other.frames, portrait, mask)
            assert wrong.psnr_db < 20 and wrong.ssim < 0.75


@pytest.mark.parametrize(
    ("frames", "reference", "mask"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.ones((8, 9), bool)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8), np.ones((8, 8), bool)),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32), np.ones((8, 8), bool)),
        (np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)),
    ],
)
def test_what_does_not_fit_says_so(frames: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(InputError):
        region_score(frames, reference, mask)
