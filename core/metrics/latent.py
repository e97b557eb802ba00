"""Latent error: how far compressed or shortened sampling strays from full precision, before the decoder hides it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def latent_error(latents: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """‖latents - reference‖ / ‖reference‖ for two arrays of one shape, sampled from the same noise: 0 = equal.

    Independent latents of equal size give about √2. Not-a-number anywhere gives nan.

    Raises:
        InputError: shapes differ, or the reference is empty or zero.
    """
    if latents.shape != reference.shape or reference.size == 0:
        raise InputError(
            f"The latents have shape {latents.shape}, the reference {reference.shape}; they must be equal and not empty."
        )
    wanted = np.asarray(reference, np.float64)
    size = float(np.linalg.norm(wanted))
    if size == 0.0:
        raise InputError("The reference latents are all 0; an error relative to them has no meaning.")
    return float(np.linalg.norm(np.asarray(latents, np.float64) - wanted)) / size
