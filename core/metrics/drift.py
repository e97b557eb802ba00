"""Drift: does a long clip lose the person as time goes on?

Long videos are made window by window, and errors can add up: colours shift, features melt. Drift is read off the identity track.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .identity import identity_similarity
from .mouth import Box


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
