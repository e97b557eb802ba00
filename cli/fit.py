"""`echoedge fit`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .. import api
from .options import parse_size
from .words import JsonOption, bars, out, refuse_options

if TYPE_CHECKING:
    from ..runtime.fit.devices import Device, Figure
    from ..runtime.fit.fit import Fit, Forecast

ASKED_PANEL = "What would be compiled and played"
MARKS = {"reported": "r", "derived": "d", "assumed": "a"}
STAGES = {"listen": "1 listen", "look": "2 look", "prepare": "3 prepare", "denoise": "4 denoise", "decode": "5 decode"}


def fit(
    context: typer.Context,
    device: Annotated[
        str, typer.Option(help='A device of the table, such as "Pixel 9", or host: this machine, measured.')
    ] = "host",
    device_file: Annotated[Path | None, typer.Option(help="Devices of your own (JSON); docs/FIT.md shows one.")] = None,
    devices: Annotated[bool, typer.Option("--devices", help="List the devices, and where their figures come from.")] = False,
    model: Annotated[str, typer.Option(help="nano, flash or preview.", rich_help_panel=ASKED_PANEL)] = "nano",
    weights: Annotated[
        str, typer.Option(help="fp32, int8, int4, mixed, or a recipe file (.json).", rich_help_panel=ASKED_PANEL)
    ] = "int8",
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH.", show_default="the model's, or 256x256", rich_help_panel=ASKED_PANEL)
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of one window, 4n+1.", rich_help_panel=ASKED_PANEL)] = 25,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Denoising steps.", show_default="the model's", rich_help_panel=ASKED_PANEL),
    ] = None,
    decoder: Annotated[str, typer.Option(help="full or tiny.", rich_help_panel=ASKED_PANEL)] = "full",
    text_rows: Annotated[
        int, typer.Option(min=2, help="Longest prompt in tokens, and one for the padding.", rich_help_panel=ASKED_PANEL)
    ] = 64,
    seconds: Annotated[
        float | None, typer.Option(help="Of video.", show_default="one window's", rich_help_panel=ASKED_PANEL)
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(help="The most seconds that a second of video may take.", show_default="any", rich_help_panel=ASKED_PANEL),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of host.", show_default="the runtime's choice")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of host: calls of each product; medians count.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Say whether a model would fit a device, how fast it would play there and what would make it fit, before anything is compiled.

    Status 1 if it does not fit.
    """
    if devices:
        for panel in (None, ASKED_PANEL):
            refuse_options(context, panel, "goes without --devices, which lists them", ("devices", "device_file", "as_json"))
        found = api.fit_devices(device_file)
        if as_json:
            print(json.dumps([one.to_dict() for one in found]))
        else:
            print_devices(found)
        return
    with bars(as_json) as progress:
        answer = api.fit(
            model=model, weights=weights, size=None if size is None else parse_size(size), frames=frames, steps=steps,
            decoder=decoder, text_rows=text_rows, seconds=seconds, device=device, device_file=device_file, within=within,
            threads=threads, rounds=rounds, progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(answer.to_dict()))
    else:
        print_fit(answer)
    if not answer.fits:
        raise typer.Exit(1)


def print_fit(answer: Fit) -> None:
    from ..core.files import human_bytes

    device, forecast = answer.device, answer.forecast
    work = forecast.work
    title = f"{work.sizes.transformer.name}, {work.recipe.name}, {work.clip}, {work.plan.steps} steps, on {device.name}"
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    for term, count in sorted(forecast.need.terms.items(), key=lambda item: -item[1]):
        table.add_row(f"memory for {term}", human_bytes(count), "")
    table.add_row("[bold]memory needed[/]", f"[bold]{human_bytes(forecast.need.total)}[/]", _loaded(forecast))
    table.add_row("memory that an app may take", human_bytes(forecast.allowed), f"{device.app_bytes.kind}")
    table.add_row("on disk", human_bytes(forecast.disk), "")
    table.add_row(
        "loading",
        _seconds(forecast.seconds.load),
        "not known: nobody says how fast its storage is" * (forecast.seconds.load is None),
    )
    table.add_section()
    for stage, taken in forecast.seconds.stages.items():
        table.add_row(STAGES[stage], _seconds(taken), "")
    table.add_row("[bold]a second of video[/]", f"[bold]{_seconds(forecast.per_second)}[/]", _sureness(device))
    out.print(table)
    out.print(f"[dim]Most: {escape(forecast.slowest)}; memory for {escape(forecast.need.largest)}.[/]")
    if forecast.fits:
        out.print(f"[green]It fits[/] {escape(device.name)}.")
        return
    out.print(f"[red]It does not fit[/] {escape(device.name)}: {escape(_reason(forecast))}")
    change = answer.change
    if change is None:
        out.print(f"None of {answer.tried} smaller ones that were tried fits either, down to all changes together.")
        return
    made = change.forecast
    out.print(
        f"The cheapest change that fits: [cyan]{escape(' '.join(change.options))}[/]: {human_bytes(made.need.total)} of memory, "
        f"{_seconds(made.per_second)} for a second of video."
    )


def _reason(forecast: Forecast) -> str:
    from ..core.files import human_bytes

    if not forecast.holds:
        needed, allowed = human_bytes(forecast.need.total), human_bytes(forecast.allowed)
        return f"{needed} of memory is needed, {allowed} is allowed; most is {forecast.dominant}."
    takes, wanted = _seconds(forecast.per_second), _seconds(forecast.within)
    return f"a second of video takes {takes}, {wanted} is wanted; most is {forecast.dominant}."


def _loaded(forecast: Forecast) -> str:
    return "all programs stay loaded" if forecast.together else "each program is freed before the next"


def _sureness(device: Device) -> str:
    kinds = {figure.kind for figure in device.rates.values()} | {device.reached.kind}
    if kinds == {"measured"}:
        return "rates measured here, now"
    missing = "; memory that is moved is not counted" if device.bandwidth is None else ""
    return f"a forecast: nobody measured these rates on this device{missing}"


def _seconds(taken: float | None) -> str:
    if taken is None:
        return "–"
    return f"{1000 * taken:,.0f} ms" if taken < 1 else f"{taken:,.1f} s"


def print_devices(devices: Sequence[Device]) -> None:
    table = Table(title="Devices", title_justify="left")
    for column in ("device", "memory GiB", "an app GB", "int8 T/s", "fp32 T/s", "moves GB/s", "reads GB/s"):
        table.add_column(column, justify="left" if column == "device" else "right", no_wrap=column == "device")
    for one in devices:
        figures = (
            (one.memory_bytes, 1 << 30), (one.app_bytes, 1e9), (one.rates["int8"], 1e12), (one.rates["fp32"], 1e12),
            (one.bandwidth, 1e9), (one.storage, 1e9),
        )  # fmt: skip
        table.add_row(one.name, *(_figure(figure, unit) for figure, unit in figures))
    out.print(table)
    out.print(
        "[dim]r: reported by others, d: derived, a: assumed; without a letter published by the maker. int8, fp32: operations per "
        "second, peaks of the processor's cores. moves, reads: of memory and of storage. --json says where each figure comes from, "
        "and has fp16, which enters no forecast.[/]"
    )


def _figure(figure: Figure | None, unit: float) -> str:
    if figure is None:
        return "–"
    return f"{figure.value / unit:.3g}{MARKS.get(figure.kind, '')}"
