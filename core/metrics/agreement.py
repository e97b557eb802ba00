"""How well a compiled program's tensors agree with full precision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Figures
from .psnr import cosine, max_abs, psnr

Array = NDArray[Any]


def figures(reference: Array, measured: Array) -> Figures:
    """PSNR (peak: the reference's range), cosine and largest difference; NaN anywhere counts as no agreement."""
    reference, measured = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if not np.isfinite(measured).all():
        return Figures(psnr_db=0.0, cosine=0.0, max_abs=None)
    peak = float(np.ptp(reference)) or 1.0
    return Figures(
        psnr_db=psnr(reference, measured, peak), cosine=cosine(reference, measured), max_abs=max_abs(reference, measured)
    )


def worst(found: Sequence[Figures]) -> Figures:
    """The lowest PSNR and cosine and the largest difference of several."""
    biggest = [f.max_abs for f in found]
    return Figures(
        psnr_db=min(f.psnr_db or 0.0 for f in found),
        cosine=min(f.cosine or 0.0 for f in found),
        max_abs=None if None in biggest else max(b for b in biggest if b is not None),
    )


def falls_short(found: Figures, wanted: Figures) -> bool:
    """Whether `found` misses anything that `wanted` asks for; empty fields ask for nothing."""
    return not (
        (wanted.psnr_db is None or (found.psnr_db is not None and found.psnr_db >= wanted.psnr_db))
        and (wanted.cosine is None or (found.cosine is not None and found.cosine >= wanted.cosine))
        and (wanted.max_abs is None or (found.max_abs is not None and found.max_abs <= wanted.max_abs))
    )
