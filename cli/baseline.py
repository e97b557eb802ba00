"""`echoedge baseline`: the full-precision model at named presets, recorded for other machines to compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from .speeds import print_speeds
from .words import ForceOption, JsonOption, bars, out

baseline_app = typer.Typer(
    help="What full precision gives, and how fast: recorded once, compared with anywhere.", no_args_is_help=True
)


@baseline_app.command()
def record(
    output: Annotated[Path, typer.Option("--out", help="NAME.json; NAME.safetensors goes beside it.", show_default=False)],
    preset: Annotated[str, typer.Option(help="What is played; `baseline presets` lists them.")] = "nano",
    weights: Annotated[
        str | None,
        typer.Option(
            help="A folder of released weights, or random:SEED, the same bits on every machine.", show_default="nano's own"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Of a seed's transformer: so many blocks at full width.", show_default="all 30")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16: of the transformer and the VAE.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Measure torch.compile beside eager; minutes at first.")] = False,
    savings: Annotated[
        str, typer.Option(help="on: what does not change in a step is computed once; off: in every step, as published; or both.")
    ] = "both",
    decoder: Annotated[str, typer.Option(help="full, or tiny: the small autoencoder.")] = "full",
    prompts: Annotated[Path | None, typer.Option(help="Prompt pack, of a folder without text encoder.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Clips played after the first one, in each way.")] = 3,
    reload: Annotated[bool, typer.Option("--reload/--no-reload", help="Measure loading a second time: one clip more each.")] = True,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch.", show_default="PyTorch's choice")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play a preset in full precision, and write what every stage gave and how fast."""
    with bars(as_json) as progress:
        found = api.record_baseline(
            output, preset=preset, weights=weights, layers=layers, device=device, dtype=dtype, compiled=compiled, savings=savings,
            decoder=decoder, prompts=prompts, runs=runs, reload=reload, seed=seed, threads=threads, force=force, progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(found.model_dump(mode="json")))
        return
    print_speeds(found.measured)
    out.print(
        f"[bold]{escape(str(output))}[/] is ready, with {escape(found.arrays.name)} beside it. Next, on any machine: "
        f"[cyan]echoedge verify BUNDLE --baseline {escape(output.name)}[/]",
        soft_wrap=True,
    )


@baseline_app.command()
def presets(as_json: JsonOption = False) -> None:
    """List what baselines are recorded at."""
    known = api.baseline_presets()
    if as_json:
        told = [{"name": p.name, "model": p.model, "shape": str(p.clip), "steps": p.steps, "branches": p.branches} for p in known]
        print(json.dumps(told))
        return
    table = Table()
    for column in ("preset", "model", "height x width x frames", "steps", "branches", "evaluations"):
        table.add_column(column, justify="left" if column in ("preset", "model") else "right")
    for preset in known:
        counts = (preset.steps, preset.branches, preset.evaluations)
        table.add_row(preset.name, preset.model, str(preset.clip), *map(str, counts))
    out.print(table)
