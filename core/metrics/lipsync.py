"""Lip-sync: does the mouth open when the audio is loud, and does it open on time?

Per clip it is Pearson's correlation, without a lag, between the mouth opening measured from the pixels (`mouth.mouth_opening`)
and the audio's loudness per frame (`voice.envelope`). Correlation is taken per clip: pooled over clips it would compare
faces. As a control, `shuffled_lipsync` scores every clip against other clips' audio; it must be near 0.

`lag` repeats it with the audio moved by up to `LAGS` frames and says where it is highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .mouth import Box, mouth_opening
from .voice import FPS, SAMPLE_RATE, envelope

STILL = 1e-6
"""Standard deviation below which a track is constant; the correlation is then 0 by definition."""

LAGS = 8
"""Frames by which `lag` moves the audio to either side: a third of a second at 25 fps, about a syllable."""


@dataclass(frozen=True)
class Lag:
    """`frames` by which the audio comes after the mouth (negative: before it), the correlation there, and without a lag."""

    frames: int
    correlation: float
    at_zero: float


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson's correlation of two tracks [T], in -1..1; 0.0 where either is constant (standard deviation below `STILL`).

    Raises:
        InputError: the tracks differ in shape or are not one-dimensional.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"Tracks have shapes {a.shape} and {b.shape}; they must both be [T].")
    da, db = np.asarray(a, np.float64) - np.mean(a, dtype=np.float64), np.asarray(b, np.float64) - np.mean(b, dtype=np.float64)
    sa, sb = float(np.sqrt(np.mean(da**2))), float(np.sqrt(np.mean(db**2)))
    if sa < STILL or sb < STILL:
        return 0.0
    return float(np.clip(np.mean(da * db) / (sa * sb), -1.0, 1.0))


def lipsync(
    frames: NDArray[np.uint8], waveform: NDArray[np.floating], mouth_box: Box, fps: int = FPS, sample_rate: int = SAMPLE_RATE
) -> float:
    """Lip-sync of one clip, in -1..1: uint8 frames [T, H, W, 3] against mono samples. A still mouth and silence give 0.0.

    Raises:
        InputError: the frames, the box or the waveform cannot be used.
    """
    return correlation(mouth_opening(frames, mouth_box), envelope(waveform, len(frames), fps, sample_rate))


def lag_curve(opening: NDArray[np.floating], loudness: NDArray[np.floating], most: int = LAGS) -> NDArray[np.float64]:
    """Correlation of opening[t] with loudness[t + k] for k in -most..most, each over the frames that overlap: [2 * most + 1].

    A lag that leaves fewer than half of the frames, and at least 3, is not judged: its place holds -inf, except k = 0.

    Raises:
        InputError: the tracks differ in shape or are not one-dimensional, or `most` is negative.
    """
    if most < 0:
        raise InputError(f"The largest lag is {most}; it must be at least 0.")
    frames = len(opening)
    curve = np.full(2 * most + 1, -np.inf)
    curve[most] = correlation(opening, loudness)
    for k in range(1, most + 1):
        if frames - k >= max(3, frames / 2):
            curve[most + k] = correlation(opening[:-k], loudness[k:])
            curve[most - k] = correlation(opening[k:], loudness[:-k])
    return curve


def lag_of(opening: NDArray[np.floating], loudness: NDArray[np.floating], most: int = LAGS) -> Lag:
    """The lag at which two tracks [T] agree best; of equals the one nearest to 0, so a constant track gives 0.

    Raises:
        InputError: as `lag_curve`.
    """
    curve = lag_curve(opening, loudness, most)
    ks = sorted(range(-most, most + 1), key=abs)
    best = max(ks, key=lambda k: curve[most + k])  # max keeps the first of equals
    return Lag(best, float(curve[most + best]), float(curve[most]))


def lag(
    frames: NDArray[np.uint8],
    waveform: NDArray[np.floating],
    mouth_box: Box,
    fps: int = FPS,
    sample_rate: int = SAMPLE_RATE,
    most: int = LAGS,
) -> Lag:
    """`lag_of` for a clip: uint8 frames [T, H, W, 3] against mono samples.

    Speech repeats itself every 6 to 12 frames, so a single second can agree with a neighbouring syllable; judge several clips
    by their median, or clips of two seconds and more.

    Raises:
        InputError: as `lipsync`, or `most` is negative.
    """
    return lag_of(mouth_opening(frames, mouth_box), envelope(waveform, len(frames), fps, sample_rate), most)


def shuffled_lipsync(
    clips: Sequence[tuple[NDArray[np.uint8], NDArray[np.floating], Box]],
    shifts: int = 8,
    fps: int = FPS,
    sample_rate: int = SAMPLE_RATE,
) -> float:
    """Mean lip-sync of every clip against the audio of other clips.

    The clips are (frames, waveform, mouth_box). `shifts` rotations of the list, spread evenly, pair each clip with another's audio,
    never with its own. Use at least 24 clips: one shift of 24 clips of a second
    is off by up to 0.13, eight are within 0.06 (measured on drawn clips).

    Raises:
        InputError: there are fewer than two clips, or `shifts` is below 1.
    """
    count = len(clips)
    if count < 2 or shifts < 1:
        raise InputError(f"Shuffling {count} clips with {shifts} shifts is impossible; give at least 2 clips and 1 shift.")
    openings = [mouth_opening(frames, box) for frames, _, box in clips]
    used = sorted({1 + round(k * (count - 2) / max(1, shifts - 1)) for k in range(shifts)})
    scores = [
        correlation(opening, envelope(clips[(index + shift) % count][1], len(opening), fps, sample_rate))
        for shift in used
        for index, opening in enumerate(openings)
    ]
    return float(np.mean(scores))
