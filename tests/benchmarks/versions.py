"""A clip played by several versions of EchoEdge in turn, each from its own export: seconds by stage, and all of them together.

python tests/benchmarks/versions.py "NAME=FOLDER:BUNDLE" "NAME=FOLDER:BUNDLE" [--rounds 7] [--record records/versions.json]

FOLDER holds a version's folder `echoedge`. Every clip is a process of its own; its start and its loading are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import assets
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name

STAGES = ("listen", "look", "prepare", "denoise", "decode")


def played(place: str, bundle: str) -> dict[str, float]:
    """Seconds of each stage of the demo's clip."""
    demo = assets() / "demo"
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "echoedge.cli", "animate", bundle, "--image", str(demo / "ada.png"), "--audio",
            str(demo / "hello.wav"), "--prompt", "a woman speaks", "--out", f"{folder}/clip.mp4", "--json",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": place}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(ended.stdout)["stage_seconds"]
    return told


def rows_of(versions: Sequence[str], rounds: int) -> list[Row]:
    """Medians, after one round that warms files."""
    found: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds + 1):
        for version in versions:
            name, _, rest = version.partition("=")
            place, _, bundle = rest.partition(":")
            stages = played(place, bundle)
            if turn:
                found.setdefault(name, []).append(stages)
    rows: list[Row] = []
    for name, each in found.items():
        row: Row = {"version": name} | {f"{stage}_ms": 1000 * statistics.median(one[stage] for one in each) for stage in STAGES}
        row["all_ms"] = 1000 * statistics.median(sum(one[stage] for stage in STAGES) for one in each)
        rows.append(row)
    first = rows[0]["all_ms"]
    return [row | {"ratio": row["all_ms"] / first} for row in rows]  # type: ignore[operator]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("versions", nargs="+", metavar="NAME=FOLDER:BUNDLE")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    rows = rows_of(given.versions, given.rounds)
    print(json.dumps(rows, indent=1))
    if given.record:
        libraries = library_versions()
        write_figures(
            given.record, command="echoedge animate BUNDLE --json", hardware=device_name(),
            source="`python tests/benchmarks/versions.py NAME=FOLDER:BUNDLE …`.",
            versions={name: libraries[name] for name in ("torch", "executorch") if name in libraries},
            conditions=(
                f"The demo's portrait and voice; wall time, medians of {given.rounds} clips after one, versions in turn, each in "
                "a process of its own, the engine's own choice of threads."
            ),
            figures={"clips": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
