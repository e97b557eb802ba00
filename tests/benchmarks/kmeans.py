"""Palettes of one layer: our k-means beside coremltools' through its public palettisation, wall time and signal-to-noise ratio.

    python tests/benchmarks/kmeans.py [--outputs 1792] [--bits 4] [--record records/kmeans.json]

The layer is Linear(1536, 8960), tables for 16 output channels each. coremltools takes its exact mode, which is long, and its fast
one, its default, which rounds weights to four decimals first; both with one worker, on the first `--outputs` channels. Ours is
timed on the same ones and on the whole layer, with one thread. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from echoedge.core.versions import library_versions
from echoedge.docs.figures import Row, write_figures
from echoedge.quantize.grid import Palette
from echoedge.quantize.roundings.kmeans import kmeans
from echoedge.runtime.bench.clip import device_name

OUT, IN, ROWS = 8960, 1536, 16
SIZE = 0.02  # of a weight, as in trained transformers of this width
RUNS = 3  # of ours


def weights() -> dict[str, Tensor]:
    """Normal; Student's t of three degrees of freedom; normal with one weight in a thousand 20 times as large."""
    generator = torch.Generator().manual_seed(0)
    normal = SIZE * torch.randn(OUT, IN, generator=generator)
    heavy = normal / torch.randn(OUT, IN, 3, generator=generator).square().mean(-1).sqrt()
    outliers = torch.where(torch.rand(OUT, IN, generator=generator) < 0.001, 20 * normal, normal)
    return {"normal": normal, "heavy tails": heavy, "outliers": outliers}


def signal_to_noise(weight: Tensor, values: Tensor) -> float:
    return float(10 * torch.log10(weight.double().square().sum() / (weight - values).double().square().sum()))


def ours(weight: Tensor, bits: int) -> Tensor:
    return kmeans(weight, Palette(bits, ROWS)).values()


def theirs(fast: bool) -> Callable[[Tensor, int], Tensor]:
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    def palettise(weight: Tensor, bits: int) -> Tensor:
        layer = nn.Linear(IN, len(weight), bias=False)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        options = {
            "n_bits": bits, "granularity": "per_grouped_channel", "group_size": ROWS, "enable_fast_kmeans_mode": fast,
        }  # fmt: skip
        config = PostTrainingPalettizerConfig.from_dict({"global_config": options})
        made = PostTrainingPalettizer(nn.Sequential(layer), config).compress(num_kmeans_workers=1)
        found: Tensor = made[0].weight.detach()
        return found.half().float()  # as a file keeps it

    return palettise


def timed(palettise: Callable[[Tensor, int], Tensor], weight: Tensor, bits: int, runs: int) -> tuple[float, float]:
    """Seconds, the median of `runs`, and decibels."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        values = palettise(weight, bits)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), signal_to_noise(weight, values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=int, default=1792, help="channels that coremltools is given")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 6, 8))
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep the figures there: records/kmeans.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # coremltools tells of its worker
    tools = {"ours": (ours, RUNS), "coremltools, exact": (theirs(False), 1), "coremltools, fast": (theirs(True), 1)}
    load, rows, whole = os.getloadavg()[0], [], []
    for kind, weight in weights().items():
        found = {name: timed(tool, weight[: asked.outputs], asked.bits, runs) for name, (tool, runs) in tools.items()}
        for name, (seconds, decibels) in found.items():
            row: Row = {"weights": kind, "tool": name, "seconds": round(seconds, 3), "sqnr_db": round(decibels, 6)}
            rows.append(row | {"times_ours": round(seconds / found["ours"][0], 2)})
        seconds, decibels = timed(ours, weight, asked.bits, RUNS)
        whole.append({"weights": kind, "seconds": round(seconds, 3), "sqnr_db": round(decibels, 6)})
        print(json.dumps({"same channels": rows[-3:], "whole layer, ours": whole[-1]}, indent=1), flush=True)
    if asked.record:
        conditions = (
            f"Linear({IN}, {OUT}), {asked.bits} bits, a table for {ROWS} output channels, one thread or worker; the first "
            f"{asked.outputs} of {OUT} channels for all, and all of them for ours; ours medians of {RUNS}, coremltools once; load "
            f"{load:.1f} before. Normal weights of size {SIZE}, their heavy-tailed form (Student's t, 3 degrees of freedom), and "
            "normal ones of which one in a thousand is 20 times as large. Tables in float16."
        )
        write_figures(
            asked.record, command=shlex.join(["python", *sys.argv]), source="the same command.", hardware=device_name(),
            versions=library_versions() | {"coremltools": version("coremltools")}, conditions=conditions,
            figures={"tools": rows, "whole": whole},
        )  # fmt: skip


if __name__ == "__main__":
    main()
