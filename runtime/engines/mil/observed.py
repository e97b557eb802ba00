"""What a run's results are like: how large, how near to the end of half precision, and where they stop being numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .function import Made
from .kinds import of_array

LARGEST_HALF = 65504.0
SMALLEST_NORMAL_HALF = 2.0**-14


@dataclass(frozen=True)
class Observed:
    """A result of one operator. `largest`: of the magnitudes of its finite elements; `smallest`: of those that are not zero (0.0
    where there are none). `not_finite`: the place of the first element that is infinite or no number, None where all are finite."""

    name: str
    type: str
    dtype: str
    shape: tuple[int, ...]
    largest: float
    smallest: float
    not_finite: tuple[int, ...] | None

    @property
    def headroom(self) -> float:
        """By what its largest element could grow before half precision overflows; below 1.0 it has, infinite for zeros."""
        return LARGEST_HALF / self.largest if self.largest else float("inf")

    @property
    def subnormal(self) -> bool:
        """Whether it has elements so small that half precision keeps less of them, and that hardware may take for zero."""
        return 0.0 < self.smallest < SMALLEST_NORMAL_HALF


@dataclass
class Observations:
    """A tap that notes every result of floats: `function.run(inputs, tap=seen)` of `seen = Observations()`.

    Run in fp32 to see by how much half precision would overflow; in fp16 to see where it does."""

    records: list[Observed] = field(default_factory=list)

    def __call__(self, made: Made) -> None:
        value = made.value
        if not value.is_floating_point():
            return
        finite = value.isfinite()
        sizes = value.float().abs()[finite]
        bad = None if bool(finite.all()) else tuple(int(n) for n in (~finite).nonzero()[0])
        some = sizes[sizes > 0]
        self.records.append(
            Observed(
                made.name,
                made.step.type,
                of_array(value.dtype),
                tuple(value.shape),
                float(sizes.max()) if sizes.numel() else 0.0,
                float(some.min()) if some.numel() else 0.0,
                bad,
            )
        )

    @property
    def first_not_finite(self) -> Observed | None:
        return next((record for record in self.records if record.not_finite is not None), None)

    def tightest(self, count: int = 10) -> Sequence[Observed]:
        """The results with the least headroom, the tightest first."""
        return sorted(self.records, key=lambda record: record.headroom)[:count]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of found − expected, over that of expected (over 1 where that is all zero). Equal infinities and two
    not-a-numbers differ by nothing; another place that is not finite differs infinitely."""
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    apart = torch.where(same, torch.zeros_like(a), a - b)
    if not bool(apart.isfinite().all()):
        return float("inf")
    kept = b[b.isfinite()]
    size = float(kept.square().mean().sqrt()) if kept.numel() else 0.0
    return float(apart.square().mean().sqrt()) / (size or 1.0)
