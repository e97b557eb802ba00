"""Cases recorded from upstream: where they lie, what a check of them is, and how far a result is from one.

A case is `<name>.json` with its tensors in `<name>.safetensors` (in/* inputs, out/* what has to match, mid/* for debugging) and
perhaps files of weights. Where upstream raised an error, `results` says `"error": "what it said"`, and there are no out/*.
The folder is ECHOEDGE_GOLDENS, else the full set beside the repository, else the committed selection.
A check, one per kind, runs product code on a case and yields what has to agree; `faults` judges it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from safetensors.torch import load_file
from torch import Tensor

from echoedge.core.errors import EchoEdgeError

REPO = Path(__file__).resolve().parents[2]
FULL_SET, SMALL_SET = REPO.parent / "shared" / "goldens", REPO / "tests" / "data" / "upstream"
FOLDER = Path(os.environ.get("ECHOEDGE_GOLDENS") or (FULL_SET if FULL_SET.is_dir() else SMALL_SET)).resolve()
PLACEHOLDER = "out/dummy"  # one zero, recorded where a case has results and no tensors: there is nothing to compare

Array = np.ndarray[Any, np.dtype[Any]]


class GoldenError(Exception):
    """A case is incomplete or cannot be read; the message names the file."""


# ---- 1. Cases -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """One case; `data` is its parsed description."""

    name: str
    folder: Path
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.data.get("kind"))

    @property
    def call(self) -> dict[str, Any]:
        return self.data.get("call") or {}

    @property
    def config(self) -> dict[str, Any]:
        return self.data.get("config") or {}

    @property
    def results(self) -> dict[str, Any]:
        return self.data.get("results") or {}

    @property
    def error(self) -> str | None:
        """What upstream raised, in its own words; None where it returned something."""
        return self.results.get("error")

    @property
    def tolerance(self) -> dict[str, Any]:
        """`type` (exact, allclose or max_abs_diff) and its numbers."""
        return _rule(self.data.get("tolerance") or {})

    def tensors(self) -> dict[str, Tensor]:
        """in/*, out/* and mid/*; GoldenError if there is no such file."""
        return self._load(self.tensors_path)

    def weights(self, part: str | None = None) -> dict[str, Tensor]:
        """The weights that the case was recorded with, under upstream's names; `part` where it has several files."""
        files = self.data.get("weights")
        if part is not None:
            files = files.get(part) if isinstance(files, dict) else None
        if not isinstance(files, str):
            raise GoldenError(f"{self.name} has the weights {self.data.get('weights')}; there is no file for part {part!r}.")
        return self._load(self.folder / files)

    @property
    def tensors_path(self) -> Path:
        return self.folder / (self.data.get("tensors_file") or f"{self.name}.safetensors")

    @property
    def files(self) -> list[Path]:
        """What the case consists of: the tensors, the description, and the files of weights that it names."""
        weights = self.data.get("weights")
        parts = weights.values() if isinstance(weights, dict) else [weights]
        names = [name for name in parts if isinstance(name, str) and name.endswith(".safetensors")]
        return [self.tensors_path, self.folder / f"{self.name}.json", *(self.folder / name for name in names)]

    def missing(self) -> list[Path]:
        return [path for path in self.files if not path.is_file()]

    def _load(self, path: Path) -> dict[str, Tensor]:
        if not path.is_file():
            raise GoldenError(f"{self.name} needs {path}, which is not there.")
        try:
            return load_file(path)
        except Exception as error:
            raise GoldenError(f"{path} cannot be read: {error}.") from error


@cache
def cases(folder: Path = FOLDER) -> tuple[Golden, ...]:
    """Every case of a folder by name; the descriptions of weight files are none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text())
        except ValueError as error:
            raise GoldenError(f"{path} is not JSON: {error}.") from error
        if isinstance(data, dict) and data.get("kind") != "weights":
            found.append(Golden(path.stem, folder, data))
    return tuple(found)


def goldens(*kinds: str) -> list[Golden]:
    """The folder's cases of these kinds."""
    return [case for case in cases() if case.kind in kinds]


def golden(name: str) -> Golden:
    """The case of that name in the folder, or else in the committed selection."""
    for folder in (FOLDER, SMALL_SET):
        for case in cases(folder):
            if case.name == name:
                return case
    raise GoldenError(f"There is no case {name} in {FOLDER} or {SMALL_SET}.")


# ---- 2. Distances ---------------------------------------------------------------------------------------------------------------


def _numbers(values: ArrayLike | Tensor) -> Array:
    """As float64, which holds every recorded type exactly: bfloat16, bool, and whole numbers below 2^53."""
    return values.detach().cpu().double().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float64)


def _rule(tolerance: dict[str, Any]) -> dict[str, Any]:
    """With the key `type`, which some cases call `kind`."""
    return tolerance if "type" in tolerance else {"type" if key == "kind" else key: value for key, value in tolerance.items()}


def _allowed(theirs: Array, tolerance: dict[str, Any], absmax: float | None) -> Array:
    match _rule(tolerance):
        case {"type": "exact"}:
            return np.zeros_like(theirs)
        case {"type": "allclose", "rtol": rtol, "atol_times_absmax": atol, **other} if not other:
            scale = np.max(np.abs(theirs), initial=0.0) if absmax is None else absmax
            return rtol * np.abs(theirs) + atol * scale
        case {"type": "max_abs_diff", "value": value}:
            return np.full_like(theirs, value)
    raise ValueError(f"There is no rule for the tolerance {tolerance}.")


def errors(ours: ArrayLike | Tensor, theirs: ArrayLike | Tensor, tolerance: dict[str, Any], absmax: float | None = None) -> Array:
    """Every element's error as a multiple of what the tolerance allows; infinite where it allows none or a side is not a number.

    `absmax`: the scale of allclose's absolute part, where it is not the maximum of `theirs`.
    """
    a, b = _numbers(ours), _numbers(theirs)
    if a.shape != b.shape:
        raise ValueError(f"ours is {a.shape}, theirs {b.shape}")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        excesses = np.abs(a - b) / _allowed(b, tolerance, absmax)
    return np.where(same, 0.0, np.where(np.isnan(excesses), np.inf, excesses))


def excess(ours: ArrayLike | Tensor, theirs: ArrayLike | Tensor, tolerance: dict[str, Any], absmax: float | None = None) -> float:
    """The largest of `errors`; above 1 is a failure."""
    return float(np.max(errors(ours, theirs, tolerance, absmax), initial=0.0))


# ---- 3. Checks ------------------------------------------------------------------------------------------------------------------

Comparison = tuple[str, Any, Any]  # what, ours, theirs: a tensor or array is judged by the case's tolerance, anything else by ==
Check = Callable[[Golden], Iterable[Comparison]]
CHECKS: dict[str, Check] = {}


def check(*kinds: str) -> Callable[[Check], Check]:
    """Registers a function as the check of these kinds. It yields every out/* tensor under its name, and the results."""

    def register(function: Check) -> Check:
        for kind in kinds:
            if kind in CHECKS:
                raise ValueError(f"Kind {kind!r} has two checks: {CHECKS[kind].__module__} and {function.__module__}.")
            CHECKS[kind] = function
        return function

    return register


def fault(comparison: Comparison, tolerance: dict[str, Any]) -> str | None:
    """What is wrong with one comparison, in a sentence; None if it agrees."""
    what, ours, theirs = comparison
    if not isinstance(theirs, (Tensor, np.ndarray)):
        return None if bool(ours == theirs) else f"{what}: ours is {ours!r}, theirs {theirs!r}."
    a, b = _numbers(ours), _numbers(theirs)
    if a.shape != b.shape:
        return f"{what}: ours has the shape {a.shape}, theirs {b.shape}."
    excesses = errors(a, b, tolerance)
    if not excesses.size or excesses.max() <= 1.0:
        return None
    index = tuple(int(i) for i in np.unravel_index(excesses.argmax(), excesses.shape))
    return (
        f"{what}: {int((excesses > 1.0).sum())} of {excesses.size} elements are off, the worst by {excesses.max():.4g} times the "
        f"tolerance at {index}: ours is {a[index]!r}, theirs {b[index]!r}."
    )


def _error_faults(case: Golden) -> list[str]:
    """What is wrong with a case of which upstream made an error: anything but an error that a user can mend."""
    instead = "nothing was"
    try:
        for _ in CHECKS[case.kind](case):
            pass
    except EchoEdgeError:
        return []
    except Exception as error:
        instead = f"{type(error).__name__} was, which is none ({error})"
    return [f"{case.name}: upstream raised {case.error!r}; an EchoEdgeError has to be raised here, and {instead}."]


def faults(case: Golden) -> list[str]:
    """All that is wrong with a case: nothing if each comparison of its kind's check agrees and none is left out, or, where upstream
    raised an error, if the check raises one of EchoEdge's own."""
    if case.kind not in CHECKS:
        return [f"{case.name} is of the kind {case.kind!r}, which has no check. Known kinds: {', '.join(sorted(CHECKS))}."]
    if missing := case.missing():
        return [f"{case.name} lacks {', '.join(map(str, missing))}."]
    if case.error is not None:
        return _error_faults(case)
    comparisons = list(CHECKS[case.kind](case))
    if not comparisons:
        return [f"{case.name}: the check of {case.kind!r} compared nothing."]
    found = [f"{case.name}, {text}" for text in (fault(comparison, case.tolerance) for comparison in comparisons) if text]
    compared = {what for what, _, _ in comparisons} | {PLACEHOLDER}
    left_out = sorted(name for name in case.tensors() if name.startswith("out/") and name not in compared)
    if left_out:
        found.append(f"{case.name}: the check of {case.kind!r} left out {', '.join(left_out)}.")
    return found
