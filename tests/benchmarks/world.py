"""How open the two drawn worlds are: clips of the same portrait, voice and prompt, in which only what these leave open is drawn
anew. No model takes part.

    python tests/benchmarks/world.py [--clips 24] [--draws 8] [--record records/world.json] [--sheet docs/nano/lively.png]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echoedge.core.files import atomic_file
from echoedge.core.metrics.openness import openness
from echoedge.core.train.evaluate import held_out, regions_of
from echoedge.core.train.puppets import HELD_OUT_SEED, WORLDS, draw_clip
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.play.contact_sheet import SheetRow, SheetStyle, contact_sheet

FIRST = 11_000  # held-out seeds that no other figure is of
REDRAWN = 10_000_000  # the first of the seeds that what is open is drawn from
SHOWN = (5000, 6)  # clips of the sheet


def regions_by_name(seed: int, world: str) -> dict[str, NDArray[np.bool_] | None]:
    """Whole picture, mouth box, head above it, and the wall that no head covers."""
    clip = draw_clip(seed, world=world)
    where, (y0, y1, x0, x1) = regions_of(clip.identity, 64, "lively"), clip.mouth_box
    mouth, above = np.zeros((64, 64), bool), where.head.copy()
    mouth[y0:y1, x0:x1] = True
    above[y0:] = False
    return {"whole picture": None, "mouth box": mouth, "head above it": above, "wall": where.background & ~where.shoulders}


def measured(world: str, clips: int, draws: int) -> list[Row]:
    seeds = [HELD_OUT_SEED + FIRST + i for i in range(clips)]
    drawn = [
        np.stack([draw_clip(seed, world=world, open_seed=REDRAWN + draws * i + d).frames for d in range(draws)])
        for i, seed in enumerate(seeds)
    ]
    places = [regions_by_name(seed, world) for seed in seeds]
    rows: list[Row] = []
    for name in places[0]:
        found = asdict(openness((each, place[name]) for each, place in zip(drawn, places, strict=True)))
        still = found["motion"] == 0.0  # then there is nothing to take a share of
        shown = {key: None if still and key != "motion" else round(value, 4) for key, value in found.items()}
        rows.append({"world": world, "where": name} | shown)
    return rows


def save_sheet(path: Path) -> None:
    first, count = SHOWN
    rows = [SheetRow(clip.prompt, clip.frames) for clip in held_out(count, first, world="lively")]
    with atomic_file(path, force=True) as temporary:
        sheet = contact_sheet(rows, fps=25, title="The lively world, drawn", columns=9, style=SheetStyle(scale=1))
        sheet.quantize(256).save(temporary, "PNG", optimize=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--clips", type=int, default=24)
    words.add_argument("--draws", type=int, default=8)
    words.add_argument("--record", type=Path)
    words.add_argument("--sheet", type=Path)
    given = words.parse_args()
    rows = [row for world in WORLDS for row in measured(world, given.clips, given.draws)]
    for row in rows:
        print(row)
    if given.sheet:
        save_sheet(given.sheet)
    if given.record:
        write_figures(
            given.record, command=shlex.join(["python", "tests/benchmarks/world.py", *sys.argv[1:]]),
            source="the same command writes this file.", hardware=device_name(),
            versions={"numpy": version("numpy")},
            conditions=f"{given.clips} held-out people of a second at 64×64 (seeds from {HELD_OUT_SEED + FIRST:,}), each drawn "
            f"{given.draws} times with portrait, voice and prompt the same; pictures alone, no times.",
            figures={"openness": rows},
        )  # fmt: skip


if __name__ == "__main__":
    main()
