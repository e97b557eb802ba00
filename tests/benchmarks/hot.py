"""Runs the pytest-benchmarks and sets them beside a run that was saved, with ratios:

    python tests/benchmarks/hot.py [--save NAME] [--beside NAME] [what pytest takes …]        (make bench ARGS="…")

Every run is kept in out/benchmarks, by its name or else its time; `--beside` chooses which one to compare with, the newest by
default. A ratio is then over now, above 1 is faster than it was: of the medians, and of the fastest rounds, which a busy machine
disturbs less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEPT = Path("out/benchmarks")


@dataclass(frozen=True)
class Kept:
    """A run: median and fastest round in seconds by benchmark, and the processor that it ran on."""

    name: str
    processor: str
    seconds: Mapping[str, tuple[float, float]]

    @classmethod
    def read(cls, path: Path) -> Kept:
        told: dict[str, Any] = json.loads(path.read_text())
        seconds = {one["fullname"]: (float(one["stats"]["median"]), float(one["stats"]["min"])) for one in told["benchmarks"]}
        return cls(path.stem, str(told["machine_info"].get("cpu", {}).get("brand_raw", "a processor that is not named")), seconds)


def chosen(folder: Path, name: str | None) -> Path | None:
    """The run called `name`, or the newest; None where none is kept."""
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if name is None:
        return kept[-1] if kept else None
    if name not in (names := [path.stem for path in kept]):
        raise SystemExit(f"There is no run {name!r} in {folder}. There are: {', '.join(names) or 'none'}.")
    return folder / f"{name}.json"


def ratios(before: Kept, now: Kept) -> list[str]:
    """Lines for people: each benchmark of this run, and those that only the other one has."""
    lines = []
    if before.processor != now.processor:
        lines.append(f"{before.name} ran on another processor, {before.processor}: the ratios are of machines, not of the code.")
    width = max(map(len, {*before.seconds, *now.seconds}), default=0)
    lines.append(f"{'':{width}}  {before.name:>16}  {'now':>12}  ratio  fastest")
    for name, (median, fastest) in sorted(now.seconds.items()):
        then = before.seconds.get(name)
        if then is None:
            lines.append(f"{name:{width}}  {'new':>16}  {1000 * median:9.3f} ms")
        else:
            lines.append(
                f"{name:{width}}  {1000 * then[0]:13.3f} ms  {1000 * median:9.3f} ms  {then[0] / median:5.2f}  "
                f"{then[1] / fastest:7.2f}"
            )
    lines += [f"{name:{width}}  was not run now" for name in sorted(before.seconds.keys() - now.seconds.keys())]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", metavar="NAME", help="what this run is called; its time by default")
    parser.add_argument("--beside", metavar="NAME", help="the run to compare with; the newest by default")
    asked, others = parser.parse_known_args()
    name = asked.save or datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise SystemExit(f"--save is {name!r}; a name has letters, digits and '._-'.")
    before = chosen(KEPT, asked.beside)
    saved = None if before is None else Kept.read(before)  # before the run may take its place
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{name}.json"
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "--benchmark-sort=name", f"--benchmark-json={path}", *others]
    ended = subprocess.run(command, check=False)
    if ended.returncode:
        path.unlink(missing_ok=True)
        raise SystemExit(ended.returncode)
    print(f"\nKept as {path}.")
    if saved is not None:
        print("\n".join(ratios(saved, Kept.read(path))))


if __name__ == "__main__":
    main()
