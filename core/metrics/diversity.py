"""How much clips of one request differ, and how much each of them moves: what a sampler of few steps loses first.

A sampler that gives the mean of what is possible looks right wherever one answer is, and grey, still and always alike where many
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .mouth import check_frames


def diversity(clips: Sequence[NDArray[np.uint8]]) -> float:
    """Mean size of the differences between clips [T, H, W, 3] that were made of one request by different noise, in levels of
    0 … 255: 0.0 where noise changes nothing.

    Raises:
        InputError: there are fewer than two clips, or they differ in shape.
    """
    if len(clips) < 2:
        raise InputError(f"Diversity is asked of {len(clips)} clip; it takes two that were made of one request.")
    for clip in clips:
        check_frames(clip)
        if clip.shape != clips[0].shape:
            raise InputError(f"Clips of one request have the shapes {clip.shape} and {clips[0].shape}; they must be equal.")
    return float(np.mean([np.abs(a.astype(np.float64) - b).mean() for a, b in combinations(clips, 2)]))


def motion(clip: NDArray[np.uint8]) -> float:
    """Mean size of the change from frame to frame, in levels of 0 … 255; 0.0 for a single frame.

    Raises:
        InputError: the clip cannot be used.
    """
    check_frames(clip)
    changes = np.abs(np.diff(clip.astype(np.float64), axis=0))
    return float(changes.mean()) if len(changes) else 0.0
