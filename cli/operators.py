"""The command line for the speed of operators."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .options import parse_clip

if TYPE_CHECKING:
    from ..runtime.bench.operators import OperatorSpeeds

out, err = Console(), Console(stderr=True)


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Time a transformer block and its parts at a model's real shapes, beside this machine's fastest matrix products."""
    from ..core.config import preset
    from ..quantize.recipes import read_recipe
    from ..runtime.bench.operators import measure_operators

    clip = parse_clip(size, frames)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=as_json) as bars:
        tasks: dict[str, object] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        speeds = measure_operators(preset(model), clip, read_recipe(weights), text_rows, threads, rounds, progress)
    if as_json:
        print(json.dumps(speeds.to_dict()))
    else:
        print_operators(speeds)
