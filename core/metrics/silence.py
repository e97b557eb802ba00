"""The mouth where nobody speaks: does it stay shut, and still?

Both figures are shares of what the same mouth does in speech, in the same clip: an opening measured in pixels means nothing by
itself. What counts as shut is taken from the speech as well, so that a mouth hanging open in silence is seen, though it is still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

SHUT = 5.0
"""Percentile of the opening in speech that counts as shut: between syllables a mouth closes."""
STILL = 1e-9


@dataclass(frozen=True)
class Silence:
    """Shares of what the mouth does in speech.

    `opening`: how far it is open on average, above what is shut: 0 shut, 1 as in speech, below 0 closer than between syllables.
    `motion`: the opening's standard deviation. Heads that turn move the lips inside their box, so that a shut mouth is not at 0.
    """

    opening: float
    motion: float


def silence(opening: NDArray[np.floating], spoken: NDArray[np.bool_], quiet: NDArray[np.bool_]) -> Silence:
    """The mouth in the frames `quiet` against those `spoken`, booleans [T]; `opening` [T] as `mouth.mouth_opening` measures it.

    Raises:
        InputError: the tracks differ in shape, or there are fewer than two frames of either kind.
    """
    if not opening.shape == spoken.shape == quiet.shape or opening.ndim != 1:
        raise InputError(f"The tracks have shapes {opening.shape}, {spoken.shape} and {quiet.shape}; they must all be [T].")
    if min(spoken.sum(), quiet.sum()) < 2:
        raise InputError(f"{spoken.sum()} frames are spoken and {quiet.sum()} are quiet; give at least 2 of each.")
    speaking, resting = (np.asarray(opening[frames], np.float64) for frames in (spoken, quiet))
    shut = float(np.percentile(speaking, SHUT))
    wide = max(float(speaking.mean()) - shut, STILL)
    return Silence((float(resting.mean()) - shut) / wide, float(resting.std()) / max(float(speaking.std()), STILL))
