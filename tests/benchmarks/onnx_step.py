"""One denoising step of two full-width blocks as the target onnx compiles it: agreement, and time beside the step as published.

    python tests/benchmarks/onnx_step.py --record records/onnx_step.json

1. model      flash at full width with two blocks, random weights
2. compiled   the step in each form, once: graphs with free sizes
3. agreement  of each with full precision, float32 at three shapes from one file
4. beside it  by hand, the same step exported by torch at this one shape, with the library's attention; as published (`peers.py`),
              the blocks alone, keys and values of every condition computed in the step; both by ONNX Runtime's own quantisers
5. time       CPU seconds of one call on one thread, all in turn, the least of the rounds; and what the engine adds to the session,
              conditions lying where their programs left them
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import logging
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
from echoedge.core.model.programs import CONDITION_INPUTS as CONDITIONS
from echoedge.core.model.programs import Model
from echoedge.core.model.transformer import DiT
from echoedge.core.weights.source import HeldSource, Making, entry_points, unit
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.engines.onnx import OnDevice, run_bound
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
OURS, ENGINE, BY_HAND, PUBLISHED = MAKERS = ("ours", "engine", "by_hand", "published")
# What ONNX Runtime's own quantisers make of a graph, at the precision of a form; None leaves it in float32.
RIVALS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8, inputs in blocks": {"bits": 8, "block_size": 128, "is_symmetric": True, "accuracy_level": 4},
    "int8, inputs whole": {},
    "int4, inputs in blocks": {"bits": 4, "block_size": 32, "is_symmetric": True, "accuracy_level": 4},
}


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


def by_hand(model: HeldSource, folder: Path) -> Path:
    """The step as torch exports it at this one shape, with the library's attention, everything else left to the exporter."""
    from echoedge.tests.benchmarks.peers import PlainCross, _once

    def make(scratch: Path) -> None:
        entry = entry_points(model, "denoise", CLIP, Making(TEXT_ROWS))["forward"]
        module = copy.deepcopy(entry.module)
        for block in module.dit.blocks:
            block.cross_attn = PlainCross(block.cross_attn)
        program = torch.onnx.export(
            module, tuple(entry.drawn(3).values()), dynamo=True, opset_version=23, input_names=list(entry.inputs),
            output_names=["velocity"], external_data=True, verbose=False,
        )  # fmt: skip
        program.save(str(scratch / "exported.onnx"), external_data=True)
        without_shapes(scratch / "exported.onnx", scratch / "graph.onnx")

    return _once(folder / "by-hand", make) / "graph.onnx"


def without_shapes(exported: Path, path: Path) -> None:
    """A copy without the shapes that the exporter's rewrites left stale: quantisers would refuse them."""
    import onnx

    graph = onnx.load(str(exported))
    del graph.graph.value_info[:]
    onnx.save(graph, str(path), save_as_external_data=True, location=f"{path.stem}.data")


def rival(graph: Path, form: str) -> Path:
    """`graph` at the precision of a form, by ONNX Runtime's own quantisers; made once."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    settings = RIVALS[form]
    if settings is None:
        return graph
    path = graph.with_name(f"{form.replace(', ', '-').replace(' ', '-')}.onnx")
    if path.exists():
        return path
    if settings:
        quantiser = MatMulNBitsQuantizer(onnx.load(str(graph)), **settings)
        quantiser.process()
        quantiser.model.save_model_to_file(str(path), use_external_data_format=True)
    else:
        quantize_dynamic(
            str(graph), str(path), op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )  # fmt: skip
    return path


def on_device(array: Any) -> OnDevice:
    return OnDevice(library().OrtValue.ortvalue_from_numpy(array, "cpu", 0))


def session_of(path: Path) -> Any:
    options = library().SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return library().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def least(calls: dict[tuple[str, str], Callable[[], Any]], rounds: int) -> dict[tuple[str, str], float]:
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


def over(seconds: dict[tuple[str, str], float], form: str, maker: str) -> float | None:
    """Our time of a form over that of another export of the same precision."""
    return seconds[form, OURS] / seconds[form, maker] if (form, maker) in seconds else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/onnx_step"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--model", choices=("flash", "toy"), default="flash")
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    logging.disable(logging.WARNING)  # exporters and quantisers tell every node
    from echoedge.tests.benchmarks.peers import Task, _onnx  # one export of the blocks for every tool

    model, rows, calls = source(given.model), [], {}
    task = Task(given.out, 448, "published", 1, "nano" if given.model == "toy" else "flash", 2)
    published, hand = _onnx(task), by_hand(model, given.out)
    of_published = {name: value.numpy() for name, value in task.inputs().items()}
    for form in given.forms:
        session = open_session(compiled(model, form, given.out), "cpu", 1)
        for clip in (CLIP, *(OTHERS if form == "fp32" else ())):
            entry = entry_points(model, "denoise", clip, Making(TEXT_ROWS))["forward"]
            inputs = entry.drawn(3)
            inputs["text_bias"][0, 60:] = -1e9
            expected = entry.run(*inputs.values())[0].numpy()
            feed = {name: x.numpy() for name, x in inputs.items()}

            def add(maker: str, found: Any, clip: ClipSpec = clip, expected: Any = expected, form: str = form) -> None:
                decibels = round(psnr(expected, found, float(np.ptp(expected))), 1)
                rows.append({"form": form, "export": maker, "clip": str(clip), "psnr_db": decibels})
                print(rows[-1], flush=True)

            add(OURS, session.run(None, feed)[0])
            if clip != CLIP:
                continue
            calls[form, OURS] = partial(session.run, None, feed)
            known = TARGET.methods(unit(model, "denoise", CLIP, Making(TEXT_ROWS)))["forward"]
            given_to = [on_device(x) if name in CONDITIONS else x for name, x in feed.items()]
            calls[form, ENGINE] = partial(run_bound, session, "denoise", "cpu", known, given_to, [False])
            if form in RIVALS:
                other, bare = session_of(rival(hand, form)), session_of(rival(published, form))
                add(BY_HAND, other.run(None, feed)[0])
                calls[form, BY_HAND] = partial(other.run, None, feed)
                calls[form, PUBLISHED] = partial(bare.run, None, of_published)
    seconds = least(calls, given.rounds)
    timed = [
        {
            "form": form,
            **{f"{maker}_ms": 1e3 * seconds[form, maker] if (form, maker) in seconds else None for maker in MAKERS},
            **{f"over_{maker}": over(seconds, form, maker) for maker in (BY_HAND, PUBLISHED)},
            "over_published_fp32": seconds[form, OURS] / seconds["fp32", PUBLISHED] if ("fp32", PUBLISHED) in seconds else None,
            "engine_adds": seconds[form, ENGINE] / seconds[form, OURS] - 1,
        }
        for form in given.forms
    ]
    for row in timed:
        print(
            ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{value}" for name, value in row.items()), flush=True
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
                "fp16 is made for CUDA; processors take float32 between its operators. By hand: the same step for this one shape, "
                "exported by torch and quantised by ONNX Runtime. Published: the blocks alone, keys and values of 512 rows of text "
                "inside, exported and quantised the same way."
            ),
            figures={"agreement": rows, "times": timed},
        )  # fmt: skip


if __name__ == "__main__":
    main()
