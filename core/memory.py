"""What something will need of memory, in named parts, and a refusal that says which part is the largest and what would make it
smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ResourceError
from .files import available_memory, human_bytes


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for, in words that complete "for …". `remedies`: by the same words, the cheapest way to need less."""

    terms: Mapping[str, int]
    remedies: Mapping[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.terms.values())

    @property
    def largest(self) -> str:
        return max(self.terms, key=lambda term: self.terms[term])

    def sentence(self, purpose: str, have: int) -> str:
        """Why `purpose` is refused on a machine with `have` bytes."""
        parts = ", ".join(f"{human_bytes(count)} for {term}" for term, count in sorted(self.terms.items(), key=lambda t: -t[1]))
        remedy = self.remedies.get(self.largest, "Close other programs, or take a larger machine.")
        return (
            f"{human_bytes(self.total)} of memory is needed for {purpose}, and {human_bytes(have)} is available. "
            f"It is {parts}. The cheapest remedy: {remedy}"
        )


def require(need: Need, purpose: str, budget: int | None = None) -> None:
    """Checks that `need` fits in what is available now, and in `budget` bytes where one is set.

    Raises:
        ResourceError: it does not; the message names the largest part and the cheapest remedy.
    """
    available = available_memory()
    have = min(value for value in (available, budget, 1 << 62) if value is not None)
    if need.total > have:
        raise ResourceError(need.sentence(purpose, have))
