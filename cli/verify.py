"""`echoedge verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from .words import (
    BundleArg,
    EngineOption,
    JsonOption,
    RecordOption,
    bars,
    out,
    print_verdict,
    told_of_records,
    warn,
)


def verify(
    bundle: BundleArg,
    baseline: Annotated[
        Path | None,
        typer.Option(help="A baseline (JSON) to compare with; or a recorded run, safetensors with latents and frames."),
    ] = None,
    engine: EngineOption = "auto",
    clips: Annotated[
        int, typer.Option(min=0, help="Judge lip-sync, and the mouth in silence, over this many drawn held-out clips (nano only).")
    ] = 0,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every program, what each input changes, and a whole clip with full precision. Exit status 1 when a threshold fails,
    or nothing was judged."""
    with told_of_records(bundle), bars(as_json) as progress:
        verdict = api.verify(bundle, engine=engine, baseline=baseline, clips=clips, record=record, progress=progress, warn=warn)
    if as_json:
        print(json.dumps(verdict.to_dict()))
    else:
        print_verdict(verdict)
        if verdict.passed:
            out.print(f"{verdict.sentence()} Next: [cyan]echoedge bench {escape(str(bundle))}[/]")
        elif verdict.failed:
            out.print(
                f"[red]{verdict.sentence()}[/] Export with finer weights (--weights int8 or fp32), or look at the failing rows."
            )
        else:
            out.print(f"[yellow]{verdict.sentence()}[/] Export it again to have it judged.")
    if not verdict.passed:
        raise typer.Exit(1)
