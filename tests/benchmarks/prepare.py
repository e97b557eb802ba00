"""What a clip's conditions cost: programs of their own for text, portrait, speech and known frames, beside one program for all.

    prepare.py flash                        two blocks of flash at full width, five windows, both ways in this process
    prepare.py clip OLD=PATH:BUNDLE NEW=…   a voice played with several versions in turn; medians of "prepare": PATH
                                            holds a folder `echoedge`, BUNDLE is its own export

Prints JSON; `--record records/conditions.json` puts the row of this clip there, beside those of others. On a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def flash(windows: int, rounds: int, weights: str) -> dict[str, Any]:
    """Times `Conditioner` against `JointConditioner` on compiled programs of random weights."""
    import torch

    from echoedge.core.bundle import CONDITION_PROGRAMS, Hearing
    from echoedge.core.config import FLASH, ClipSpec
    from echoedge.core.model import programs
    from echoedge.core.model.transformer import DiT
    from echoedge.core.plan import Window, WindowRule
    from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
    from echoedge.core.sampling.conditioning import ClipInputs, Conditioner, JointConditioner
    from echoedge.quantize.recipes import PRESETS
    from echoedge.targets.executorch.lower import compile_program
    from echoedge.targets.executorch.program_file import ProgramFile

    config, clip, rows = replace(FLASH, layers=2), ClipSpec(256, 256, 25), 64
    torch.manual_seed(0)
    dit = DiT(config).eval().requires_grad_(False)
    shapes = programs.given_shapes(config, clip, rows)
    length, overlap = clip.latent_frames, 4
    total = length + (windows - 1) * (length - overlap)
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    texts = {name: (drawn(*shapes["text"]), np.zeros((1, rows), np.float32)) for name in ("prompt", "negative")}
    plan = build_plan(PLAN_PRESETS["flash"])
    given = ClipInputs(
        drawn(*shapes["y"]), drawn(*shapes["image"]), texts, drawn(4 * (total - 1) + 1, *shapes["audio"][2:]),
        np.ones((1, clip.tokens_per_frame), np.float32), total, WindowRule(length=length, overlap=overlap), Hearing.of(config),
    )  # fmt: skip
    spans = [Window(index * (length - overlap), length, (1.0,) * length) for index in range(windows)]
    made = {
        "text_conditions": programs.text_conditions_program(dit, rows), "image_conditions": programs.image_conditions_program(dit),
        "audio_conditions": programs.audio_conditions_program(dit, clip),
        "patch_conditions": programs.patch_conditions_program(dit, clip),
        "encode_conditions": {
            "forward": programs.EntryPoint(
                programs.EncodeConditions(dit).eval(), programs.given_examples(config, clip, rows), programs.CONDITION_INPUTS
            )
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: ProgramFile(compile_program(name, program, PRESETS[weights], Path(folder)).path) for name, program in made.items()
        }

        def run(role: str, method: str, inputs: Sequence[Array]) -> list[Array]:
            return files[role].run(method, inputs)

        seconds: dict[str, list[float]] = {"joint": [], "split": []}
        for name, kind in [("joint", JointConditioner), ("split", Conditioner)] * (rounds + 1):
            conditioner, began = kind(plan, given, run), time.perf_counter()
            for span in spans:
                conditioner.window(span)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first loads and packs
    return {
        "model": f"flash, {config.layers} blocks at full width, random weights, {weights}", "clip": str(clip), "windows": windows,
        "branches": [branch.name for branch in plan.branches], "programs": list(CONDITION_PROGRAMS), "rounds": rounds,
        "seconds": medians, "ratio": medians["split"] / medians["joint"],
    }  # fmt: skip


def clip(versions: Sequence[str], image: Path, audio: Path, rounds: int) -> dict[str, Any]:
    """Plays the voice with each version in turn and reads what "prepare" took."""
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for version in versions:
            name, _, rest = version.partition("=")
            place, _, bundle = rest.partition(":")
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable, "-m", "echoedge.cli", "animate", bundle, "--image", str(image), "--audio", str(audio),
                    "--prompt", "a woman speaks", "--out", f"{folder}/clip.mp4", "--json",
                ]  # fmt: skip
                ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": place}, capture_output=True, text=True, check=True)
            if turn:
                found.setdefault(name, []).append(json.loads(ended.stdout)["stage_seconds"]["prepare"])
    medians = {name: statistics.median(times) for name, times in found.items()}
    first = next(iter(medians.values()))
    return {"seconds": medians, "rounds": rounds, "ratio": {name: median / first for name, median in medians.items()}}


def keep(path: Path, clip: str, joint: float, split: float) -> None:
    """Writes a clip's row, in place of the one that was there."""
    from echoedge.core.versions import library_versions
    from echoedge.docs.figures import Row, write_figures
    from echoedge.runtime.bench.clip import device_name

    rows: list[Row] = json.loads(path.read_text())["figures"]["conditions"] if path.is_file() else []
    row: Row = {
        "clip": clip, "joint_ms": round(1000 * joint, 1), "split_ms": round(1000 * split, 1), "ratio": round(split / joint, 3),
    }  # fmt: skip
    write_figures(
        path, command="python tests/benchmarks/prepare.py flash|clip …", source="the same with `--record`; one clip at a time.",
        hardware=device_name(), versions=library_versions(), figures={"conditions": [r for r in rows if r["clip"] != clip] + [row]},
        conditions=(
            "int8, wall time, medians after one round that loads, side by side. nano: the stage of `animate`, two branches; the "
            "joint program is that of another version with its own export. flash: two blocks at full width, random weights, "
            "256×256, 25 frames, five windows, branches `prompt` and `prompt/no-audio`; both ways in one process."
        ),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("flash")
    one.add_argument("--windows", type=int, default=5)
    one.add_argument("--weights", default="int8")
    two = verbs.add_parser("clip")
    two.add_argument("versions", nargs="+", metavar="NAME=PATH:BUNDLE")
    two.add_argument("--image", type=Path, required=True)
    two.add_argument("--audio", type=Path, required=True)
    for each in (one, two):
        each.add_argument("--rounds", type=int, default=5)
        each.add_argument("--record", type=Path, metavar="FILE", help="keep the row there: records/conditions.json")
    given = parser.parse_args()
    if given.verb == "flash":
        found = flash(given.windows, given.rounds, given.weights)
        seconds, name = found["seconds"], f"flash, 2 blocks, {given.windows} windows"
        joint, split = seconds["joint"], seconds["split"]
    else:
        found = clip(given.versions, given.image, given.audio, given.rounds)
        joint, split, name = *list(found["seconds"].values())[:2], f"nano, {given.audio.stem}"
    print(json.dumps(found, indent=1))
    if given.record:
        keep(given.record, name, joint, split)


if __name__ == "__main__":
    main()
