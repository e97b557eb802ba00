"""Mouth motion against the ground truth: as much of it, and opening as wide?

Correlation cannot tell a mouth that mumbles from one that speaks: it ignores scale. These ratios do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .identity import check_mask
from .mouth import Box, check_box, check_frames, mouth_amplitude

STILL_ENERGY = 1e-6
"""Energy, in squared levels, below which a mouth does not move."""
STILL_AMPLITUDE = 1e-9


@dataclass(frozen=True)
class MouthMotion:
    """Ratios to the truth, 1 = as much. `energy`: of `mouth_energy`; `amplitude`: of `mouth.mouth_amplitude`.

    Where the truth's mouth does not move there is no ratio: nan.
    """

    energy: float
    amplitude: float


def mouth_energy(frames: NDArray[np.uint8], box: Box) -> float:
    """Mean square change from frame to frame in the mouth box, in squared levels of 0..255; 0.0 for a single frame.

    Noise and flicker raise it as well, and scaling all motion by s scales it by s².

    Raises:
        InputError: frames or box cannot be used.
    """
    check_frames(frames)
    check_box(frames, box)
    y0, y1, x0, x1 = box
    steps = np.diff(frames[:, y0:y1, x0:x1].astype(np.float64), axis=0)
    return float((steps**2).mean()) if len(steps) else 0.0


def region_energy(frames: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """As `mouth_energy`, of the pixels of `where`, bool [H, W].

    Raises:
        InputError: the frames cannot be used, or the mask does not fit or is empty.
    """
    check_frames(frames)
    check_mask(frames, where)
    steps = np.diff(frames[:, where].astype(np.float64), axis=0)
    return float((steps**2).mean()) if len(steps) else 0.0


def mouth_motion(frames: NDArray[np.uint8], truth: NDArray[np.uint8], box: Box) -> MouthMotion:
    """Mouth motion of a clip relative to the truth's, both uint8 [T, H, W, 3].

    Raises:
        InputError: frames or box cannot be used, or the clips differ in shape.
    """
    if frames.shape != truth.shape:
        raise InputError(f"The clip has shape {frames.shape}, the truth {truth.shape}; they must be equal.")
    energy, wanted = mouth_energy(frames, box), mouth_energy(truth, box)
    opening, wanted_opening = mouth_amplitude(frames, box), mouth_amplitude(truth, box)
    return MouthMotion(
        energy=energy / wanted if wanted > STILL_ENERGY else float("nan"),
        amplitude=opening / wanted_opening if wanted_opening > STILL_AMPLITUDE else float("nan"),
    )
