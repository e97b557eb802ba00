"""Keeps what commands print as the records that docs/FIGURES.md is made from.

    python tests/benchmarks/keep.py savings                                          counts them itself
    python tests/benchmarks/keep.py operators OUT.json                               echoedge bench-operators … --json > OUT.json
    python tests/benchmarks/keep.py quantisation OUT.json                            echoedge quantize compare --out OUT.json
    python tests/benchmarks/keep.py hearing FLASH.json PREVIEW.json COMPILED.json    echoedge checkpoint hearing … --json
    python tests/benchmarks/keep.py inputs BUNDLE/records/*-verify-*.json …          echoedge verify BUNDLE --record, of each bundle

Run it on the machine that measured, on the day that it did: the record names both. Then `make figures`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.versions import library_versions
from echoedge.docs.figures import RECORDS, REPOSITORY, Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.targets.rewrites.savings import savings

TEXT_ROWS = 64
CLIPS = (ClipSpec(64, 64, 25), ClipSpec(128, 128, 25), ClipSpec(256, 256, 25), ClipSpec(512, 512, 81))


def keep_savings(path: Path) -> None:
    """What leaves the step of flash, from the configuration."""
    plan = build_plan(PLAN_PRESETS["flash"])
    by_clip = {str(clip): savings(FLASH, clip, plan, TEXT_ROWS) for clip in CLIPS}
    shown = by_clip["256x256x25"]
    naive = shown[0].flops_without / 1e12
    rewrites: list[Row] = [
        {
            "rewrite": one.name, "flops": one.flops_with, "saved_percent": 100 * (1 - one.flops_with / one.flops_without),
            "parameters": one.parameters, "kept_bytes": one.kept_bytes, "kept_per": one.per,
        }
        for one in shown
    ]  # fmt: skip
    write_figures(
        path,
        command="python tests/benchmarks/keep.py savings",
        source="the same command, which writes this file; `echoedge inspect BUNDLE` prints them for a bundle's own clip.",
        hardware="Counted, on no machine",
        versions={},
        conditions=(
            f"flash, 256×256, 25 frames, {plan.steps} steps of the plan flash with two guidance branches, prompts in "
            f"{TEXT_ROWS} rows instead of {FLASH.text_len}: {naive:.2f} TFLOP a window without the rewrites. "
            "FLOPs are those of matrix products, checked against torch's own count on two blocks of this width and clip."
        ),
        figures={
            "rewrites": rewrites,
            "clips": [
                {"clip": clip, "saved_percent": 100 * (1 - s[-1].flops_with / s[-1].flops_without)} for clip, s in by_clip.items()
            ],
        },
    )


def keep_operators(path: Path, told: dict[str, Any]) -> None:
    fields = ("count", "seconds", "cpu_seconds", "gflops", "of_peak", "share")
    write_figures(
        path,
        command=f"echoedge bench-operators --model {told['model']} --weights {told['weights']} --json, of {told['clip']}",
        source="the same command, kept with `python tests/benchmarks/keep.py operators OUT.json`.",
        hardware=told["device"],
        versions=library_versions(),
        conditions=(
            f"Small programs at the real shapes ({told['tokens']:,} tokens, {told['text_rows']} rows of text), "
            f"{told['threads']} threads, medians of {told['rounds']}, load {told['load_average']:.1f}; the peak "
            "of this machine in the same loop."
        ),
        figures={
            "parts": [{"part": part["name"]} | {field: part[field] for field in fields} for part in told["parts"]],
            "peak": [
                {"products": "float32", "gflops": told["peak_fp32"]},
                {"products": "int8", "gflops": told["peak_int8"]},
            ],
        },
    )


def keep_quantisation(path: Path, told: dict[str, Any]) -> None:
    write_figures(
        path,
        command="echoedge quantize compare --out OUT.json",
        source="the same command, kept with `python tests/benchmarks/keep.py quantisation OUT.json`.",
        hardware=device_name(),
        versions=library_versions(),
        conditions=(
            f"nano (weights with SHA-256 {told['model'][:12]}…), plan {told['plan']}, weights quantised in PyTorch. Guided: "
            f"signal-to-noise ratio of the guided velocity ({told['probed']}); direction error: of what guidance multiplies (with "
            f"minus without speech). The mouth over {told['played']} held-out clips, one noise seed; kept: the share of full "
            "precision's. Bytes are those of the transformer's linear weights and scales."
        ),
        figures={
            "full_precision": [told["full_precision"]],
            "int4_roundings": told["int4_roundings"],
            "equal_size": told["equal_size"],
        },
    )


def keep_hearing(path: Path, flash: dict[str, Any], preview: dict[str, Any], compiled: dict[str, Any]) -> None:
    if [flash["compiled"], preview["compiled"], compiled["compiled"]] != [False, False, True]:
        raise SystemExit("Give the figures of flash, of preview, and those of flash made with --compiled, in this order.")
    weights = "random weights" if flash["random_weights"] else "released weights"
    write_figures(
        path,
        command="echoedge checkpoint hearing FOLDER --json [--compiled]",
        source="the same command, kept with `python tests/benchmarks/keep.py hearing FLASH.json PREVIEW.json COMPILED.json`.",
        hardware=device_name(),
        versions=library_versions(),
        conditions=(
            f"How much context a bundle's reading of a voice needs: 20 s of drawn speech with two pauses, wav2vec2-base with "
            f"{weights} of full size; cosine of each video frame's features with those of the voice heard at once."
        ),
        figures={"flash": flash["rows"], "preview": preview["rows"], "flash_compiled": compiled["rows"]},
    )


def keep_inputs(path: Path, *told: dict[str, Any]) -> None:
    if len({(record["device"], json.dumps(record["versions"])) for record in told}) > 1:
        raise SystemExit("Give records of one machine with one set of versions.")
    fields = ("size", "share", "cosine")
    write_figures(
        path,
        command="echoedge verify BUNDLE --record",
        source="the same command, of a bundle of each kind, kept with `python tests/benchmarks/keep.py inputs RECORD.json …`.",
        hardware=told[0]["device"],
        versions=told[0]["versions"],
        conditions=(
            "nano. Of the velocity in the first step and window: what another prompt, voice, portrait as it is recognised, "
            "portrait as the first frame, and seed change alone in full precision, over the velocity (RMS); the share of that "
            "change, in its direction, that the compiled bundle keeps; the cosine between the two changes."
        ),
        figures={
            "kept": [
                {"weights": record["engine"]["weights"], "input": each["name"]}
                | {field: each[field] for field in fields}
                | {"demanded": each["demanded"]["share"]}
                for record in told
                for each in record["figures"]["inputs"]
            ]
        },
    )


ANY = -1  # number of files
KINDS: dict[str, tuple[str, int, Callable[..., None]]] = {  # the record's name, how many files, what keeps them
    "savings": ("hoist-savings", 0, keep_savings),
    "operators": ("operators", 1, keep_operators),
    "quantisation": ("quantisation", 1, keep_quantisation),
    "hearing": ("hearing", 3, keep_hearing),
    "inputs": ("inputs", ANY, keep_inputs),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("files", nargs="*", type=Path, help="what the commands have printed")
    given = parser.parse_args()
    name, count, keep = KINDS[given.kind]
    if len(given.files) != count and not (count == ANY and given.files):
        parser.error(f"{given.kind} takes {'some' if count == ANY else count} files, not {len(given.files)}")
    keep(REPOSITORY / RECORDS / f"{name}.json", *(json.loads(path.read_text(encoding="utf-8")) for path in given.files))


if __name__ == "__main__":
    main()
