"""Students beside their teacher, as docs/FIGURES.md has them: by task and way, from what `echoedge distill study` has measured.

echoedge distill study STUDENT... --out steps-study
python tests/benchmarks/students.py steps-study --record records/students.json [--onto]

With `--onto` rows that the study has not, as those of the teacher at few steps after a study without controls, stay those of the
record that is there.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.studies.steps_study import SHOWN, TASKS

NAMES = {"i2v+a2v": "speech", "a2v": "voice", "t2v": "prompt"}
JUDGED = ("frechet", "diversity", "motion", "mouth_amplitude", "lipsync")  # whose difference from the teacher has a t-value here


def rows_of(folder: Path, task: str, before: Iterable[Row] = ()) -> list[Row]:
    """The ways of a task, those with the most forwards first, students after their teacher; of `before`, those that the study has
    not."""
    files = [(path, json.loads(path.read_text())) for path in folder.glob(f"{task}-*.json")]
    found: list[Row] = []
    for path, kept in files:
        means: dict[str, Any] = {key: kept["metrics"].get(key, {}).get("mean") for key in SHOWN}
        told = {key: kept["minus_teacher"].get(key, {}).get("t") for key in JUDGED}
        way = re.sub(r"-(\d+×\d)", r" \1", path.stem.removeprefix(f"{task}-")).replace("-shift-", ", shift ")
        found.append({"way": way, "forwards": kept["forwards"]} | means | {f"{key}_t": value for key, value in told.items()})
    measured = {row["way"] for row in found}
    found += [row for row in before if row["way"] not in measured]
    return sorted(
        found, key=lambda row: (not str(row["way"]).startswith("teacher"), str(row["way"]).split(" ")[0], -row["forwards"])
    )  # type: ignore[operator]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("study", type=Path)
    words.add_argument("--record", type=Path)
    words.add_argument("--onto", action="store_true", help="keep the record's rows that the study has not")
    given = words.parse_args()
    before = json.loads(given.record.read_text()) if given.onto else {"figures": {}}
    figures = {NAMES[task]: rows_of(given.study, task, before["figures"].get(NAMES[task], ())) for task in TASKS}
    for name, rows in figures.items():
        for row in rows:
            print(name, row)
    if given.record:
        *_, clips, seeds = json.loads(json.loads(next(given.study.glob("*.json")).read_text())["basis"])
        write_figures(
            given.record, command="echoedge distill study",
            source=f"that command, and `{shlex.join(['python', 'tests/benchmarks/students.py', *sys.argv[1:]])}`.",
            hardware=device_name(), versions={"torch": version("torch")},
            conditions=(
                f"{clips} held-out people and voices, {len(seeds)} seeds of noise each, full precision; distances to the teacher's "
                "own clip of the same noise; t-values of the differences from the teacher, paired over clips (of the Fréchet "
                "distance, which is one of a whole set, over seeds)."
                + (f" The teacher at few steps: of {before['date']}, {before['hardware']}." if given.onto else "")
            ),
            figures=figures,
        )  # fmt: skip


if __name__ == "__main__":
    main()
