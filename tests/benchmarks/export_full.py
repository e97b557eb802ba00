"""What an export of a released checkpoint takes: wall and CPU time, peaks of memory, and what is known of each program.

    python tests/benchmarks/export_full.py CHECKPOINT PACK [--weights int4 int8] [--decoders full,tiny tiny] [--keep FOLDER]
                                           [--record records/export-flash.json]
    python tests/benchmarks/export_full.py CHECKPOINT PACK --target onnx --weights fp32 fp16 int8 int4 --decoders full,tiny
                                           --record records/export-flash-onnx.json

Runs `echoedge export` in the shape `--clip`, once for each of `--weights` with each of `--decoders`, and reads the finished bundle.
`fp16` is half precision of target onnx. Prints JSON; `--record` keeps it as docs/FIGURES.md shows it, after each bundle. Twelve
minutes and 30 GB of disk a bundle, on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
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


HALF = ("--weights", "fp32", "--device", "cuda", "--precision", "fp16")


def exported(asked: argparse.Namespace, weights: str, decoders: str, out: Path) -> tuple[Bundle, float, float]:
    """-> the bundle, wall and CPU seconds of its export."""
    (size, frames), stored = asked.clip.rsplit("x", 1), HALF if weights == "fp16" else ("--weights", weights)
    command = [
        sys.executable, "-m", "echoedge.cli", "export", "--model", "flash", "--checkpoint", str(asked.checkpoint), *stored,
        "--target", asked.target, "--size", size, "--frames", frames, "--prompts", str(asked.pack), "--memory", asked.memory,
        "--decoders", decoders, "--out", str(out), *(part for shape in asked.also for part in ("--also", shape)),
    ]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Bundle.open(out), wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row_of(bundle: Bundle, weights: str, decoders: str, wall: float, cpu: float) -> Row:
    memory = bundle.manifest.memory
    peaks: dict[str, int] = memory["export_peak_bytes_by_job"]
    largest = max(peaks, key=lambda name: peaks[name])
    compiled = max((name for name in peaks if name.startswith("compile")), key=lambda name: peaks[name])
    return {
        "weights": weights,
        "shapes": " and ".join(map(str, bundle.clips)),
        "decoders": decoders,
        "wall_s": round(wall),
        "cpu_s": round(cpu),
        "largest_process_gb": round(peaks[largest] / GB, 2),
        "largest_job": largest,
        "compiling_gb": round(peaks[compiled] / GB, 2),
        "all_processes_gb": round(memory["export_peak_bytes"] / GB, 2),
        "step_mb": round(file_bytes(bundle, bundle.manifest.programs["denoise"]) / 1e6),
        "programs_gb": round(sum(file_bytes(bundle, each) for each in bundle.manifest.programs.values()) / GB, 2),
    }


def file_bytes(bundle: Bundle, program: Program) -> int:
    """Of a program and its weights."""
    return program.artifact.bytes + (bundle.manifest.files[program.data].bytes if program.data else 0)


def programs_of(bundle: Bundle, weights: str, seen: set[str]) -> list[Row]:
    """Of each program whose file is not among `seen`, which holds it then."""
    memory, rows = bundle.manifest.memory, list[Row]()
    peaks, seconds = memory["export_peak_bytes_by_job"], memory["export_seconds_by_job"]
    for name, program in bundle.manifest.programs.items():
        if program.artifact.sha256 in seen:
            continue
        seen.add(program.artifact.sha256)
        placed = program.placement.values()
        others = sorted({operator.removeprefix("aten.").split(".")[0] for each in placed for operator in each.other_ops})
        rows.append(
            {
                "program": name,
                "bundle": weights,
                "weights": max(program.layers, key=lambda weights: program.layers[weights], default="fp32"),
                "methods": len(program.methods),
                "file_mb": round(file_bytes(bundle, program) / 1e6),
                "delegates": sum(each.delegate_calls for each in placed),
                "operators": sum(each.delegated_ops for each in placed),
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
    parser.add_argument("--target", default="executorch", choices=("executorch", "onnx"))
    parser.add_argument("--memory", default="4GB", help="as of `echoedge export`")
    parser.add_argument("--clip", default="256x256x25", metavar="SHAPE")
    parser.add_argument("--also", nargs="*", default=[], metavar="SHAPE", help="as of `echoedge export`")
    parser.add_argument("--beside", default="No other program beside.", help="a sentence about what else ran")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/export-flash.json")
    asked = parser.parse_args()
    tables: dict[str, list[Row]] = {"bundles": [], "programs": [], "references": []}
    load, seen = os.getloadavg()[0], set[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for weights, decoders in itertools.product(asked.weights, asked.decoders):
            out = (asked.keep or Path(scratch)) / f"flash-{weights}-{decoders.replace(',', '-')}.echoedge"
            bundle, wall, cpu = exported(asked, weights, decoders, out)
            tables["bundles"].append(row_of(bundle, weights, decoders, wall, cpu))
            tables["programs"] += programs_of(bundle, weights, seen)
            tables["references"] = tables["references"] or references_of(bundle)
            if asked.use and "use" not in tables:
                tables["use"] = used(out)
            if asked.record:
                record(asked, load, bundle, tables)
            if asked.keep is None:
                shutil.rmtree(out)
    print(json.dumps(tables, indent=1))


def record(asked: argparse.Namespace, load: float, bundle: Bundle, tables: dict[str, list[Row]]) -> None:
    chosen = "" if asked.target == "executorch" else f" --target {asked.target}"
    libraries = ("torchao", "executorch") if asked.target == "executorch" else ("onnx", "onnxscript", "onnxruntime")
    write_figures(
        asked.record,
        command=(
            f"echoedge export{chosen} --model flash --checkpoint FOLDER --size {asked.clip.rsplit('x', 1)[0]} --frames "
            f"{asked.clip.rsplit('x', 1)[1]} --memory {asked.memory} --prompts PACK"
        ),
        source=f"`tests/benchmarks/export_full.py CHECKPOINT PACK{chosen} --clip {asked.clip} --record {asked.record}`.",
        hardware=device_name(),
        versions={name: bundle.manifest.versions[name] for name in ("torch", *libraries)},
        conditions=(
            f"Random weights of full size. {asked.beside} Load before it {load:.1f}. Every file was executed once alone and "
            "compared with eager float32 before it entered the bundle. Peaks are of resident memory; that of all processes "
            "together counts pages that they share as often as they are mapped."
        ),
        figures=tables,
    )


if __name__ == "__main__":
    main()
