"""`echoedge distill`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from .options import distinct
from .words import JsonOption, out

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
        int | None, typer.Option(min=96, help="Clips of the teacher to learn from.", show_default="the recipe's")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimiser.", show_default="the recipe's")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Lessons in a step.", show_default="the recipe's")] = None,
    on_policy: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the batches whose steps begin where the student itself has come to.")
    ] = 0.0,
    start: Annotated[
        Path | None, typer.Option(help="A student of the same teacher to begin as.", show_default="the teacher")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="flow-map, or consistency: each forward says where the trajectory ends; a control for comparison."),
    ] = "flow-map",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the transformer for this machine first: minutes once, faster steps."),
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="Write the difference from the shipped teacher, in 8 bits: half the bytes, as ships.")
    ] = False,
    matching: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of steps that also move the student's own clips to where the teacher's lie."),
    ] = 0.0,
    fakes: Annotated[int, typer.Option(min=1, help="Steps of the model of the student's clips before each one that matches.")] = 2,
    monitor: Annotated[
        int,
        typer.Option(min=0, help="Steps between looks at the student's clips, which end a run that collapses; 0 for none."),
    ] = 50,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, and processes that draw lessons.")] = 2,
    device: Annotated[str, typer.Option(help="Where the student trains: cpu or cuda.")] = "cpu",
) -> None:
    """Teach a student of the built-in model to do in 1, 2 or 4 forwards what it does in 16. Interrupt it at will: the same command
    goes on where it stopped. Lessons are of the drawn world that the teacher was trained in.

    Under torchrun the student trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli distill nano

    Export what it wrote with: echoedge export --weights-file STUDENT --weights W --out BUNDLE, of the same W.
    """
    written, metrics = api.distill(
        output, workdir=workdir, teacher=teacher, weights=weights, inputs=inputs, lessons=lessons, steps=steps, batch=batch,
        on_policy=on_policy, start=start, method=method, compiled=compiled, small=small, matching=matching, fakes=fakes,
        monitor=monitor,
        threads=threads,
        device=device, report=_tell,
    )  # fmt: skip
    if metrics:
        out.print_json(json.dumps(metrics))
        out.print(f"[bold]{escape(str(written))}[/] is ready.")


@distill_app.command("study")
def study_command(
    student: Annotated[list[Path], typer.Argument(help="Weights files of students.", show_default=False)],
    teacher: Annotated[Path | None, typer.Option(help="Their teacher's weights.", show_default="the shipped ones")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for figures; what is there is not measured again.")] = Path(
        "steps-study"
    ),
    task: Annotated[list[str] | None, typer.Option(help="i2v+a2v, a2v or t2v; may be repeated.", show_default="all")] = None,
    clips: Annotated[int, typer.Option(min=2, help="Held-out people and voices.")] = 32,
    seeds: Annotated[int, typer.Option(min=1, max=31, help="Seeds of noise; diversity needs two.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Measure students beside their teacher, who takes 8 steps of two forwards, and beside the teacher at as few steps: how far
    clips are from the teacher's own, the mouth, how much clips differ and move."""
    rows = api.steps_study(
        student, teacher=teacher, out=output, tasks=distinct(task or (), "--task"), clips=clips, seeds=seeds, threads=threads,
        report=(lambda _: None) if as_json else _tell,
    )  # fmt: skip
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for each in dict.fromkeys(row["task"] for row in rows):
        told = Table(title=each, title_justify="left")
        names = [name for name in rows[0] if name != "task"]
        for name in names:
            told.add_column(name.replace("_", " "), justify="left" if name == "way" else "right")
        for row in rows:
            if row["task"] == each:
                told.add_row(
                    *(f"{row[name]:.3g}" if isinstance(row.get(name), float) else str(row.get(name, "–")) for name in names)
                )
        out.print(told)


def _in_words(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _tell(line: str) -> None:
    out.print(escape(line))
