"""`echoedge distill`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from .words import out

distill_app = typer.Typer(help="Teach a student that takes few steps of one forward each.", no_args_is_help=True)


@distill_app.command("nano")
def distill_nano_command(
    workdir: Annotated[Path, typer.Option(help="Lessons (100 kB each) and checkpoints; a run resumes from it.")] = Path(
        "nano-distillation"
    ),
    output: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write.", show_default="student.safetensors in the work folder")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="The teacher's weights file.", show_default="the shipped one")] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="int8, int4 or a recipe file (.json): learn through the weights that an export with these writes, to the bit."
        ),
    ] = "fp32",
    inputs: Annotated[
        str,
        typer.Option(help="int8: round what rounded layers are given, too, as XNNPACK does; other targets differ."),
    ] = "float",
    lessons: Annotated[
        int | None, typer.Option(min=48, help="Clips of the teacher to learn from.", show_default="the recipe's")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.", show_default="the recipe's")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Lessons in a step.", show_default="the recipe's")] = None,
    on_policy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the batches whose steps begin where the student itself has come to.")
    ] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, and processes that draw lessons.")] = 2,
    device: Annotated[str, typer.Option(help="Where the student trains: cpu or cuda.")] = "cpu",
) -> None:
    """Teach a student of the built-in model to do in 1, 2 or 4 forwards what it does in 16. Interrupt it at will: the same command
    goes on where it stopped.

    Under torchrun the student trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli distill nano

    Export what it wrote with: echoedge export --weights-file STUDENT --weights W --out BUNDLE, of the same W.
    """
    written, metrics = api.distill(
        output, workdir=workdir, teacher=teacher, weights=weights, inputs=inputs, lessons=lessons, steps=steps, batch=batch,
        on_policy=on_policy, threads=threads, device=device, report=_tell,
    )  # fmt: skip
    if metrics:
        out.print_json(json.dumps(metrics))
        out.print(f"[bold]{escape(str(written))}[/] is ready.")


def _tell(line: str) -> None:
    out.print(escape(line))
