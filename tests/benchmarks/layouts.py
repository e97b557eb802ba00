"""The transformer's step in both layouts of the Core ML target, side by side: what `inspect --lint` finds, operators, agreement.

    python tests/benchmarks/layouts.py [--steps flash:int8 nano:fp32 nano:int8] --record records/coreml_layouts.json

nano's step, with the weights that ship, and one of flash's width with two blocks of random weights; each package is written,
interpreted with results rounded to half precision and in float32, and compared with eager float32 on inputs drawn at random. A
process for each package; minutes each.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echoedge.core.config import FLASH, NANO_CLIP, ClipSpec
from echoedge.core.model.programs import denoise_program
from echoedge.core.model.transformer import DiT
from echoedge.core.versions import library_versions
from echoedge.core.weights.nano import load_nano
from echoedge.core.weights.source import Unit
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.bench.clip import device_name
from echoedge.runtime.engines.mil.engine import Programs
from echoedge.runtime.engines.mil.lint import RULES, lint
from echoedge.runtime.engines.mil.package import Package
from echoedge.targets.base import Fitting
from echoedge.targets.coreml.names import LAYOUTS
from echoedge.targets.coreml.target import TARGET

TEXT_ROWS, BLOCKS, SEED = 64, 2, 3
CLIPS = {"nano": NANO_CLIP, "flash": ClipSpec(256, 256, 25)}


def model_of(name: str) -> DiT:
    if name == "nano":
        return load_nano().dit
    torch.manual_seed(SEED)
    dit = DiT(replace(FLASH, layers=BLOCKS)).eval()
    torch.nn.init.xavier_uniform_(dit.head.head.weight)  # it starts at zero
    return dit


def sqnr(expected: Any, found: Any) -> float:
    """Signal to noise in dB."""
    noise = np.square(expected.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise))


def measured(model: str, weights: str, layout: str) -> Row:
    dit, clip, options = model_of(model), CLIPS[model], TARGET.options(layout=layout)
    methods = denoise_program(dit, clip, TEXT_ROWS)
    entry, unit = methods["forward"], Unit("denoise", clip, methods, clip, dit.config)
    given = entry.drawn(SEED)
    (expected,) = (x.numpy() for x in entry.run(*given.values()))
    began = time.process_time()
    lowered = TARGET.lower(unit, "denoise", PRESETS[weights], options, None, Fitting())
    with tempfile.TemporaryDirectory() as folder:
        (built,) = TARGET.write([lowered], Path(folder), "denoise", options)
        seconds, most = time.process_time() - began, _peak()
        record, package = TARGET.methods(unit)["forward"], Package.open(built.path / "forward.mlpackage")
        found = Counter(finding.rule for finding in lint(package))
        agreements = {}
        for precision, name in (("fp16", "half_db"), ("fp32", "single_db")):
            (ours,) = Programs(precision).run(built.path, "forward", [x.numpy() for x in given.values()], record=record)  # type: ignore[arg-type]
            agreements[name] = round(sqnr(expected, ours), 1)
        size = package.weight_bytes
        operators = sum(count for kind, count in package.function().counts.items() if kind != "const")
    return {
        "model": model, "weights": "fp16" if weights == "fp32" else weights, "layout": layout, "operators": operators,
        "findings": sum(found.values()),
        **{f"{rule.name.replace(' ', '_')}_found": found[rule.name] for rule in RULES},
        **agreements,
        "weights_mb": round(size / 1e6, 1), "converting_cpu_s": round(seconds, 1), "peak_gb": round(most, 2),
    }  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", default=["flash:int8", "nano:fp32", "nano:int8"], metavar="MODEL:WEIGHTS")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "WEIGHTS", "LAYOUT"), help="print one package's figures as JSON")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there, after each package")
    asked, rows = parser.parse_args(), list[Row]()
    if asked.one:
        print(json.dumps(measured(*asked.one)))
        return
    for step in asked.steps:
        for layout in LAYOUTS:
            command = [sys.executable, __file__, "--one", *step.split(":"), layout]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(told.splitlines()[-1]))
            print(rows[-1], flush=True)
            if asked.record:
                keep(asked.record, rows)


def keep(path: Path, rows: list[Row]) -> None:
    versions = library_versions()
    write_figures(
        path, command=shlex.join(["python", *sys.argv[:1]]),
        source=f"the same command with `--record {path}`, which writes this file.", hardware=device_name(),
        versions={name: versions[name] for name in ("torch", "coremltools")},
        conditions=(
            f"iOS 18; nano: {NANO_CLIP}; flash: its width, {BLOCKS} blocks of random weights, {CLIPS['flash']}; prompts of "
            f"{TEXT_ROWS} rows; inputs drawn at random; each package interpreted and compared with eager float32, once; "
            "converting in seconds of the processor, on a machine that others used; a process each, whose memory holds the model "
            "in float32 too."
        ),
        figures={"steps": rows},
    )  # fmt: skip


if __name__ == "__main__":
    main()
