"""`echoedge train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from ..core.errors import ConfigError
from .options import distinct
from .words import (
    out,
)

train_app = typer.Typer(help="Train the built-in model.", no_args_is_help=True)


@train_app.command("nano")
def train_nano_command(
    workdir: Annotated[Path, typer.Option(help="Checkpoints and the pool of drawn clips (1 GB); a run resumes from it.")] = Path(
        "nano-training"
    ),
    output: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write.", show_default="nano.safetensors in the run's folder")
    ] = None,
    clips: Annotated[int, typer.Option(min=64, help="Clips drawn into the pool.")] = 3000,
    image_steps: Annotated[int | None, typer.Option(min=1, help="VAE steps on frames.", show_default="the recipe's")] = None,
    clip_steps: Annotated[int | None, typer.Option(min=1, help="VAE steps on clips.", show_default="the recipe's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Transformer steps.", show_default="the recipe's")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    start: Annotated[
        Path | None,
        typer.Option(help="Weights file whose VAE to train further (or keep, with --keep-vae), instead of from nothing."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="full: all tasks and modalities, preference steps, as shipped; plain: portrait and speech only.")
    ] = "full",
    keep_vae: Annotated[
        bool, typer.Option("--keep-vae", help="Take the VAE of --start as it is; train the transformer alone.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="ndpo, labels or captions: leave that part out; may be repeated. The run has a folder inside the work folder."
        ),
    ] = None,
    world: Annotated[
        str,
        typer.Option(
            help="calm: portrait, voice and prompt nearly determine a drawn clip, as shipped; lively: blinks, gaze, the head's "
            "own time and a wall that moves are open."
        ),
    ] = "calm",
    device: Annotated[str, typer.Option(help="Where the transformer trains: cpu or cuda.")] = "cpu",
) -> None:
    """Train the built-in model. Interrupt it at will: the same command goes on where it stopped.

    Under torchrun the transformer trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli train nano
    """
    written, metrics = api.train(
        output, workdir=workdir, clips=clips, image_steps=image_steps, clip_steps=clip_steps, steps=steps, threads=threads,
        start=start, method=method, keep_vae=keep_vae, without=distinct(without or (), "--without"), world=world,
        device=device, report=_tell,
    )  # fmt: skip
    if metrics:
        out.print_json(json.dumps(metrics["held_out"]))
        out.print(f"[bold]{escape(str(written))}[/] is ready.")


@train_app.command("study")
def study_command(
    weights: Annotated[Path | None, typer.Option(help="Weights file of nano.", show_default="the shipped weights")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for figures and contact sheets.")] = Path("nano-study"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="vae, choices, generated, tasks, switches, parts, long, silence or voice; may be repeated.", show_default="all"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="PART=FILE: weights trained without ndpo, labels or captions, to compare with; may be repeated."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Measure trained weights on people and voices that training never saw: every task, every part turned off, long clips."""
    given = [text.partition("=") for text in without or ()]
    for part, separator, path in given:
        if not separator or not path:
            raise ConfigError(f"--without is {part + separator!r}; write PART=FILE, such as ndpo=nano-without-ndpo.safetensors.")
    distinct((part for part, _, _ in given), "--without")
    runs = {part: path for part, _, path in given}
    sections = distinct(only or (), "--only")
    api.study(output, weights=weights, only=sections, without=runs, threads=threads, report=_tell)
    out.print(f"Figures and contact sheets are in [bold]{escape(str(output))}[/].")


def _tell(line: str) -> None:
    out.print(escape(line))
