"""runtime/bench/step_times.py: every rewrite is measured."""

from __future__ import annotations

from echoedge.core.config import NANO, ClipSpec
from echoedge.runtime.bench.step_times import measure_rewrites
from echoedge.targets.rewrites.hoist import REWRITES


def test_every_rewrite_is_measured() -> None:
    told: list[tuple[str, int, int]] = []
    found = measure_rewrites(NANO, ClipSpec(32, 32, 5), 16, rounds=1, blocks=1, progress=lambda *step: told.append(step))
    assert [time.name for time in found] == ["none", *(rewrite.name for rewrite in REWRITES), "all"]
    assert all(time.seconds >= 0 for time in found)
    assert told[-1] == ("rewrites", 2, 2)
