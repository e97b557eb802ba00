"""One denoising step of two full-width blocks as the target onnx compiles it: agreement, and time beside the step as published.

    python tests/benchmarks/onnx_step.py --record records/onnx_step.json

1. model      flash at full width with two blocks, random weights
2. compiled   the step in each form, once: graphs with free sizes
3. agreement  of each with full precision, float32 at three shapes from one file
4. time       CPU seconds of one call on one thread, forms in turn, the least of the rounds; the blocks as published (`peers.py`),
              where keys and values of every condition are computed in the step; and what the engine adds to the bare session
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echoedge.core.config import FLASH, ClipSpec
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import Model
from echoedge.core.model.transformer import DiT
from echoedge.core.weights.source import HeldSource, Making, entry_points, unit
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.engines.onnx import run_bound
from echoedge.targets.base import Fitting
from echoedge.targets.onnx.session import library, open_session
from echoedge.targets.onnx.target import TARGET

CLIP, OTHERS = ClipSpec(128, 128, 25), (ClipSpec(64, 96, 9), ClipSpec(96, 160, 17))
TEXT_ROWS = 64
INT4 = WeightRecipe(name="int4", rules=(*PRESETS["int4"].rules[:2], Rule(modules="*blocks.*", weights="int4", rounding="nearest")))
FORMS: dict[str, tuple[WeightRecipe, dict[str, str]]] = {
    "fp32": (PRESETS["fp32"], {}),
    "fp16": (PRESETS["fp32"], {"device": "cuda", "precision": "fp16"}),
    "int8, inputs in blocks": (PRESETS["int8"], {}),
    "int8, inputs whole": (PRESETS["int8"], {"inputs": "whole"}),
    "int4, inputs in blocks": (INT4, {}),
}
PUBLISHED = "as published, fp32"


def source(width_of: str) -> HeldSource:
    torch.manual_seed(7)
    config = (
        replace(FLASH, layers=2) if width_of == "flash" else replace(FLASH, layers=2, dim=128, heads=2, ffn_dim=256, name="toy")
    )
    dit = DiT(config).eval().requires_grad_(False)
    torch.nn.init.normal_(dit.head.head.weight, std=config.dim**-0.5)
    return HeldSource(Model(config, dit, None, None), "0" * 64)  # type: ignore[arg-type]


def compiled(model: HeldSource, form: str, folder: Path) -> Path:
    """The graph of the step in a form; made once."""
    recipe, options = FORMS[form]
    place = folder / form.replace(", ", "-").replace(" ", "-")
    if not place.exists():
        place.mkdir(parents=True)
        made = unit(model, "denoise", CLIP, Making(TEXT_ROWS))
        chosen = TARGET.options(**options)
        TARGET.write([TARGET.lower(made, "denoise", recipe, chosen, None, Fitting())], place, "denoise", chosen)
    return place / "denoise" / "forward.onnx"


def published(folder: Path, toy: bool) -> Callable[[], Any]:
    """The same two blocks with keys and values inside, exported as `peers.py` does."""
    from echoedge.tests.benchmarks.peers import Task, _onnx  # one export of the blocks for every tool

    task = Task(folder, 448, "published", 1, "nano" if toy else "flash", 2)
    path = _onnx(task)
    options = library().SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = library().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in task.inputs().items()}
    return lambda: session.run(None, feed)


def least(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, called in turn."""
    found = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - began)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/onnx_step"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--model", choices=("flash", "toy"), default="flash")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    model, rows, calls = source(given.model), [], {}
    for form in given.forms:
        session = open_session(compiled(model, form, given.out), "cpu", 1)
        for clip in (CLIP, *(OTHERS if form == "fp32" else ())):
            entry = entry_points(model, "denoise", clip, Making(TEXT_ROWS))["forward"]
            inputs = entry.drawn(3)
            inputs["text_bias"][0, 60:] = -1e9
            expected = entry.run(*inputs.values())[0].numpy()
            feed = {name: x.numpy() for name, x in inputs.items()}
            (found,) = session.run(None, feed)
            rows.append({"form": form, "clip": str(clip), "psnr_db": round(psnr(expected, found, float(np.ptp(expected))), 1)})
            print(rows[-1], flush=True)
            if clip == CLIP:
                calls[form] = partial(session.run, None, feed)
                if form == "fp32":
                    known = TARGET.methods(unit(model, "denoise", CLIP, Making(TEXT_ROWS)))["forward"]
                    through = partial(run_bound, session, "denoise", "cpu", known, list(feed.values()), [False])
                    calls["fp32, through the engine"] = through
    calls[PUBLISHED] = published(given.out, given.model == "toy")
    seconds = least(calls, given.rounds)
    timed = [{"form": n, "cpu_seconds": s, "over_published": s / seconds[PUBLISHED]} for n, s in seconds.items()]
    for row in timed:
        print(
            f"{row['form']:28s} {1e3 * row['cpu_seconds']:8.1f} ms CPU, {row['over_published']:.2f} of the step as published",
            flush=True,
        )
    if given.record:
        from echoedge.docs.figures import write_figures

        command = shlex.join(["python", *sys.argv])
        write_figures(
            given.record, command=command, source=f"the same command with `--record {given.record}`, which writes this file.",
            hardware=device_name(), versions={n: importlib.metadata.version(n) for n in ("torch", "onnx", "onnxruntime")},
            conditions=(
                f"Two blocks of {given.model} at full width with patches and head, random weights, {TEXT_ROWS} rows of text; "
                f"one thread, CPU time, the least of {given.rounds} calls in turn; load {os.getloadavg()[0]:.1f} at the end. "
                "fp16 is made for CUDA; processors take float32 between its operators. Published: the blocks alone, keys and "
                "values of 512 rows of text inside."
            ),
            figures={"agreement": rows, "times": timed},
        )  # fmt: skip


if __name__ == "__main__":
    main()
