"""`echoedge train`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

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
    device: Annotated[str, typer.Option(help="Where the transformer trains: cpu or cuda.")] = "cpu",
) -> None:
    """Train the built-in model. Interrupt it at will: the same command goes on where it stopped.

    Under torchrun the transformer trains in all processes: torchrun --nproc-per-node 2 -m echoedge.cli train nano
    """
    from ..core.files import require_free_disk
    from ..core.plan import check_choice
    from ..core.train.distributed import join_world, leave_world
    from ..core.train.nano import run_folder, train_nano
    from ..core.train.train_dit import METHODS, leave_out
    from ..core.train.train_vae import VAETraining

    if keep_vae and start is None:
        raise ConfigError("--keep-vae takes the VAE of a weights file: name it with --start.")
    check_choice("method", method, tuple(METHODS))
    vae, dit, parts = VAETraining(), METHODS[method], distinct(without or (), "--without")
    leave_out(dit, parts)  # a part that is not there is refused before anything is drawn
    require_free_disk(workdir, 500_000 * clips)
    vae = replace(vae, image_steps=image_steps or vae.image_steps, clip_steps=clip_steps or vae.clip_steps)
    dit = replace(dit, steps=steps or dit.steps)
    world = join_world(device)
    output = output or run_folder(workdir, parts) / "nano.safetensors"
    report = lambda line: out.print(escape(line))  # noqa: E731
    metrics = train_nano(workdir, output, vae, dit, clips, threads, report, world, start, parts, keep_vae)
    leave_world(world)
    if world.first:
        out.print_json(json.dumps(metrics["held_out"]))
        out.print(f"[bold]{escape(str(output))}[/] is ready.")


@train_app.command("study")
def study_command(
    weights: Annotated[Path | None, typer.Option(help="Weights file of nano.", show_default="the shipped weights")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for figures and contact sheets.")] = Path("nano-study"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="vae, choices, generated, tasks, switches, parts, long or voice; may be repeated.", show_default="all"),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="PART=FILE: weights trained without ndpo, labels or captions, to compare with; may be repeated."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Measure trained weights on people and voices that training never saw: every task, every part turned off, long clips."""
    import torch

    from ..core.weights.nano import weights_path
    from ..core.work import tells_what_stays
    from ..runtime.studies.nano_study import Study, run_study

    given = [text.partition("=") for text in without or ()]
    for part, separator, path in given:
        if not separator or not path:
            raise ConfigError(f"--without is {part + separator!r}; write PART=FILE, such as ndpo=nano-without-ndpo.safetensors.")
    distinct((part for part, _, _ in given), "--without")
    runs = {part: Path(path) for part, _, path in given}
    sections = distinct(only or (), "--only")
    torch.set_num_threads(threads)
    with tells_what_stays(f"{output} keeps the sections that were finished: the same command goes on from there."):
        run_study(Study(weights or weights_path(), output, runs, lambda line: out.print(escape(line))), sections)
    out.print(f"Figures and contact sheets are in [bold]{escape(str(output))}[/].")
