"""`echoedge bench`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import api
from .words import (
    BundleArg,
    ClipOption,
    DecoderOption,
    EngineOption,
    JsonOption,
    PromptsOption,
    RecordOption,
    bars,
    print_speed,
    shape_of,
    told_of_records,
    warn,
)


def bench(
    bundle: BundleArg,
    runs: Annotated[int, typer.Option(min=1, help="Clips played after the warm-up; medians are reported.")] = 5,
    engine: EngineOption = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Also play in full precision with torch, side by side.")] = False,
    clip: ClipOption = None,
    decoder: DecoderOption = None,
    prompts: PromptsOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is played.", show_default="the demo's, or the first that the bundle knows")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="the engine's choice")] = None,
    record: RecordOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say how fast a bundle plays here, stage by stage."""
    engines = [engine, *(["torch"] if compare and engine != "torch" else [])]
    with told_of_records(bundle), bars(as_json) as progress:
        speeds = api.bench(
            bundle, engines=engines, runs=runs, clip=shape_of(clip), decoder=decoder, prompts=prompts, prompt=prompt,
            threads=threads, record=record, progress=progress, warn=warn,
        )  # fmt: skip
    if as_json:
        print(json.dumps([speed.to_dict() for speed in speeds]))
    else:
        print_speed(speeds)
