"""Openness: how much of a clip is left to chance when all that is given stays the same?

It is read off several draws that share what is given, such as portrait, voice and prompt: of the drawn truth, or of a model from
several noises. A predictor of the mean, which is what a sampler of too few steps comes to, shows what draws have in common and
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .identity import check_mask
from .mouth import check_frames

CEILING_DB = 150.0
"""Of draws that are equal."""


@dataclass(frozen=True)
class Openness:
    """Of groups of draws, estimated without the bias of few draws.

    `diversity_db`: PSNR between two draws of a group. `motion`: mean square change from frame to frame, in squared levels.
    `open_share`: of the mean square change from the first frame, the part that draws do not have in common, 0..1.
    `motion_in_mean`: share of `motion` that the mean of all possible draws keeps.
    """

    diversity_db: float
    motion: float
    open_share: float
    motion_in_mean: float


def openness(groups: Iterable[tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]) -> Openness:
    """Of groups that weigh the same: draws uint8 [D, T, H, W, 3], and a mask bool [H, W] or None for the whole picture. Shares of
    nothing are nan.

    Raises:
        InputError: there is no group, or one has fewer than two draws or frames, or a mask that does not fit.
    """
    sums: list[tuple[float, ...]] = []
    for draws, where in groups:
        if draws.ndim != 5 or draws.shape[0] < 2 or draws.shape[1] < 2:
            raise InputError(f"Draws have shape {draws.shape}; give [D, T, H, W, 3] with two draws of two frames at least.")
        check_frames(draws[0])
        mask = np.ones(draws.shape[2:4], bool) if where is None else where
        check_mask(draws[0], mask)
        pixels = draws[:, :, mask].astype(np.float64)
        away, steps = pixels[:, 1:] - pixels[:, :1], np.diff(pixels, axis=1)
        chance = [values.var(axis=0, ddof=1).mean() for values in (pixels[:, 1:], away, steps)]
        sums.append((*map(float, chance), float((away**2).mean()), float((steps**2).mean())))
    if not sums:
        raise InputError("There are no draws to compare; give at least one group.")
    between, apart, unshared, change, motion = np.mean(np.asarray(sums), axis=0).tolist()
    return Openness(
        diversity_db=min(CEILING_DB, float(10.0 * np.log10(255.0**2 / max(2.0 * between, 1e-12)))),
        motion=motion,
        open_share=apart / change if change > 0.0 else float("nan"),
        motion_in_mean=1.0 - unshared / motion if motion > 0.0 else float("nan"),
    )
