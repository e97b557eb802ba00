"""How well a compiled program's tensors agree with full precision's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.psnr import cosine, max_abs, psnr
from .programs import Figures

Array = NDArray[Any]


def figures(reference: Array, measured: Array, peak: float | None = None) -> Figures:
    """PSNR (`peak`: the reference's range by default), cosine and largest difference; what is not finite, on either side, is no
    agreement."""
    reference, measured = np.asarray(reference, np.float64), np.asarray(measured, np.float64)
    if not (np.isfinite(measured).all() and np.isfinite(reference).all()):
        return Figures(psnr_db=0.0, cosine=0.0, max_abs=None)
    peak = peak or float(np.ptp(reference)) or 1.0
    return Figures(
        psnr_db=psnr(reference, measured, peak), cosine=cosine(reference, measured), max_abs=max_abs(reference, measured)
    )


def worst(found: Sequence[Figures]) -> Figures:
    """The lowest PSNR and cosine and the largest difference of several.

    Raises:
        InputError: there are none, and nothing is not agreement.
    """
    if not found:
        raise InputError("There are no figures; the worst of none would say nothing.")
    biggest = [f.max_abs for f in found]
    return Figures(
        psnr_db=min(f.psnr_db or 0.0 for f in found),
        cosine=min(f.cosine or 0.0 for f in found),
        max_abs=None if None in biggest else max(b for b in biggest if b is not None),
    )


def lowest(demands: Sequence[Figures]) -> Figures:
    """Of several demands what the most lenient asks for, field by field; what one of them does not ask for is not asked for."""

    def least(values: list[float | None], choose: Callable[[list[float]], float]) -> float | None:
        asked = [value for value in values if value is not None]
        return choose(asked) if asked and len(asked) == len(values) else None

    return Figures(
        psnr_db=least([d.psnr_db for d in demands], min),
        cosine=least([d.cosine for d in demands], min),
        max_abs=least([d.max_abs for d in demands], max),
    )


def demands(wanted: Figures) -> bool:
    """Whether anything is asked for."""
    return (wanted.psnr_db, wanted.cosine, wanted.max_abs) != (None, None, None)


def falls_short(found: Figures, wanted: Figures) -> bool:
    """Whether `found` misses anything that `wanted` asks for; empty fields ask for nothing."""
    return not (
        (wanted.psnr_db is None or (found.psnr_db is not None and found.psnr_db >= wanted.psnr_db))
        and (wanted.cosine is None or (found.cosine is not None and found.cosine >= wanted.cosine))
        and (wanted.max_abs is None or (found.max_abs is not None and found.max_abs <= wanted.max_abs))
    )
