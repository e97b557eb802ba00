"""What something will need of memory, in named parts, and a refusal that says which part is the largest and what would make it
smaller; and what processes take."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

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
    have = min(available_memory(), 1 << 62 if budget is None else budget)
    if need.total > have:
        raise ResourceError(need.sentence(purpose, have))


def resident_bytes(pid: int | None = None) -> int:
    """Resident bytes of a process now, this one by default; 0 where it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Resident bytes of this process at its peak."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` of a new process begins with its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def usable_cores() -> int:
    """Logical processors that this process may use."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
