"""Keeps what commands print as the records that docs/FIGURES.md is made from.

    python tests/benchmarks/keep.py savings                                          counts them itself
    python tests/benchmarks/keep.py operators OUT.json                               echoedge bench-operators … --json > OUT.json
    python tests/benchmarks/keep.py quantisation OUT.json                            echoedge quantize compare --out OUT.json
    python tests/benchmarks/keep.py hearing FLASH.json PREVIEW.json COMPILED.json    echoedge checkpoint hearing … --json
    python tests/benchmarks/keep.py baseline BASELINE.json …                         echoedge baseline record --out BASELINE.json
    python tests/benchmarks/keep.py published                                        what others have published
    python tests/benchmarks/keep.py inputs BUNDLE/records/*-verify-*.json …          echoedge verify BUNDLE --record, of each bundle

Run it on the machine that measured, on the day that it did: the record names both. Then `make figures`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from echoedge.core.bundle.baseline import Baseline
from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.config import preset as preset_of
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.versions import library_versions
from echoedge.docs.figures import RECORDS, REPOSITORY, Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.bench.presets import PRESETS, PUBLISHED
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


def keep_baseline(path: Path, *told: dict[str, Any]) -> None:
    """Every way that the baselines were measured in, and, of each preset, that it has not run on a GPU where none of them did."""
    baselines = [Baseline.model_validate_json(json.dumps(one), strict=True) for one in told]
    measured = [(one, record) for one in baselines for record in one.measured]
    rows: list[Row] = []
    for baseline, record in measured:
        way = f"{record.mode}, {'with' if record.savings else 'without'} savings"
        layers = "" if record.workload.layers == preset_of(baseline.model).layers else f", {record.workload.layers} layers"
        peak = record.peak_rss_bytes if record.peak_device_bytes is None else record.peak_device_bytes
        rows.append(
            {
                "preset": f"{baseline.preset}{layers}", "decoder": baseline.decoder, "device": record.machine.kind,
                "precision": baseline.precision, "way": way, "clip_ms": record.clip.median, "cpu_ms": record.cpu_ms,
                **{f"{stage}_ms": spread.median for stage, spread in record.stages.items()}, "step_ms": record.step.median,
                "first_load_ms": record.first_load_ms, "fps": record.fps, "peak_mb": peak / 1e6, "runs": record.runs,
                "load": record.load_average_after,
            }
        )  # fmt: skip
    on_gpu = {baseline.preset for baseline, record in measured if record.machine.kind == "cuda"}
    for name in PRESETS:
        if name not in on_gpu:
            rows.append(dict.fromkeys(rows[0]) | {"preset": name, "device": "cuda", "way": "not run on a GPU"})
    weights: list[Row] = [
        {"preset": baseline.preset, "component": name, "sha256": digest[:16]}
        for baseline in baselines
        for name, digest in baseline.weights.components.items()
    ]
    first = measured[0][1]
    write_figures(
        path,
        command="echoedge baseline record --preset NAME --threads 1",
        source="the same command, kept with `python tests/benchmarks/keep.py baseline BASELINE.json …`.",
        hardware=first.device,
        versions=first.versions,
        conditions=(
            "The full-precision model in PyTorch, one clip of the preset's shape after a first one; medians of wall time, on "
            f"{first.threads} thread; the load average at the end of each is told: where it is high, other programs shared the "
            "cores, and the wall times are several times the CPU times. "
            "Weights of a seed are drawn (`random:0`), those of nano are its own."
        ),
        figures={"measured": rows, "weights": weights},
    )


def keep_published(path: Path) -> None:
    """What somebody else has published of a preset's workload."""
    run = PUBLISHED
    stages: list[Row] = [{"stage": stage, "seconds": seconds} for stage, seconds in run.stage_seconds.items()]
    totals: list[Row] = [
        {"run": number, "seconds": seconds, "peak_process_gib": peak}
        for number, (seconds, peak) in enumerate(zip(run.total_seconds, run.peak_process_gib, strict=True), 1)
    ]
    write_figures(
        path,
        command="echomimic-mlx-smoke, of another project",
        source=f"{run.source}, its page on the first smoke run; `python tests/benchmarks/keep.py published` writes this file.",
        hardware=f"{run.device}, another's",
        versions={},
        conditions=(
            f"Published by others, copied on the day below and not measured here: flash in {run.precision} with the released "
            f"weights, the workload of the preset {run.preset}. The stages are those of the first of two runs; the second was made "
            "under another load."
        ),
        figures={"stages": stages, "totals": totals},
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


KINDS: dict[str, tuple[str, int | None, Callable[..., None]]] = {  # the record's name, how many files, what keeps them
    "baseline": ("baseline", None, keep_baseline),
    "published": ("published", 0, keep_published),
    "savings": ("hoist-savings", 0, keep_savings),
    "operators": ("operators", 1, keep_operators),
    "quantisation": ("quantisation", 1, keep_quantisation),
    "hearing": ("hearing", 3, keep_hearing),
    "inputs": ("inputs", None, keep_inputs),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("files", nargs="*", type=Path, help="what the commands have printed")
    given = parser.parse_args()
    name, count, keep = KINDS[given.kind]
    if count is None and not given.files:
        parser.error(f"{given.kind} takes one file at least")
    if count is not None and len(given.files) != count:
        parser.error(f"{given.kind} takes {count} files, not {len(given.files)}")
    keep(REPOSITORY / RECORDS / f"{name}.json", *(json.loads(path.read_text(encoding="utf-8")) for path in given.files))


if __name__ == "__main__":
    main()
