"""Lip-sync, identity and drift on drawn clips: the truth scores high, each wrong pairing scores low."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import shift, uniform_filter

from echoedge.core.errors import InputError
from echoedge.core.metrics.drift import drift, drift_of
from echoedge.core.metrics.identity import identity_similarity, ssim_map
from echoedge.core.metrics.lipsync import correlation, lag, lag_curve, lag_of, lipsync, shuffled_lipsync
from echoedge.core.train.controls import delay_voice
from echoedge.core.train.puppets import HELD_OUT_SEED, PuppetClip, draw_clip


@pytest.fixture(scope="module")
def clips() -> list[PuppetClip]:
    return [draw_clip(HELD_OUT_SEED + k) for k in range(24)]


# --- lip-sync ---------------------------------------------------------------------------------------------------------------------


def test_drawn_clips_are_in_sync_and_shuffled_ones_are_not(clips: list[PuppetClip]) -> None:
    true = [lipsync(c.frames, c.waveform, c.mouth_box) for c in clips]
    assert np.mean(true) >= 0.95 and min(true) > 0.9  # measured 0.980, worst 0.959
    assert abs(shuffled_lipsync([(c.frames, c.waveform, c.mouth_box) for c in clips])) < 0.15  # measured 0.05


def test_late_audio_scores_lower(clips: list[PuppetClip]) -> None:
    late = [lipsync(c.frames, np.concatenate([np.zeros(3200, np.float32), c.waveform])[:16000], c.mouth_box) for c in clips]
    assert np.mean(late) < 0.3


def test_silence_a_frozen_mouth_and_a_constant_tone_score_zero(clips: list[PuppetClip]) -> None:
    clip = clips[0]
    assert lipsync(clip.frames, np.zeros(16000), clip.mouth_box) == 0.0
    assert lipsync(np.repeat(clip.frames[:1], 25, axis=0), clip.waveform, clip.mouth_box) == 0.0
    assert lipsync(clip.frames[:1], clip.waveform, clip.mouth_box) == 0.0


def test_the_recording_level_does_not_matter(clips: list[PuppetClip]) -> None:
    clip = clips[1]
    quiet = lipsync(clip.frames, clip.waveform * np.float32(0.05), clip.mouth_box)
    assert quiet == pytest.approx(lipsync(clip.frames, clip.waveform, clip.mouth_box), abs=1e-6)


def test_long_clips_stay_in_sync() -> None:
    clip = draw_clip(HELD_OUT_SEED, 97)
    assert lipsync(clip.frames, clip.waveform, clip.mouth_box) > 0.93


def test_shuffling_never_pairs_a_clip_with_itself() -> None:
    """Two clips whose audio is exactly wrong for each other: any own pairing would raise the mean above −0.9."""
    time = np.arange(16000) / 16000
    loud = [0.5 + 0.5 * sign * np.cos(2 * np.pi * 2 * time) for sign in (1, -1)]
    drawn = [draw_clip(1, head_action="stays still", face_action="", waveform=a * np.sin(2 * np.pi * 250 * time)) for a in loud]
    sets = [(c.frames, c.waveform, c.mouth_box) for c in drawn]
    assert min(lipsync(*clip) for clip in sets) > 0.95
    assert all(shuffled_lipsync(sets, shifts) < -0.8 for shifts in (1, 2, 8))


def test_correlation_agrees_with_numpy() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 40))
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    assert correlation(a, 3 * a + 1) == pytest.approx(1.0) and correlation(a, -a) == pytest.approx(-1.0)
    assert correlation(a, np.ones(40)) == 0.0


@pytest.mark.parametrize(
    "call", [lambda: correlation(np.zeros(3), np.zeros(4)), lambda: shuffled_lipsync([]), lambda: drift_of(np.ones(5))]
)
def test_what_cannot_work_says_so(call) -> None:
    with pytest.raises(InputError):
        call()


# --- lag --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-8, -3, 0, 1, 5, 8])
def test_a_shifted_track_has_that_lag(k: int) -> None:
    track = np.random.default_rng(4).normal(size=80)
    found = lag_of(track[20:60], track[20 - k : 60 - k])
    assert found.frames == k and found.correlation == pytest.approx(1.0)
    assert found.at_zero == pytest.approx(np.corrcoef(track[20:60], track[20 - k : 60 - k])[0, 1])


@pytest.mark.parametrize("late", [-6, -2, 0, 3, 7])
def test_delayed_audio_lags_by_that_many_frames(late: int) -> None:
    """Two seconds each: speech repeats itself within one. Twin: without the delay the lag is 0."""
    for seed in range(6):
        clip = draw_clip(HELD_OUT_SEED + seed, 50)
        found = lag(clip.frames, delay_voice(clip, late).waveform, clip.mouth_box)
        assert abs(found.frames - late) <= 1 and found.correlation > 0.9
        assert abs(lag(clip.frames, clip.waveform, clip.mouth_box).frames) <= 1


def test_single_seconds_agree_in_their_median(clips: list[PuppetClip]) -> None:
    found = [lag(c.frames, delay_voice(c, 4).waveform, c.mouth_box).frames for c in clips]
    assert np.median(found) == 4


def test_what_cannot_lag_has_none(clips: list[PuppetClip]) -> None:
    clip = clips[0]
    frozen = np.repeat(clip.frames[:1], 25, axis=0)
    for frames, audio in ((clip.frames, np.zeros(16000)), (frozen, clip.waveform), (clip.frames[:1], clip.waveform)):
        found = lag(frames, audio, clip.mouth_box)
        assert (found.frames, found.correlation, found.at_zero) == (0, 0.0, 0.0)


def test_short_overlaps_are_not_judged() -> None:
    """Six frames: only lags that leave three are. A longer lag would find two equal points and claim a perfect match."""
    curve = lag_curve(np.arange(6.0), np.arange(6.0)[::-1], 8)
    assert np.isfinite(curve[5:12]).all() and np.isinf(curve[:5]).all() and np.isinf(curve[12:]).all()
    with pytest.raises(InputError, match="-1"):
        lag_curve(np.zeros(5), np.zeros(5), -1)


# --- identity and drift -----------------------------------------------------------------------------------------------------------


def test_ssim_of_textbook_cases() -> None:
    """One for equal images; the closed form (2ab + c) / (a² + b² + c) for constant ones; windows as in SciPy."""
    a = np.random.default_rng(1).uniform(0, 255, (24, 24, 3))
    assert np.allclose(ssim_map(a, a), 1.0)
    low, high = np.full((16, 16, 3), 100.0), np.full((16, 16, 3), 150.0)
    c1 = (0.01 * 255) ** 2
    assert np.allclose(ssim_map(low, high), (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    assert ssim_map(a, 255 - a).mean() < -0.5
    b = np.clip(a + np.random.default_rng(2).normal(0, 30, a.shape), 0, 255)
    ma, mb, aa, bb, ab = (uniform_filter(v, (7, 7, 1), mode="reflect") for v in (a, b, a * a, b * b, a * b))
    c2 = (0.03 * 255) ** 2
    wanted = (2 * ma * mb + c1) * (2 * (ab - ma * mb) + c2) / ((ma**2 + mb**2 + c1) * (aa - ma**2 + bb - mb**2 + c2))
    assert np.allclose(ssim_map(a, b), wanted.mean(axis=-1), atol=1e-9)


def test_the_same_person_scores_above_another_even_when_moving(clips: list[PuppetClip]) -> None:
    own = [identity_similarity(c.frames, c.frames[0], c.mouth_box) for c in clips]
    other = [identity_similarity(c.frames[:1], clips[k - 1].frames[0], c.mouth_box)[0] for k, c in enumerate(clips)]
    assert all(track[0] == pytest.approx(1.0) for track in own)
    assert min(track.min() for track in own) > 0.5 and np.mean(other) < 0.35  # measured 0.55 at full tilt; 0.24 for other people


def test_the_mouth_does_not_count_but_a_changed_hair_colour_does() -> None:
    clip = draw_clip(HELD_OUT_SEED + 1, head_action="stays still", face_action="")
    y0, y1, x0, x1 = clip.mouth_box
    portrait, changed = clip.frames[0], clip.frames[:1].copy()
    changed[:, y0 + 4 : y1 - 4, x0 + 4 : x1 - 4] = 0
    dyed = clip.frames[:1].copy()
    dyed[:, :20, :, 0] //= 2
    assert identity_similarity(changed, portrait, clip.mouth_box)[0] > 0.999
    assert identity_similarity(dyed, portrait, clip.mouth_box)[0] < 0.9


def test_drift_sees_a_picture_that_melts_and_none_in_a_true_long_clip() -> None:
    clip = draw_clip(HELD_OUT_SEED + 2, 49, head_action="stays still", face_action="")
    true = drift(clip.frames, clip.frames[0], clip.mouth_box)
    fading = np.stack([frame.astype(float) * (1 - k / 100) + 128 * k / 100 for k, frame in enumerate(clip.frames)]).astype(np.uint8)
    sliding = np.stack([shift(frame, (0, k / 12, 0), order=1, mode="nearest") for k, frame in enumerate(clip.frames)])
    assert abs(true.slope) < 0.1 and 0.93 < true.ratio < 1.07
    for broken in (fading, sliding):
        found = drift(broken, clip.frames[0], clip.mouth_box)
        assert found.slope < -0.3 and found.ratio < 0.9


def test_drift_of_a_straight_line_is_its_slope() -> None:
    found = drift_of(1.0 - 0.002 * np.arange(100))
    assert found.slope == pytest.approx(-0.2) and found.ratio == pytest.approx((1 - 0.002 * 87) / (1 - 0.002 * 12), rel=1e-9)


def test_identity_refuses_what_does_not_fit() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(InputError, match="portrait"):
        identity_similarity(frames, np.zeros((16, 16, 3), np.uint8), (8, 16, 8, 16))
    with pytest.raises(InputError, match="covers the whole"):
        identity_similarity(frames, frames[0], (0, 32, 0, 32))
