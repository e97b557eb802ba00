"""How far a long stage is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]


def in_words(seconds: float) -> str:
    """A duration as a person would say it: "40 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Pace:
    """A line each time the stage has come a twentieth further, or a minute has passed: what is done, of how many, and how long the
    rest will take at the pace so far. What was there before this run counts as done, not as pace; nor is the first one of it, which
    may have waited for a compiler."""

    def __init__(self, what: str, say: Say, now: Callable[[], float] = time.monotonic) -> None:
        self.what, self.say, self.now = what, say, now
        self.began = self.last = now()
        self.first: int | None = None  # the first that this run has done, and when
        self.then = self.began
        self.told = 0

    def __call__(self, done: int, total: int) -> None:
        moment = self.now()
        if self.first is None:
            self.first, self.then, self.told = done, moment, done - 1
        if done < total and done - self.told < total / 20 and moment - self.last < 60:
            return
        end = ""
        if done == total:
            end = f", in {in_words(moment - self.began)}"
        elif done > self.first:
            end = f", {in_words((moment - self.then) / (done - self.first) * (total - done))} left"
        self.say(f"   {done:,} of {total:,} {self.what}{end}")
        self.told, self.last = done, moment
