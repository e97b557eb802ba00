"""Whole clips at full width, side by side: as the model is published, and as bundles of a student and of its teacher's plan.

    echoedge checkpoint make-random TEACHER --components transformer,vae,clip,wav2vec2,tiny_vae --no-base
    python tests/benchmarks/whole.py prepare TEACHER STUDENT PACK
    echoedge export --model flash --checkpoint STUDENT --weights int8 --products bf16 --size 256x256 --frames 25 --steps 4 \
        --prompts PACK --out student.echoedge
    python tests/benchmarks/whole.py measure TEACHER PACK student.echoedge [--rounds 2] [--record records/whole.json]

`prepare` writes a student that nobody taught (its weights are its teacher's, those for the length of a step are drawn), a pack of
one prompt, and beside it the teacher's step tables: for time alone. `measure` plays the same portrait, voice and prompt

  published   eager PyTorch, float32, 8 steps of two forwards, everything in each step again, the full decoder
  eager       the same, with what does not change in a step computed once
  8×2         the bundle's programs by the teacher's plan and tables: what a bundle without a student does; with either decoder
  4×1         the bundle as it is, and the tiny decoder

each in a process of its own, in turn: the eager ones once, the others once in each round. Before the clip that counts a bundle
plays one, and an eager model one of a single step, which load and pack. Half an hour on a quiet machine of two cores with 16 GB
free.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from echoedge.core.bundle import DECODE_PROGRAMS, Bundle
from echoedge.core.config import ClipSpec
from echoedge.core.memory import peak_bytes
from echoedge.core.model.architecture import Architecture
from echoedge.core.plan.samplers import build_plan
from echoedge.core.versions import library_versions
from echoedge.core.weights.checkpoints import Checkpoint, load_transformer
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.distill.student import student_of
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.bench.presets import find_preset
from echoedge.runtime.bench.subjects import Playing, folder_subject
from echoedge.runtime.distill.run import TEACHER_STEPS
from echoedge.runtime.distill.student_folder import passport_of_options, write_student
from echoedge.runtime.engines import open_engine
from echoedge.runtime.export.record import step_tables
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import STAGES, Player, PlayerConfig
from echoedge.runtime.play.prompts import read_prompts
from echoedge.runtime.play.reference import Settings, plan_options

CLIP, PRESET = ClipSpec(256, 256, 25), "flash-256x256x25"
WAYS = {"published": "full", "eager": "full", "8×2": "full", "8×2, tiny": "tiny", "4×1": "tiny"}  # the decoder of each
EAGER = ("published", "eager")
PROMPT, ROWS = "a woman speaks", 24


def prepare(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    teacher = Checkpoint.open(given.teacher, "flash")
    dit = student_of(load_transformer(teacher, torch.float32))
    with torch.no_grad():
        for values in dit.span_embedding[2].parameters():  # zeros, which no file may hold
            values.normal_(0, 0.02)
    options = plan_options("flash", Settings(steps=TEACHER_STEPS["flash"]))
    write_student(given.student, teacher, dit, passport_of_options("0" * 64, options, (1, 2, 4)))
    save_file({PROMPT: np.random.default_rng(0).standard_normal((ROWS, teacher.config().text_dim), np.float32)}, given.pack)
    save_file(
        step_tables(load_transformer(teacher, torch.float32), build_plan(plan_options("flash", Settings()))), tables_of(given.pack)
    )


def tables_of(pack: Path) -> Path:
    return pack.with_suffix(".tables.safetensors")


# ---- one way in this process -----------------------------------------------------------------------------------------------------


def eager_players(given: argparse.Namespace) -> tuple[Player, Player]:
    """One that takes a single step, and one that takes all, of the same engine."""
    checkpoint = Checkpoint.open(given.teacher, "flash")
    prompts = read_prompts(given.pack, checkpoint.config().text_dim)
    subject = folder_subject(checkpoint, Architecture(checkpoint.config()), "full", prompts)
    player = subject.open(find_preset(PRESET), Playing(savings=given.way == "eager"))
    config, tables = player.config, player.config.step_tables
    assert isinstance(tables, Mapping)
    first = replace(
        config,
        plan=build_plan(plan_options("flash", Settings(steps=1))),
        step_tables={name: rows[:1] for name, rows in tables.items()},
    )
    return Player(first, player.engine), Player(config, player.engine)


def compiled_players(given: argparse.Namespace) -> tuple[Player, Player]:
    bundle = Bundle.open(given.bundle)
    config = PlayerConfig.of(bundle)
    if given.way.startswith("8×2"):
        plan = build_plan(plan_options("flash", Settings())).model_copy(update={"window": config.plan.window})
        config = replace(config, plan=plan, step_tables=load_file(tables_of(given.pack)))
    player = Player(config, open_engine(bundle), decoder=DECODE_PROGRAMS[WAYS[given.way]])
    return player, player


def play(given: argparse.Namespace) -> None:
    """Prints what the second of two clips took."""
    case = demo_material(CLIP, whole=False)
    found: Row = {}
    for player in (eager_players if given.way in EAGER else compiled_players)(given):
        started, cpu = time.perf_counter(), time.process_time()
        made = player.generate(case.portrait, case.speech, PROMPT, case.seed)
        frames = sum(1 for _ in player.frames_of(made))
        found = {"clip": time.perf_counter() - started, "CPU": time.process_time() - cpu, **made.seconds}
        if frames != CLIP.frames:
            raise SystemExit(f"{given.way} gave {frames} frames.")
        found |= {"evaluations": made.evaluations}
    print(json.dumps(found | {"peak": peak_bytes(), "threads": player.engine.threads}))


# ---- all of them -----------------------------------------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> None:
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in given.ways}
    for turn in range(given.rounds):
        for way in given.ways:
            if way in EAGER and turn:
                continue
            command = [sys.executable, __file__, "play", way, str(given.teacher), str(given.pack), str(given.bundle)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            measured[way].append(json.loads(ended.stdout.splitlines()[-1]))
            print(way, ended.stdout.splitlines()[-1], flush=True)
            if given.record:
                keep(given, measured)


def rows_of(measured: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Row]:
    """Medians of each way, and how many times as long the others took as the fastest."""
    found = {
        way: {name: statistics.median(each[name] for each in clips) for name in clips[0]}
        for way, clips in measured.items()
        if clips
    }
    best = min(each["clip"] for each in found.values())
    return [
        {
            "way": way, "decoder": WAYS[way], "evaluations": each["evaluations"], "clips": len(measured[way]),
            "wall_s": each["clip"], "cpu_s": each["CPU"], **{f"{stage}_s": each[stage] for stage in STAGES},
            "conditions_share": each["prepare"] / each["denoise"], "peak_gb": each["peak"] / 1e9,
            "over_fastest": each["clip"] / best,
        }
        for way, each in found.items()
    ]  # fmt: skip


def keep(given: argparse.Namespace, measured: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    weights = Bundle.open(given.bundle).manifest.weights.name
    threads = sorted({int(each["threads"]) for clips in measured.values() for each in clips})
    tokens = CLIP.tokens_per_frame * CLIP.latent_frames
    write_figures(
        given.record, command="python tests/benchmarks/whole.py measure TEACHER PACK BUNDLE",
        source=f"`{shlex.join(['python', 'tests/benchmarks/whole.py', *sys.argv[1:]])}`, whose first lines say how all is made.",
        hardware=device_name(),
        versions={name: found for name, found in library_versions().items() if name in ("torch", "executorch", "torchao")},
        conditions=(
            f"Flash with random weights of full size, thirty blocks; {CLIP}, {tokens:,} tokens, one window. Bundle: {weights}, "
            f"{given.how or 'the usual options'}. Whole clips from portrait and voice to frames, prompts encoded before, loading "
            f"excluded; {'/'.join(map(str, threads))} threads, a process each, in turn, medians. 8×2: the bundle's programs by the "
            f"plan and step tables of its teacher. Load average at the end {os.getloadavg()[1]:.1f}."
        ),
        figures={"ways": rows_of(measured)},
    )  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = words.add_subparsers(required=True)
    made = verbs.add_parser("prepare")
    for name in ("teacher", "student", "pack"):
        made.add_argument(name, type=Path)
    made.set_defaults(run=prepare)
    for verb, run in (("measure", measure), ("play", play)):
        each = verbs.add_parser(verb)
        if run is play:
            each.add_argument("way", choices=WAYS)
        for name in ("teacher", "pack", "bundle"):
            each.add_argument(name, type=Path)
        if run is measure:
            each.add_argument("--rounds", type=int, default=2)
            each.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
            each.add_argument("--how", default="", help="how the bundle was exported, for the record")
            each.add_argument("--record", type=Path)
        each.set_defaults(run=run)
    given = words.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
