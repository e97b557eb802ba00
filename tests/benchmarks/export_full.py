"""What an export of a released checkpoint takes: wall and CPU time, peaks of memory, and what is known of each program.

    python tests/benchmarks/export_full.py CHECKPOINT PACK [--weights int4 int8] [--decoders full,tiny tiny] [--keep FOLDER]
                                           [--record records/export-flash.json]

Runs `echoedge export` at 256x256, 25 frames, `--memory 4GB`, once for each of `--weights` with each of `--decoders`, and reads the
finished bundle. Prints JSON; `--record` keeps it as docs/FIGURES.md shows it. Twelve minutes and 30 GB of disk a bundle, on a quiet
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.programs import Program
from echoedge.core.weights.nano import assets
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name

GB = 1e9


def exported(checkpoint: Path, pack: Path, weights: str, decoders: str, out: Path) -> tuple[Bundle, float, float]:
    """-> the bundle, wall and CPU seconds of its export."""
    command = [
        sys.executable, "-m", "echoedge.cli", "export", "--model", "flash", "--checkpoint", str(checkpoint), "--weights", weights,
        "--size", "256x256", "--frames", "25", "--prompts", str(pack), "--memory", "4GB", "--decoders", decoders, "--out", str(out),
    ]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Bundle.open(out), wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row_of(bundle: Bundle, decoders: str, wall: float, cpu: float) -> Row:
    memory = bundle.manifest.memory
    peaks: dict[str, int] = memory["export_peak_bytes_by_job"]
    largest = max(peaks, key=lambda name: peaks[name])
    return {
        "weights": bundle.manifest.weights.name,
        "decoders": decoders,
        "wall_s": round(wall),
        "cpu_s": round(cpu),
        "largest_process_gb": round(peaks[largest] / GB, 2),
        "largest_job": largest,
        "all_processes_gb": round(memory["export_peak_bytes"] / GB, 2),
        "step_mb": round(file_bytes(bundle, bundle.manifest.programs["denoise"]) / 1e6),
        "programs_gb": round(sum(file_bytes(bundle, each) for each in bundle.manifest.programs.values()) / GB, 2),
    }


def file_bytes(bundle: Bundle, program: Program) -> int:
    """Of a program and its weights."""
    return program.artifact.bytes + (bundle.manifest.files[program.data].bytes if program.data else 0)


def programs_of(bundle: Bundle) -> list[Row]:
    memory, rows = bundle.manifest.memory, list[Row]()
    peaks, seconds = memory["export_peak_bytes_by_job"], memory["export_seconds_by_job"]
    for name, program in bundle.manifest.programs.items():
        placed = program.placement.values()
        others = sorted({operator.removeprefix("aten.").split(".")[0] for each in placed for operator in each.other_ops})
        rows.append(
            {
                "program": name,
                "weights": max(program.layers, key=lambda weights: program.layers[weights], default="fp32"),
                "methods": len(program.methods),
                "file_mb": round(file_bytes(bundle, program) / 1e6),
                "delegates": sum(each.delegate_calls for each in placed),
                "outside": ", ".join(others) or "nothing",
                "compiling_gb": round(peaks[f"compile {name}"] / GB, 2),
                "compiling_s": seconds[f"compile {name}"],
                "proof_gb": round(peaks[f"proof of {name}"] / GB, 2),
                "proof_s": seconds[f"proof of {name}"],
                "psnr_db": program.measured and program.measured.psnr_db and round(program.measured.psnr_db, 1),
            }
        )
    return rows


def references_of(bundle: Bundle) -> list[Row]:
    memory = bundle.manifest.memory
    peaks, seconds = memory["export_peak_bytes_by_job"], memory["export_seconds_by_job"]
    names = [name for name in peaks if name.startswith("reference")]
    return [{"part": name, "peak_gb": round(peaks[name] / GB, 2), "seconds": seconds[name]} for name in names]


def used(bundle: Path) -> list[Row]:
    """`verify` and `animate --decoder tiny` of a bundle: wall time, and the peak of the command's process."""
    portrait, speech = assets() / "demo" / "ada.png", assets() / "demo" / "hello.wav"
    with tempfile.TemporaryDirectory() as scratch:
        animate = ["animate", str(bundle), "--image", str(portrait), "--audio", str(speech), "--out", f"{scratch}/clip.mp4"]
        commands = {"verify": ["verify", str(bundle)], "animate --decoder tiny": [*animate, "--decoder", "tiny", "--prompt", ""]}
        rows = list[Row]()
        for name, command in commands.items():
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", "echoedge.cli", *command])
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{name} failed.")
            wall = round(time.perf_counter() - started)
            rows.append({"command": name, "wall_s": wall, "peak_gb": round(usage.ru_maxrss * 1024 / GB, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--weights", nargs="+", default=["int4", "int8"])
    parser.add_argument("--decoders", nargs="+", default=["full,tiny", "tiny"])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the bundles stay")
    parser.add_argument("--use", action="store_true", help="also time verify and animate with the first bundle")
    parser.add_argument("--beside", default="No other program beside.", help="a sentence about what else ran")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/export-flash.json")
    asked = parser.parse_args()
    tables: dict[str, list[Row]] = {"bundles": [], "programs": [], "references": []}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        for weights in asked.weights:
            for decoders in asked.decoders:
                out = (asked.keep or Path(scratch)) / f"flash-{weights}-{decoders.replace(',', '-')}.echoedge"
                bundle, wall, cpu = exported(asked.checkpoint, asked.pack, weights, decoders, out)
                tables["bundles"].append(row_of(bundle, decoders, wall, cpu))
                known = {(row["program"], row["weights"]) for row in tables["programs"]}
                tables["programs"] += [row for row in programs_of(bundle) if (row["program"], row["weights"]) not in known]
                tables["references"] = tables["references"] or references_of(bundle)
                if asked.use and "use" not in tables:
                    tables["use"] = used(out)
                versions = bundle.manifest.versions
    print(json.dumps(tables, indent=1))
    if asked.record:
        write_figures(
            asked.record,
            command="echoedge export --model flash --checkpoint FOLDER --size 256x256 --frames 25 --memory 4GB --prompts PACK",
            source="`tests/benchmarks/export_full.py CHECKPOINT PACK --record records/export-flash.json`.",
            hardware=device_name(),
            versions={name: versions[name] for name in ("torch", "torchao", "executorch")},
            conditions=(
                f"Random weights of full size. {asked.beside} Load before it {load:.1f}. Every file was executed once alone and "
                "compared with eager float32 before it entered the bundle. Peaks are of resident memory; that of all processes "
                "together counts pages that they share as often as they are mapped."
            ),
            figures=tables,
        )


if __name__ == "__main__":
    main()
