"""Seams: does a long clip jump where one window ends and the next begins?

The change from frame to frame is small and even while a person speaks. Where windows are cut hard, the head leaps from the end of
one window's movement to the start of the next one's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .mouth import check_frames

STILL = 0.05
"""Mean squared change, in levels², below which a clip counts as still; the ratio is taken against at least this."""


def changes_over(frames: NDArray[np.uint8], reach: int = 1) -> NDArray[np.float64]:
    """Mean squared change from each frame to the one `reach` later: uint8 [T, H, W, 3] -> float64 [T - reach], in levels².

    Raises:
        InputError: frames have another shape or type, or there are not more of them than `reach`, which is at least 1.
    """
    check_frames(frames)
    if not 1 <= reach < len(frames):
        raise InputError(f"reach is {reach} in a clip of {len(frames)} frames; it must be at least 1 and less than the frames.")
    pairs = zip(frames[:-reach], frames[reach:], strict=True)
    return np.asarray([((later.astype(np.float64) - earlier) ** 2).mean() for earlier, later in pairs])


def seam_jump(frames: NDArray[np.uint8], seams: Sequence[int], reach: int = 1) -> float:
    """How many times larger the change across each seam is than changes that cross none, on average: about 1 where nothing is seen.

    A seam is the first frame of what comes after it. The later frame is `reach` on from the earlier: 1 for cuts in pixels, 4 for
    cuts in latents, which the decoder spreads over the four frames of a latent.

    Raises:
        InputError: as `changes_over`, or a seam is not a frame after the first with `reach` frames behind it, or no change is
            without a seam.
    """
    changes = changes_over(frames, reach)
    at = np.array(sorted(set(seams)), int)
    if not len(at) or at[0] < 1 or at[-1] > len(frames) - reach:
        raise InputError(f"The seams {list(seams)} must be frames between 1 and {len(frames) - reach}, at least one.")
    crossing = np.array([bool(((at > start) & (at <= start + reach)).any()) for start in range(len(changes))])
    if crossing.all():
        raise InputError(f"Every change over {reach} frames crosses a seam; there is nothing to compare them with.")
    return float(changes[at - 1].mean() / max(STILL, changes[~crossing].mean()))
