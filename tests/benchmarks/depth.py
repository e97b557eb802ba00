"""The whole step of flash, thirty blocks, for one target: its file in each form, executed and compared with full precision.

    python tests/benchmarks/depth.py CHECKPOINT PACK [--target onnx] [--forms fp32 fp16 int8 int4] --record records/onnx_depth.json
    python tests/benchmarks/depth.py CHECKPOINT PACK --target coreml --record records/coreml_depth.json
    python tests/benchmarks/depth.py CHECKPOINT PACK --target coreai --record records/coreai_depth.json

The jobs of `echoedge export` that the step's proof waits for, and no others, each in a process of its own: the encoders and the
step in full precision, the graph and its weights, the file executed on the recorded call of each shape. Minutes a form.

PSNR is the proof's; SQNR is of the same calls, executed once more here: the lowest of their outputs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from echoedge.core.bundle.golden import compare
from echoedge.core.config import ClipSpec
from echoedge.docs.figures import Row, write_figures
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.bench.headroom import headroom_of
from echoedge.runtime.engines.mil import engine as mil
from echoedge.runtime.engines.mil.observed import Observations
from echoedge.runtime.export.jobs import Job, JobRunner
from echoedge.runtime.export.pipeline import jobs_of
from echoedge.runtime.export.request import ExportRequest, checkpoint_request
from echoedge.runtime.registry import open_built

GB = 1e9
NEAREST = Path(__file__).with_name("int4_nearest.json")
CLIPS = (ClipSpec(128, 128, 9), ClipSpec(64, 96, 9), ClipSpec(96, 96, 13))
# By target and form: the weights, and the target's options.
FORMS: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "onnx": {
        "fp32": ("fp32", {}),
        "fp16": ("fp32", {"device": "cuda", "precision": "fp16"}),
        "int8": ("int8", {}),
        "int4": ("int4", {}),
    },
    # The preset int4 searches its roundings, half an hour at this depth; int4-nearest is for size and memory.
    "coreml": {
        "fp16": ("fp32", {}),
        "int8": ("int8", {}),
        "int4-nearest": (str(NEAREST), {}),
    },
    "coreai": {
        "fp32": ("fp32", {}),
        "bf16": ("fp32", {"precision": "bf16"}),
        "int8": ("int8", {}),
        "int4-nearest": (str(NEAREST), {}),
    },
}
TOOLS = {
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "coreml": ("torch", "coremltools"),
    "coreai": ("torch", "coreai-core", "coreai-torch"),
}
CONDITIONS = {
    "onnx": "every file executed on the CPU and compared with eager float32; fp16 is made for CUDA",
    "coreml": "every package interpreted, with results rounded to half precision, and compared with eager float32",
    "coreai": "every file executed by Apple's runtime on the CPU and compared with eager float32",
}


def closure(job: Job) -> list[Job]:
    """A job behind those that it waits for."""
    found: list[Job] = []
    for before in job.after:
        found += [each for each in closure(before) if each not in found]
    return [*found, job]


def sizes_of(path: Path) -> list[int]:
    """Bytes of the packages in a program's folder, which phones load one at a time; of a file, its own."""
    loaded = [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []
    return [sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) for each in loaded or [path]]


def sqnr_of(request: ExportRequest, folder: Path, proof: Job, done: Mapping[str, Any]) -> dict[str, float | str]:
    """Signal over noise of a proven program's recorded outputs in dB, the lowest of them; of a package in float32, too, and the
    largest magnitude that half precision had to hold."""
    made, recorded, *shared = (done[each.name].result for each in proof.after)
    golden, built = recorded.read_golden(folder), made.built(folder, shared[0].path if shared else None)
    ways: dict[str, Any] = {"sqnr_db": open_built(request.target, built).run}
    seen = Observations()
    if request.target == "coreml":
        ways = {"sqnr_db": partial(mil.open_built(built).run, tap=seen), "sqnr_float32_db": mil.open_built(built, "fp32").run}
    found: dict[str, float | str] = {}
    for name, execute in ways.items():
        noted: list[tuple[str, list[Any]]] = []

        def run(_: str, method: str, inputs: Sequence[Any], execute: Any = execute, noted: list[Any] = noted) -> list[Any]:
            noted.append((method, execute(method, inputs)))
            return noted[-1][1]

        compare(golden, run, [made.label], lambda source: recorded.array(folder, f"{source.program}.{source.output}"))
        calls = {method: iter(calls) for method, calls in golden.index["programs"][made.label].items()}
        pairs = [
            golden.pair(expected, output)
            for method, outputs in noted
            for expected, output in zip(next(calls[method])["outputs"], outputs, strict=True)
            if expected is not None
        ]
        found[name] = round(min(sqnr(*pair) for pair in pairs), 1)
    if seen.records:
        room = headroom_of("denoise", "forward", seen.records)
        found |= {"largest": round(room.largest, 2), "of": room.of}
    return found


