"""One clip in two versions of this project, side by side: each version's own bundle in its own process, in turn.

    git archive --prefix=echoedge/ REVISION | tar x -C OLD       (a folder that holds `echoedge`)
    (cd OLD && PYTHONPATH=. python -c "from echoedge.cli import app; app()" export --weights int8 --out old.echoedge)
    echoedge export --weights int8 --out new.echoedge
    python tests/benchmarks/versions.py OLD:old.echoedge .:new.echoedge [--rounds 5] [--runs 20] [--record records/versions.json]

Each is FOLDER:BUNDLE, the older version first; `.` is what is installed. Wall and CPU time are medians of `echoedge bench` over
all rounds' medians. On a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name

COMMAND = "from echoedge import cli; getattr(cli, 'main', cli.app)()"  # of every version
STAGES = ("listen", "look", "prepare", "denoise", "decode")


def milliseconds(found: Mapping[str, Any]) -> dict[str, float]:
    """A bench's figures in either form: what a version before the records printed, in seconds, or a record."""
    if "stage_seconds" in found:
        rows = {"clip": found["total_seconds"], "CPU": found["cpu_seconds"], **found["stage_seconds"]}
        return {name: 1000 * seconds for name, seconds in rows.items()}
    return {"clip": found["clip"]["median"], "CPU": found["cpu_ms"]} | {n: s["median"] for n, s in found["stages"].items()}


def benched(folder: Path, bundle: Path, runs: int) -> dict[str, float]:
    """One process of the version in `folder`."""
    place = dict(os.environ) if folder == Path() else {**os.environ, "PYTHONPATH": str(folder.resolve())}
    command = [sys.executable, "-c", COMMAND, "bench", str(bundle), "--runs", str(runs), "--json"]
    ended = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
    (found,) = json.loads(ended.stdout)
    return milliseconds(found)


def rows_of(older: Sequence[Mapping[str, float]], newer: Sequence[Mapping[str, float]]) -> list[Row]:
    rows: list[Row] = []
    for name in ("clip", *STAGES, "CPU"):
        before, after = (statistics.median(each[name] for each in rounds) for rounds in (older, newer))
        ratios = [b[name] / a[name] for a, b in zip(older, newer, strict=True) if a[name] > 0]
        rows.append(
            {
                "part": name,
                "older_ms": before,
                "newer_ms": after,
                "ratio": after / before,
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return rows


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("versions", nargs=2, metavar="FOLDER:BUNDLE")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--runs", type=int, default=20)
    words.add_argument("--older", default="an earlier revision", help="what the older version is, for the record")
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    pairs = [tuple(Path(part) for part in each.split(":")) for each in given.versions]
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for turn in range(given.rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            found[index].append(benched(*pairs[index], given.runs))  # type: ignore[arg-type]
    rows = rows_of(*found)
    print(json.dumps(rows, indent=1))
    if given.record:
        write_figures(
            given.record, command="echoedge bench BUNDLE --json, of each version in turn",
            source="`python tests/benchmarks/versions.py OLD:old.echoedge .:new.echoedge`; its first lines say how both are made.",
            hardware=device_name(), versions={"torch": version("torch"), "executorch": version("executorch")},
            conditions=(
                f"Older: {given.older}. Newer: this version. nano, int8, what `export` takes by default in each; a demo clip of "
                f"one window. {given.rounds} rounds of one process each, in alternating order, {given.runs} clips after a "
                f"first one; medians, and the least and most ratio of a round. Load average at the end {os.getloadavg()[1]:.1f}."
            ),
            figures={"parts": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
