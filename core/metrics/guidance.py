"""What an error in the velocities does under guidance, which multiplies the difference of its branches.

A step evaluates branches b with weights g_b that sum to 1; the conditional branch c has the largest. Guidance moves the clip along
Σ_b g_b v_b = v_c + d, where d = Σ_b g_b (v_b - v_c) is the guided direction: small beside v_c, and made of differences, so that
errors which differ between branches weigh more in it than in any velocity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Velocities = Mapping[int, NDArray[np.floating]]  # of one step, by branch; any shape, the same for all


@dataclass(frozen=True)
class GuidanceError:
    """Energies of errors relative to those of what they are errors of, over all steps; 0 = equal.

    `velocity`: of every branch's velocity. `guided`: of the guided velocity. `direction`: of the guided direction; 0 where no step
    is guided.
    """

    velocity: float
    guided: float
    direction: float


def guidance_error(
    weights: Sequence[Sequence[float]], reference: Sequence[Velocities], measured: Sequence[Velocities]
) -> GuidanceError:
    """Step i has `weights[i][b]` for each branch b, and velocities of the branches whose weight is not 0.

    Raises:
        InputError: steps, branches or shapes of reference and measured differ.
    """
    if not len(weights) == len(reference) == len(measured) or not weights:
        raise InputError(
            f"There are {len(weights)} steps of weights, {len(reference)} of velocities, {len(measured)} of measured ones."
        )
    wrong, whole = np.zeros(3), np.zeros(3)
    for row, wanted, found in zip(weights, reference, measured, strict=True):
        if wanted.keys() != found.keys() or any(wanted[b].shape != found[b].shape for b in wanted):
            raise InputError(f"Velocities of branches {sorted(wanted)} were measured as {sorted(found)}, or in other shapes.")
        conditional = max(wanted, key=lambda b: row[b])
        exact = {b: np.asarray(v, np.float64) for b, v in wanted.items()}
        error = {b: np.asarray(found[b], np.float64) - exact[b] for b in exact}
        for parts, total in ((error, wrong), (exact, whole)):
            total += (
                sum(_energy(part) for part in parts.values()),
                _energy(np.sum([row[b] * part for b, part in parts.items()], axis=0)),
                _energy(np.sum([row[b] * (part - parts[conditional]) for b, part in parts.items()], axis=0)),
            )
    velocity, guided, direction = (float(e / w) if w > 0 else 0.0 for e, w in zip(wrong, whole, strict=True))
    return GuidanceError(velocity, guided, direction)


def _energy(x: NDArray[np.float64]) -> float:
    return float(np.vdot(x, x))
