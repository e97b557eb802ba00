"""The command line for the speed of operators."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from .. import api
from .options import parse_size
from .words import JsonOption, bars, out

if TYPE_CHECKING:
    from ..runtime.bench.operators import OperatorSpeeds


def print_operators(speeds: OperatorSpeeds) -> None:
    title = f"A block of {speeds.model}, {speeds.weights}, {speeds.clip}, {speeds.tokens} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("times", "call", "CPU", "GFLOP", "GFLOP/s", "of the peak", "of the block"):
        table.add_column(name, justify="right")
    for part in speeds.parts:
        table.add_row(
            part.name,
            str(part.count) if part.count else "(within)",
            f"{part.seconds * 1000:.2f} ms",
            f"{part.cpu_seconds * 1000:.2f} ms",
            f"{part.flops / 1e9:.2f}" if part.flops else "",
            f"{part.gflops:.0f}" if part.gflops else "",
            f"{part.of_peak:.0%}" if part.of_peak else "",
            f"{part.share:.0%}" if part.count else "",
        )
    out.print(table)
    conditions = f"{speeds.threads} threads, medians of {speeds.rounds} rounds, load average {speeds.load_average}"
    out.print(
        f"{speeds.device}; {conditions}. Peak, the fastest matrix products of the same rounds: {speeds.peak_fp32:.0f} GFLOP/s in "
        f"fp32, {speeds.peak_int8:.0f} in int8."
    )


def bench_operators(
    model: Annotated[str, typer.Option(help="nano, flash or preview; its weights are random.")] = "nano",
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the clip.")] = "256x256",
    frames: Annotated[int, typer.Option(min=1, help="Frames of one window, 4n+1.")] = 25,
    weights: Annotated[str, typer.Option(help="fp32, int8, int4, mixed, or a recipe file (.json).")] = "int8",
    text_rows: Annotated[int, typer.Option(min=1, help="Rows of the prompt.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads that programs and matrix products run on.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Calls of each part; medians are told.")] = 9,
    as_json: JsonOption = False,
) -> None:
    """Time a transformer block and its parts at a model's real shapes, beside this machine's fastest matrix products."""
    with bars(as_json) as progress:
        speeds = api.bench_operators(
            model=model, size=parse_size(size), frames=frames, weights=weights, text_rows=text_rows, threads=threads, rounds=rounds,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(speeds.to_dict()))
    else:
        print_operators(speeds)
