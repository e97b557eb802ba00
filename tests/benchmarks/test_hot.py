"""benchmarks/hot.py: what ran is set beside what was saved, and nothing is passed over in silence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .hot import Kept, chosen, ratios


def kept(folder: Path, name: str, processor: str = "A CPU", **medians: float) -> Path:
    benchmarks = [{"fullname": key, "stats": {"median": value, "min": value / 2}} for key, value in medians.items()]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine_info": {"cpu": {"brand_raw": processor}}, "benchmarks": benchmarks}))
    return path


def test_ratios_are_then_over_now(tmp_path: Path) -> None:
    before, now = Kept.read(kept(tmp_path, "before", step=0.2, gone=1.0)), Kept.read(kept(tmp_path, "now", step=0.1, fresh=0.5))
    head, fresh, step, gone = ratios(before, now)
    assert head.split() == ["before", "now", "ratio", "fastest"]
    assert fresh.split() == ["fresh", "new", "500.000", "ms"]
    assert step.split() == ["step", "200.000", "ms", "100.000", "ms", "2.00", "2.00"]
    assert gone.split() == ["gone", "was", "not", "run", "now"]
    assert "another processor, A CPU" in ratios(before, Kept.read(kept(tmp_path, "there", "Another", step=0.1)))[0]


def test_the_newest_run_is_the_one_to_compare_with(tmp_path: Path) -> None:
    assert chosen(tmp_path, None) is None
    for number, name in enumerate(("b", "a")):
        os.utime(kept(tmp_path, name), (number, number))
    assert chosen(tmp_path, None) == tmp_path / "a.json"
    assert chosen(tmp_path, "b") == tmp_path / "b.json"
    with pytest.raises(SystemExit, match="There is no run 'c' in .* There are: b, a"):
        chosen(tmp_path, "c")
