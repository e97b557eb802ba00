"""A student taught through rounded weights beside one that is rounded afterwards: how far their velocities are from the guided
teacher's, on lessons that neither has seen.

python tests/benchmarks/students_rounded.py AWARE PLAIN [--lessons lessons-unseen] [--record records/students_rounded.json]

AWARE and PLAIN are students of one teacher, taught equally long from one start; AWARE's passport says through which weights.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from echoedge.core.model.transformer import DiT
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.core.weights.nano import load_nano, read_passport
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.distill.lessons import Drawn, Lessons, draw_lessons, stops
from echoedge.quantize.distill.rounding import as_taught, grids_of, taught_recipe
from echoedge.quantize.distill.student import Student
from echoedge.quantize.recipes import WeightRecipe
from echoedge.quantize.roundings import Rounding, rounded
from echoedge.runtime.bench.clip import device_name

UNSEEN = Lessons(shards=2, seed=7)
TOGETHER = 12
COMMAND = ("python", "tests/benchmarks/students_rounded.py")
TASKS = ("i2v+a2v", "a2v", "t2v")


def rounded_after(dit: DiT, recipe: WeightRecipe, rounding: Rounding) -> DiT:
    """A copy whose weights are those of the grids of `recipe`, by `rounding`, from half precision as files keep them."""
    made = copy.deepcopy(dit)
    for name, grid in grids_of(dit.config, recipe).items():
        layer = made.get_submodule(name)
        found = rounded(layer.weight.detach().half().float(), grid, rounding, ())  # type: ignore[operator]
        layer.weight = nn.Parameter(found.values(), requires_grad=False)
    return made


@torch.no_grad()
def velocity_errors(dit: DiT, drawn: Drawn, rows: Sequence[int], steps: int) -> list[float]:
    """Of each lesson: root mean square of the velocity minus the guided trajectory's own, over all steps of a student of `steps`,
    each begun at the teacher's state."""
    student, path = Student(dit).eval(), stops(drawn.levels, steps)
    levels, modality = torch.tensor(drawn.levels), torch.from_numpy(drawn.modality)
    found: list[float] = []
    for first in range(0, len(rows), TOGETHER):
        batch: Mapping[str, Tensor] = drawn.batch(np.array(rows[first : first + TOGETHER]))
        states, squares = batch["states"].float(), []
        for begin, end in zip(path, path[1:], strict=False):
            high, low = (levels[at].expand(len(states)) for at in (begin, end))
            said = student(states[:, begin], high, low, modality[begin].expand(len(states), -1, -1), batch)
            wanted = (states[:, end] - states[:, begin]) / (levels[end] - levels[begin])
            squares.append((said - wanted).square().flatten(1).mean(1))
        found += torch.stack(squares).mean(0).sqrt().tolist()
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("aware", type=Path)
    words.add_argument("plain", type=Path)
    words.add_argument("--lessons", type=Path, default=Path("lessons-unseen"))
    words.add_argument("--how", default="", help="how the students were taught, for the record")
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    passport = read_passport(given.aware)
    if passport is None or not (recipe := taught_recipe(passport)).rules:
        raise SystemExit(f"{given.aware} was not taught through rounded weights.")
    drawn = draw_lessons(given.lessons, UNSEEN, None, PLAN_PRESETS["nano"])
    plain, aware = (load_nano(path=path).dit for path in (given.plain, given.aware))
    ways = {
        "plain, not rounded": plain,
        "plain, to the nearest": rounded_after(plain, recipe, "nearest"),
        "plain, scales searched": rounded_after(plain, recipe, "searched"),
        "taught through them": as_taught(aware, passport),
    }
    rows: list[Row] = []
    for task in TASKS:
        some = [row for row in range(len(drawn)) if drawn.names[int(drawn.arrays["task"][row])] == task]
        for steps in (4, 2):
            errors = {way: np.array(velocity_errors(dit, drawn, some, steps)) for way, dit in ways.items()}
            after = errors["plain, to the nearest"]
            for way, each in errors.items():
                apart = each - after
                t = apart.mean() / max(apart.std(ddof=1) / np.sqrt(len(apart)), 1e-12)
                rows.append(
                    {
                        "task": task, "way": f"{steps}×1", "weights": way, "velocity_error": float(np.sqrt((each**2).mean())),
                        "ratio": float(np.sqrt((each**2).mean() / (after**2).mean())), "t": float(t), "lessons": len(some),
                    }
                )  # fmt: skip
                print(rows[-1], flush=True)
    if given.record:
        write_figures(
            given.record, command="echoedge distill nano --weights int4",
            source=f"`{shlex.join([*COMMAND, *sys.argv[1:]])}`, of two students of that command.",
            hardware=device_name(), versions={"torch": version("torch")},
            conditions=(
                f"Weights: {recipe.name}. Lessons that no student has seen, those of a task; each step begun at the teacher's "
                "state; root mean square over them; t of the difference from rounding to the nearest, paired over lessons. "
                f"{given.how}"
            ).strip(),
            figures={"ways": rows},
        )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
