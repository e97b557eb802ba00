"""What `echoedge fit` forecasts: for this machine beside what was measured on it, and for phones of the table.

    python tests/benchmarks/fit.py host --work FOLDER [--models nano flash] [--runs 5] [--rounds 9] [--record records/fit.json]
    python tests/benchmarks/fit.py phones [--record records/fit_phones.json]

`host` compiles nano, and flash with two blocks of random weights at full width, each in three shapes, into FOLDER, where finished
bundles are used again; forecasts each, then plays it by `echoedge bench`. Wall and CPU time, the peak
of resident memory, and how far the forecast is off. On a quiet machine: half an hour, 4 GB of disk. `--shapes` takes others.
`phones` computes and measures nothing. Both print JSON; `--record` keeps it as docs/FIGURES.md shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echoedge import api
from echoedge.cli.options import parse_shape
from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.model.architecture import Architecture, TextTowerConfig
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.core.versions import library_versions
from echoedge.core.weights.random_checkpoint import write_random_checkpoint
from echoedge.core.weights.source import CheckpointSource
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import read_recipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.export.pipeline import export_bundle
from echoedge.runtime.export.request import ExportRequest, plan_of
from echoedge.runtime.fit.estimate import seconds
from echoedge.runtime.fit.fit import fit
from echoedge.runtime.fit.host import host_device, measure_rates, stays_loaded
from echoedge.runtime.fit.workload import Workload, workload
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import STAGES

SHAPES = {"nano": ("64x64x9", "64x64x25", "64x64x49"), "flash": ("64x64x9", "128x128x9", "128x128x25")}
STEPS = {"nano": 2, "flash": 2}
NOTHING = TextTowerConfig(vocab=8, dim=8, layers=1, mlp_dim=8, positions=8, out_dim=8)  # never used
TWO_BLOCKS = Architecture(replace(FLASH, layers=2), clip_text=NOTHING)
COMPONENTS = ("transformer", "vae", "clip", "wav2vec2", "tiny_vae")
PHONES = (
    "Pixel 8", "Pixel 9", "Pixel 9 Pro", "Galaxy S24 (Snapdragon)", "Galaxy S25", "Xiaomi 15", "OnePlus 13", "iPhone 14",
    "iPhone 15", "iPhone 16", "iPhone 16 Pro", "iPhone 17 Pro",
)  # fmt: skip


# ---- this machine ---------------------------------------------------------------------------------------------------------------


def bundle_of(model: str, clip: ClipSpec, folder: Path) -> Bundle:
    """The finished bundle of a shape, compiled where it is not there yet."""
    out = folder / f"{model}-{clip}.echoedge"
    if (out / MANIFEST).exists():
        return Bundle.open(out)
    if model == "nano":
        api.export(out, model="nano", frames=clip.frames, steps=STEPS["nano"], jobs=1)
        return Bundle.open(out)
    checkpoint = folder / "flash"
    if not checkpoint.exists():
        write_random_checkpoint(checkpoint, "flash", COMPONENTS, base=False, architecture=TWO_BLOCKS, dtype=torch.bfloat16)
    prompts = {"a woman talks": np.random.default_rng(0).standard_normal((8, FLASH.text_dim)).astype(np.float32)}
    request = ExportRequest(
        CheckpointSource(str(checkpoint), "flash", TWO_BLOCKS), (clip,), plan_of(PLAN_PRESETS["flash"], clip, STEPS["flash"]),
        read_recipe("int8"), (demo_material(clip, whole=False),), demo_material(clip, whole=False, number=1), prompts=prompts,
    )  # fmt: skip
    export_bundle(request, out, jobs=1)
    return Bundle.open(out)


def work_of(model: str, clip: ClipSpec) -> Workload:
    sizes = None if model == "nano" else TWO_BLOCKS
    return workload(model, "int8", size=(clip.height, clip.width), frames=clip.frames, steps=STEPS[model], sizes=sizes)


def played(bundle: Bundle, prompt: str | None, runs: int) -> dict[str, Any]:
    """The record of `echoedge bench`, a process that knows no exporter."""
    command = [sys.executable, "-m", "echoedge.cli", "bench", str(bundle.root), "--runs", str(runs), "--json"]
    told = subprocess.run([*command, *(("--prompt", prompt) if prompt else ())], capture_output=True, text=True, check=True)
    (record,) = json.loads(told.stdout)
    return dict(record)


def host_rows(models: list[str], shapes: list[str] | None, folder: Path, runs: int, rounds: int) -> Iterator[Row]:
    for model in models:
        for shape in shapes or SHAPES[model]:
            clip = parse_shape(shape, "--shapes")
            bundle, work = bundle_of(model, clip, folder), work_of(model, clip)
            rates = measure_rates(work, rounds)
            device = host_device(rates)
            free = int(device.app_bytes.value)
            found = fit(work, device, rates, stays=lambda given: stays_loaded(given, free)).forecast  # noqa: B023
            assert rates.cpu is not None
            cpu, record = seconds(work, rates.cpu), played(bundle, "a woman talks" if model == "flash" else None, runs)
            pairs = {
                "memory_mb": (found.need.total / 1e6, record["peak_rss_bytes"] / 1e6),
                "wall_ms": (1e3 * found.seconds.total, record["clip"]["median"]),
                "cpu_ms": (1e3 * cpu.total, record["cpu_ms"]),
                "disk_mb": (found.disk / 1e6, bundle.bytes / 1e6),
                **{f"{name}_ms": (1e3 * found.seconds.stages[name], record["stages"][name]["median"]) for name in STAGES},
                **{f"{term.replace(' ', '_')}_mb": (count / 1e6, None) for term, count in found.need.terms.items()},
            }
            row: Row = {"model": model if model == "nano" else "flash, 2 blocks", "clip": str(clip)}
            for name, (forecast, measured) in pairs.items():
                row[f"{name}_forecast"] = round(forecast, 3)
                if measured is not None:
                    row |= {f"{name}_measured": round(measured, 3), f"{name}_off": round(forecast / measured - 1, 4)}
            yield row


# ---- phones ---------------------------------------------------------------------------------------------------------------------


def phone_rows() -> Iterator[Row]:
    """flash, int4, 256x256x25, four steps, with the small decoder."""
    for name in PHONES:
        answer = api.fit(model="flash", weights="int4", size=(256, 256), frames=25, steps=4, decoder="tiny", device=name)
        told, change = answer.forecast, answer.change
        yield {
            "phone": name, "memory_gb": told.need.total / 1e9, "allowed_gb": told.allowed / 1e9,
            "allowed_by": answer.device.app_bytes.kind,
            "disk_gb": told.disk / 1e9, "load_s": told.seconds.load, "seconds_per_second": told.per_second,
            "rates": answer.device.rates["int8"].kind, "fits": "yes" if told.fits else "no", "most": told.dominant,
            "change": " ".join(change.options) if change else "",
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("host", "phones"))
    parser.add_argument("--work", type=Path, help="where bundles are compiled and used again")
    parser.add_argument("--models", nargs="+", default=["nano", "flash"], choices=list(SHAPES))
    parser.add_argument("--shapes", nargs="+", metavar="HEIGHTxWIDTHxFRAMES", help="of all models, instead of three of each")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if asked.what == "host" and asked.work is None:
        parser.error("host needs --work FOLDER")
    load = os.getloadavg()[0]
    if asked.what == "phones":
        rows = list(phone_rows())
    else:
        asked.work.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in host_rows(asked.models, asked.shapes, asked.work, asked.runs, asked.rounds):
            print(json.dumps(row), file=sys.stderr, flush=True)  # each took minutes
            rows.append(row)
    print(json.dumps(rows, indent=1))
    if asked.record is None:
        return
    host = asked.what == "host"
    conditions = (
        f"int8, {STEPS['nano']} steps of nano's student, {STEPS['flash']} of flash with two branches; rates measured in "
        f"{asked.rounds} rounds just before; clips played in a process of their own, medians of {asked.runs}, load {load:.1f}."
        if host
        else "Computed from runtime/fit/devices.json, on no machine and on no phone: flash, int4, 256×256, 25 frames, 4 steps of "
        "two branches, the small decoder, each program freed before the next. No figure is a measurement."
    )
    write_figures(
        asked.record, command=shlex.join(["python", *sys.argv]), source="the same command, which writes this file.",
        hardware=device_name() if host else "Counted, on no machine", versions=library_versions() if host else {},
        conditions=conditions, figures={"shapes" if host else "phones": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
