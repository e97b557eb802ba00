"""Cases recorded from upstream: where they lie, which are complete, and how far a result is from one.

The full set lies beside the repository; a selection travels in tests/data/upstream. ECHOEDGE_GOLDENS names another folder.
A case is `<name>.json` with its tensors in `<name>.safetensors` and perhaps a file of weights; one that lacks a file is not listed.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from safetensors.torch import load_file
from torch import Tensor

REPO = Path(__file__).resolve().parents[2]
FULL_SET, SMALL_SET = REPO.parent / "shared" / "goldens", REPO / "tests" / "data" / "upstream"
GOLDENS = Path(os.environ.get("ECHOEDGE_GOLDENS", FULL_SET if FULL_SET.is_dir() else SMALL_SET)).resolve()

Case = dict[str, Any]


@cache
def _descriptions() -> dict[str, Case]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(GOLDENS.glob("*.json"))}


def golden(name: str) -> Case:
    """The description of one case; a KeyError if this set has none of that name."""
    return _descriptions()[name]


def _complete(name: str, case: Case) -> bool:
    files = [f"{name}.safetensors", case.get("weights")]
    return all((GOLDENS / file).is_file() for file in files if file)


def golden_names(*kinds: str, with_tensors: bool = True) -> list[str]:
    """The names of all cases of these kinds; without `with_tensors` a description is enough."""
    found = [name for name, case in _descriptions().items() if case["kind"] in kinds]
    return [name for name in found if not with_tensors or _complete(name, golden(name))]


def golden_tensors(name: str) -> dict[str, Tensor]:
    """The tensors of one case: in/*, out/*, mid/*."""
    return load_file(GOLDENS / f"{name}.safetensors")


def golden_weights(name: str) -> dict[str, Tensor]:
    """The weights that one case was recorded with, under upstream's names."""
    return load_file(GOLDENS / golden(name)["weights"])


def excess(ours: ArrayLike, theirs: ArrayLike, tolerance: dict[str, Any], absmax: float | None = None) -> float:
    """The largest error as a multiple of what a case's tolerance allows; above 1 is a failure.

    `absmax`: the scale of the absolute part, where it is not the maximum of `theirs`.
    """
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {ours.shape}, theirs {theirs.shape}")
    if tolerance["type"] == "exact":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    if tolerance["type"] != "allclose":
        raise ValueError(f"no rule for the tolerance {tolerance}")
    scale = abs(theirs).max() if absmax is None else absmax
    allowed = tolerance["rtol"] * abs(theirs) + tolerance["atol_times_absmax"] * scale
    return float((abs(ours - theirs) / allowed).max())
