"""How close two arrays are: PSNR, cosine similarity and the largest difference, computed in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

CAP = 150.0
"""PSNR in dB of identical arrays, and the largest that `psnr` returns: a finite figure for reports. Rounding alone gives 140."""


def _pair(a: NDArray[np.generic], b: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape:
        raise InputError(f"The arrays have shapes {a.shape} and {b.shape}; they must be equal.")
    if a.size == 0:
        raise InputError("The arrays are empty; there is nothing to compare.")
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def psnr(a: NDArray[np.generic], b: NDArray[np.generic], peak: float | None = None) -> float:
    """Peak signal-to-noise ratio of `b` against the reference `a`, in dB, at most `CAP`.

    `peak` is the signal's range: 255 for uint8 where left out, otherwise the range (max - min) of `a`. Not-a-number anywhere gives
    nan.

    Raises:
        InputError: shapes differ, arrays are empty, or the peak is not positive (a constant float reference needs an explicit one).
    """
    if peak is None:
        peak = 255.0 if a.dtype == np.uint8 else float(np.ptp(np.asarray(a, np.float64))) if a.size else 1.0
    if peak <= 0.0:
        raise InputError(f"The peak is {peak}; it must be above 0. Give the range of the signal, for example peak=255.")
    x, y = _pair(a, b)
    error = float(np.mean((x - y) ** 2))
    if error == 0.0:
        return CAP
    return float(np.minimum(CAP, 10.0 * np.log10(peak * peak / error)))  # np.minimum keeps nan, min() would hide it


def in_words(decibels: float | None) -> str:
    """A PSNR for people; of None, which was not measured, a dash."""
    return "–" if decibels is None else f"≥ {CAP:.0f} dB" if decibels >= CAP else f"{decibels:.1f} dB"


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Cosine of the angle between two arrays as vectors, -1..1; 1.0 where both are zero, 0.0 where only one is.

    Raises:
        InputError: shapes differ or the arrays are empty.
    """
    x, y = (v.ravel() for v in _pair(a, b))
    nx, ny = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if nx == 0.0 or ny == 0.0:
        return 1.0 if nx == ny else 0.0
    return float(np.clip(np.dot(x / nx, y / ny), -1.0, 1.0))


def max_abs(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """The largest absolute difference.

    Raises:
        InputError: shapes differ or the arrays are empty.
    """
    x, y = _pair(a, b)
    return float(np.abs(x - y).max())
