"""Drift: does a long clip lose the person, or the place, as time goes on?

Long videos are made window by window, and errors can add up: colours shift, features melt. Drift is read off the identity track,
and off the background, which ought to stay what it was in the first second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .identity import check_mask, identity_similarity
from .mouth import Box, check_frames

CEILING_DB = 60.0
"""PSNR from which a second counts as unchanged: rounding to 8 bits alone gives 58.9 dB."""


@dataclass(frozen=True)
class Drift:
    """How identity changes over a clip.

    `slope` is the least-squares change of similarity per 100 frames (negative = getting worse). `ratio` is the mean similarity of
    the last quarter over that of the first (1 = no drift).
    """

    slope: float
    ratio: float


def drift_of(similarity: NDArray[np.floating]) -> Drift:
    """Drift of a track of identity similarities [T].

    Raises:
        InputError: the track is shorter than 8 frames or not one-dimensional.
    """
    if similarity.ndim != 1 or len(similarity) < 8:
        raise InputError(f"The similarity track has shape {similarity.shape}; drift needs [T] with at least 8 frames.")
    track = np.asarray(similarity, np.float64)
    time = np.arange(len(track)) - (len(track) - 1) / 2
    quarter = len(track) // 4
    first, last = float(track[:quarter].mean()), float(track[-quarter:].mean())
    return Drift(slope=float(time @ track / (time @ time)) * 100.0, ratio=last / max(first, 1e-6))


def drift(frames: NDArray[np.uint8], portrait: NDArray[np.uint8], mouth_box: Box) -> Drift:
    """Drift of uint8 frames [T, H, W, 3] from the portrait [H, W, 3], outside the mouth box.

    Raises:
        InputError: as `identity_similarity`, or the clip is shorter than 8 frames.
    """
    return drift_of(identity_similarity(frames, portrait, mouth_box))


@dataclass(frozen=True)
class BackgroundDrift:
    """PSNR in dB of each full second's background to the mean picture of the first second, at most `CEILING_DB`.

    `slope_db_per_s` is its least-squares change (negative = getting worse); `change_db` is the last second minus the first.
    """

    psnr_db: tuple[float, ...]
    slope_db_per_s: float
    change_db: float


def background_drift(frames: NDArray[np.uint8], background: NDArray[np.bool_], fps: int = 25) -> BackgroundDrift:
    """Drift of uint8 frames [T, H, W, 3] within the mask `background` [H, W]. Frames after the last full second do not count.

    The first second is compared with its own mean, so flicker lowers every second alike and does not count as drift.

    Raises:
        InputError: the clip is shorter than two seconds, or the mask does not fit or is empty.
    """
    check_frames(frames)
    check_mask(frames, background)
    seconds = len(frames) // fps if fps > 0 else 0
    if seconds < 2:
        raise InputError(f"The clip has {len(frames)} frames at {fps} fps; drift per second needs at least two seconds.")
    pixels = frames[: seconds * fps, background].astype(np.float64)
    error = ((pixels - pixels[:fps].mean(axis=0)) ** 2).reshape(seconds, -1).mean(axis=1)
    track = np.minimum(CEILING_DB, 10.0 * np.log10(255.0**2 / np.maximum(error, 1e-9)))
    time = np.arange(seconds) - (seconds - 1) / 2
    return BackgroundDrift(tuple(float(v) for v in track), float(time @ track / (time @ time)), float(track[-1] - track[0]))