def sqnr(expected: Any, found: Any) -> float:
    """In dB."""
    signal, noise = (float(np.mean(np.square(x, dtype=np.float64))) for x in (expected, expected - found))
    return 10 * math.log10(signal / noise)


def measured(checkpoint: Path, pack: Path, target: str, form: str, clips: tuple[ClipSpec, ...], memory: int) -> list[Row]:
    weights, options = FORMS[target][form]
    request = checkpoint_request(
        checkpoint, "flash", weights, target=target, options=options, clips=clips, decoders=("tiny",), prompts=pack
    )
    jobs = {job.name: job for job in jobs_of(request)[0]}
    proofs = {str(clip): f"proof of denoise{f'-{clip}' if number else ''}" for number, clip in enumerate(clips)}
    todo: list[Job] = []
    for name in proofs.values():
        todo += [each for each in closure(jobs[name]) if each not in todo]
    with tempfile.TemporaryDirectory() as folder, JobRunner(Path(folder) / "work", form, 1, memory) as runner:
        done = runner.run(todo, request, lambda *told: print(form, *told, flush=True))
        made: Any = done["compile denoise"]
        sizes = sizes_of(runner.folder / made.result.path)
        noise = {clip: sqnr_of(request, runner.folder, jobs[name], done) for clip, name in proofs.items()}
        runner.remove()
    return [
        {
            "form": form,
            "clip": clip,
            "psnr_db": round(done[name].result.figures.psnr_db, 1),
            "cosine": done[name].result.figures.cosine,
            **noise[clip],
            "file_mb": round(sum(sizes) / 1e6),
            "files": len(sizes),
            "largest_mb": round(max(sizes) / 1e6),
            "compiling_s": made.seconds,
            "compiling_gb": round(made.peak_bytes / GB, 2),
            "proof_s": done[name].seconds,
            "proof_gb": round(done[name].peak_bytes / GB, 2),
        }
        for clip, name in proofs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--target", default="onnx", choices=list(FORMS))
    parser.add_argument("--forms", nargs="+", metavar="FORM", help="all of the target's by default")
    parser.add_argument("--memory", type=float, default=16, help="most memory to plan for, GB")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there, beside those of other forms")
    asked = parser.parse_args()
    forms = asked.forms or list(FORMS[asked.target])
    known = json.loads(asked.record.read_text())["figures"]["step"] if asked.record and asked.record.exists() else []
    rows = [row for row in known if row["form"] not in forms]
    for form in forms:
        clips = CLIPS if form == "fp32" else CLIPS[:1]
        rows += measured(asked.checkpoint, asked.pack, asked.target, form, clips, round(asked.memory * GB))
        print(rows, flush=True)
        if asked.record:
            keep(asked.record, asked.target, rows)


def keep(path: Path, target: str, rows: list[Row]) -> None:
    from echoedge.core.versions import library_versions

    versions = library_versions()
    write_figures(
        path, command=shlex.join(["python", *sys.argv[:1], "CHECKPOINT", "PACK", "--target", target]),
        source=f"the same command with `--record {path}`, which writes this file.", hardware=device_name(),
        versions={name: versions[name] for name in TOOLS[target] if name in versions},
        conditions=(
            f"Thirty blocks of full width, random weights; {CONDITIONS[target]}, the worst of the recorded calls. Load "
            f"{os.getloadavg()[0]:.1f} at the end."
        ),
        figures={"step": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
