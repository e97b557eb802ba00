"""`echoedge bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..core.errors import ConfigError
from .options import parse_duration, parse_names
from .speeds import print_compared, print_speeds
from .words import (
    ClipOption,
    DecoderOption,
    JsonOption,
    PromptsOption,
    RecordOption,
    bars,
    refuse_options,
    shape_of,
    told_of_records,
    warn,
)

PANEL = "On a device"


def bench(
    context: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(help="A bundle, NAME.echoedge; with --compare, records of benchmarks.", show_default=False)
    ],
    compare: Annotated[
        bool, typer.Option("--compare", help="Play nothing: set the records of these files beside each other, with speed-ups.")
    ] = False,
    runs: Annotated[int, typer.Option(min=1, help="Clips played after the warm-up: median, 10th and 90th percentile.")] = 5,
    engine: Annotated[
        str,
        typer.Option(
            help="auto, which is that of the bundle's target; mil or mil-fp32 for coreml; or torch (full precision); several with "
            "commas are measured side by side."
        ),
    ] = "auto",
    clip: ClipOption = None,
    decoder: DecoderOption = None,
    prompts: PromptsOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is played.", show_default="the demo's, or the first that the bundle knows")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="the engine's choice")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A baseline (JSON) of the same workload: its records beside this bundle's, with speed-ups.")
    ] = None,
    record: RecordOption = False,
    as_json: JsonOption = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where: adb or adb:SERIAL (Android), ios or ios:UDID, ssh:HOST (a board), or host.",
            show_default="this process",
            rich_help_panel=PANEL,
        ),
    ] = None,
    warm_up: Annotated[int, typer.Option(min=1, help="Clips played before those that count.", rich_help_panel=PANEL)] = 1,
    sustained: Annotated[
        str | None,
        typer.Option(
            help="Then clips without a pause, such as 10m: speed over time, and where it throttles.", rich_help_panel=PANEL
        ),
    ] = None,
    cool: Annotated[
        str | None,
        typer.Option(
            help="Wait first until the device is cool: none, light or another word of Android's; degrees Celsius; or off.",
            show_default="none for phones; 55 for boards; off for host",
            rich_help_panel=PANEL,
        ),
    ] = None,
    cool_timeout: Annotated[str, typer.Option(help="How long to wait for that.", rich_help_panel=PANEL)] = "15m",
    app: Annotated[
        str | None,
        typer.Option(
            help="Another identifier of the app; of a board, the path of its echoedge.", show_default=False, rich_help_panel=PANEL
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the bundle there: next time only what is new is sent.", rich_help_panel=PANEL)
    ] = False,
    with_serial: Annotated[
        bool, typer.Option("--with-serial", help="Write the serial number, UDID or host into the record.", rich_help_panel=PANEL)
    ] = False,
) -> None:
    """Say how fast a bundle plays here or on a device, stage by stage; or set such records beside each other."""
    if compare:
        refuse_options(context, PANEL, "goes with a bundle that is played; --compare plays nothing")
        refuse_options(context, None, "goes with a bundle that is played; --compare plays nothing", ("paths", "compare", "as_json"))
        compared = api.compare_benches(paths)
        if as_json:
            print(json.dumps(compared.to_dict()))
        else:
            print_compared(compared)
        return
    if len(paths) > 1:
        raise ConfigError(
            f"bench plays one bundle, and {len(paths)} paths are given. Records are set beside each other by --compare."
        )
    if device is None:
        refuse_options(context, PANEL, "goes with --device")
    (bundle,) = paths
    seconds = None if sustained is None else parse_duration(sustained, "--sustained", 60, 6 * 3600)
    patience = parse_duration(cool_timeout, "--cool-timeout", 0, 6 * 3600)
    engines = parse_names(engine, "--engine")
    with told_of_records(bundle), bars(as_json) as progress:
        found = api.bench(
            bundle, engines=engines, runs=runs, clip=shape_of(clip), decoder=decoder, prompts=prompts, prompt=prompt,
            threads=threads, baseline=baseline, device=device, warm_up=warm_up, sustained=seconds, cool=cool, cool_timeout=patience,
            app=app, keep=keep, with_serial=with_serial, record=record, progress=progress, warn=warn,
        )  # fmt: skip
    beside = None if baseline is None else api.compare_benches([baseline], found)
    if as_json:
        print(json.dumps([one.to_dict() for one in found] if beside is None else beside.to_dict()))
        return
    print_speeds(found)
    if beside is not None:
        print_compared(beside)
