"""Students as compiled: how near clips of a bundle come to their teacher's of the same noise, beside the student in full precision.

python tests/benchmarks/students_compiled.py BUNDLE... [--weights STUDENT] [--clips 32] [--record records/students_compiled.json]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from echoedge.core.bundle import Bundle
from echoedge.core.metrics.psnr import psnr
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.train.evaluate import held_out
from echoedge.core.train.puppets import PuppetClip
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import load_nano, nano_digest, student_path
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.engines import open_engine
from echoedge.runtime.play.pictures import to_signed
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.play.speech import normalise_loudness
from echoedge.runtime.studies.nano_study import player_of
from echoedge.runtime.verify.mouths import PLAYED_FIRST, mouth_of

Video = NDArray[np.uint8]


def played(player: Player, people: Sequence[PuppetClip]) -> list[Video]:
    """Clip i from noise i."""
    rate, videos = player.config.clip.sample_rate, []
    for seed, one in enumerate(people):
        made = player.generate(to_signed(one.frames[0]), normalise_loudness(one.waveform, rate), one.prompt, seed)
        videos.append(np.stack(list(player.frames_of(made))))
    return videos


def keep(path: Path, rows: Sequence[Row], clips: int) -> None:
    versions = library_versions()
    write_figures(
        path, command="echoedge export --weights int8|int4 --steps 4|2",
        source=f"`{shlex.join(['python', 'tests/benchmarks/students_compiled.py', *sys.argv[1:]])}`.", hardware=device_name(),
        versions={name: versions[name] for name in ("torch", "executorch", "onnxruntime") if name in versions},
        conditions=f"{clips} held-out people and voices, one seed of noise each, portrait and voice.",
        figures={"bundles": rows},
    )  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundles", nargs="+", type=Path)
    words.add_argument("--weights", type=Path, default=student_path(), help="what they were compiled from")
    words.add_argument("--clips", type=int, default=32)
    words.add_argument("--record", type=Path)
    given = words.parse_args()
    people, rows = held_out(given.clips, PLAYED_FIRST), list[Row]()
    teacher = played(player_of(load_nano(), build_plan(PLAN_PRESETS["nano"])), people)
    full: dict[int, list[Video]] = {}

    def row(videos: list[Video]) -> dict[str, float]:
        nearness = [psnr(a, b, 255.0) for a, b in zip(teacher, videos, strict=True)]
        return {"psnr_db": float(np.mean(nearness)), "lowest_db": min(nearness), "lipsync": mouth_of(videos, people).lipsync}

    for path in given.bundles:
        bundle = Bundle.open(path)
        if bundle.manifest.model.source_sha256 != nano_digest(given.weights):
            raise SystemExit(f"{path} was compiled from other weights than {given.weights}. Name its own with --weights.")
        plan = bundle.plan()
        if plan.steps not in full:
            full[plan.steps] = played(player_of(load_nano(path=given.weights), plan), people)
        found = played(Player(PlayerConfig.of(bundle), open_engine(bundle)), people)
        exact, compiled = row(full[plan.steps]), row(found)
        rows.append(
            {
                "target": bundle.manifest.target.name, "weights": bundle.manifest.weights.name, "steps": plan.steps, **compiled,
                "full_db": exact["psnr_db"], "lost_db": exact["psnr_db"] - compiled["psnr_db"],
                "lipsync_full": exact["lipsync"], "lipsync_teacher": mouth_of(teacher, people).lipsync,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
        if given.record:
            keep(given.record, rows, given.clips)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
