"""What each part of a student's training does: pairs of students, one with it and one without, figures of the same clips.

echoedge distill study WITH WITHOUT --no-controls --out parts-study
python tests/benchmarks/students_parts.py parts-study --pair PART WITH WITHOUT [--pair ...] [--record records/students_parts.json]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.studies.steps_study import compared

TASKS = ("i2v+a2v", "t2v")
TOLD = ("reference_psnr_db", "diversity", "motion", "frechet", "lipsync")


def rows_of(study: Path, part: str, one: str, other: str) -> list[Row]:
    """`part` on (`one`) minus off (`other`), by task and number of steps."""
    rows: list[Row] = []
    for task in TASKS:
        for steps in (4, 2, 1):
            found = compared(study, task, f"{other} {steps}×1", f"{one} {steps}×1")
            row: Row = {"part": part, "task": task, "way": f"{steps}×1"}
            for name in TOLD:
                each = found.get(name, {})
                row |= {name: each.get("difference"), f"{name}_t": each.get("t")}
            rows.append(row)
    return rows


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("study", type=Path)
    words.add_argument("--pair", nargs=3, action="append", required=True, metavar=("PART", "WITH", "WITHOUT"))
    words.add_argument("--how", default="", help="how the students were taught, for the record")
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    figures = {part: rows_of(given.study, part, one, other) for part, one, other in given.pair}
    for rows in figures.values():
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    if given.record:
        some = json.loads(next(given.study.glob("t2v-*.json")).read_text())["basis"]
        *_, clips, seeds = json.loads(some)
        write_figures(
            given.record, command="echoedge distill study STUDENT... --no-controls",
            source=f"that command, and `{shlex.join(['python', 'tests/benchmarks/students_parts.py', *sys.argv[1:]])}`.",
            hardware=device_name(), versions={"torch": version("torch")},
            conditions=(
                f"{clips} held-out people and voices, {len(seeds)} seeds of noise each; with the part minus without it; t-values "
                f"paired over clips (of the Fréchet distance over seeds). {given.how}"
            ).strip(),
            figures={"parts": [row for rows in figures.values() for row in rows]},
        )  # fmt: skip


if __name__ == "__main__":
    main()
