"""`echoedge doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from .words import (
    JsonOption,
    out,
)


def doctor(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where to look for what killed runs left.", show_default="the current folder")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Delete what killed runs left there, and nothing else.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: libraries, codecs, memory, and the built-in model. Exit status 1 when something needed is missing.

    Also names what killed runs have left in the current folder and in the folders given: half-written outputs, and work of exports
    that no run holds.
    """
    from ..core.files import human_bytes

    found = api.doctor([Path(), *(folders or ())], clean=clean)
    if as_json:
        checks = [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in found.checks]
        named = [{"path": str(x.path), "bytes": x.bytes, "what": x.what, "deleted": gone} for x, gone in found.leftovers]
        print(json.dumps({"healthy": found.healthy, "checks": checks, "leftovers": named}))
    else:
        for check in found.checks:
            out.print(f"{'[green]ok[/]     ' if check.passed else '[red]missing[/]'} {check.name:<12} {escape(check.detail)}")
        for leftover, gone in found.leftovers:
            state = "deleted" if gone else "[yellow]left[/]   "
            out.print(f"{state} {escape(str(leftover.path))}, {human_bytes(leftover.bytes)}: {escape(leftover.what)}")
        if not clean and any(not leftover.precious for leftover, _ in found.leftovers):
            out.print("What was left can go: [cyan]echoedge doctor --clean[/] deletes it.")
        healthy = "Everything is here. Next: [cyan]echoedge demo[/]"
        out.print(healthy if found.healthy else "[red]Mend what is missing, then run this again.[/]")
    if not found.healthy:
        raise typer.Exit(1)
