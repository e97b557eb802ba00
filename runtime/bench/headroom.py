"""How near half precision comes to its end: the recorded calls of a bundle of Core ML packages, every result looked at.

Each program is interpreted with results rounded as the file declares them; sums inside an operator, which a chip may keep in half
precision, are not seen. A stress test multiplies what programs are given, for voices and pictures that are larger than those on
record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...core.bundle import Bundle
from ...core.bundle.golden import compare
from ...core.errors import ConfigError
from ...core.plan import check_number
from ..engines.base import program_called
from ..engines.mil.engine import Programs
from ..engines.mil.observed import LARGEST_HALF, Observations, Observed
from ..engines.mil.ops import OPERATORS
from ..verify.parity import read_golden

MASKS = 20_000.0  # what is larger, in an input, stands for minus infinity and is not multiplied


@dataclass(frozen=True)
class Headroom:
    """A method over all of its recorded calls. `largest`: magnitude of the largest finite result, of the operator `of`;
    `overflows`: the first operator with a result that is not finite, and where; `subnormal`: how many operators have results that
    hardware may take for zero."""

    program: str
    method: str
    operators: int
    largest: float
    of: str
    overflows: str | None
    subnormal: int

    @property
    def times(self) -> float:
        """By what the largest result could grow."""
        return LARGEST_HALF / self.largest if self.largest else float("inf")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def headrooms(bundle: Bundle, stress: float = 1.0, progress: Callable[[str, int, int], None] = lambda *_: None) -> list[Headroom]:
    """Of every method that is on record, in the order of the record. `stress`: what floats among the inputs are multiplied by.

    Raises:
        ConfigError: the bundle is for another target, or `stress` is out of range.
    """
    if bundle.manifest.target.name != "coreml":
        raise ConfigError(
            f"The bundle was compiled for {bundle.manifest.target.name}; headroom is asked of half precision, of bundles of the "
            "target coreml."
        )
    check_number("stress", stress, 1e-3, 1e6)
    golden, programs, seen = read_golden(bundle), Programs("fp16"), dict[tuple[str, str], Observations]()

    def run(name: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        record = program_called(bundle, name, method, bundle.clip)
        tap = seen.setdefault((name, method), Observations())
        given, known = [_stressed(x, stress) for x in inputs], record.methods[method]
        return programs.run(bundle.path(record.path), record.prefix + method, given, tap, known)

    names = list(golden.index["programs"])
    with np.errstate(all="ignore"):
        compare(golden, run, done=lambda name, _: progress("programs", names.index(name) + 1, len(names)))
    return [headroom_of(name, method, observed.records) for (name, method), observed in seen.items()]


def _stressed(array: Any, stress: float) -> Any:
    if stress == 1.0 or not np.issubdtype(array.dtype, np.floating):
        return array
    return np.where(np.abs(array) > MASKS, array, array * np.float32(stress))


def headroom_of(program: str, method: str, records: Sequence[Observed]) -> Headroom:
    """`records`: of every call of the method."""
    computed = [record for record in records if OPERATORS[record.type].form == "computes"]  # others move masks about
    largest = max(computed or records, key=lambda record: record.largest)
    bad = next((record for record in records if record.not_finite is not None), None)
    names = {record.name for record in records}
    subnormal = {record.name for record in records if record.subnormal}
    where = None if bad is None else f"{_called(bad)} at {list(bad.not_finite or ())}"
    return Headroom(program, method, len(names), largest.largest, _called(largest), where, len(subnormal))


def _called(record: Observed) -> str:
    return f"{record.type} {record.name}"
