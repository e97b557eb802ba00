"""`echoedge vectors` and `echoedge serve-programs`: for players in other languages."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from .. import api
from ..core.errors import ConfigError
from .words import BundleArg, ClipOption, EngineOption, ForceOption, JsonOption, out


def vectors(
    output: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write golden vectors for players in other languages: noise, steps, windows, sound, pictures, colours, times, bundles.

    A folder of JSON and raw little-endian numbers, about 3 MB; docs/PLAYERS.md says what is in it.
    """
    groups = api.write_vectors(output, force=force)
    if as_json:
        print(json.dumps({"folder": str(output), "groups": groups}))
        return
    for name, count in groups.items():
        out.print(f"{name:<10} {count:>4}")
    out.print(f"{sum(groups.values())} cases are in {escape(str(output))}. What they mean: docs/PLAYERS.md", soft_wrap=True)


def serve_programs(
    bundle: BundleArg,
    engine: EngineOption = "auto",
    clip: ClipOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine.", show_default="the engine's choice")] = None,
) -> None:
    """Run a bundle's programs for another process: requests come from standard input, answers go to standard output.

    For players in other languages that have no runtime of their own here; docs/PLAYERS.md has the protocol. Ends with standard
    input, or when it is asked to.
    """
    if sys.stdin.isatty():
        raise ConfigError("serve-programs reads messages of another process, not a keyboard: docs/PLAYERS.md has the protocol.")
    sys.stdout.flush()
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints goes to the error stream: standard output is the protocol's alone
    with os.fdopen(answers, "wb", buffering=0) as sink:
        ended_well = api.serve_programs(bundle, sys.stdin.buffer, sink, engine=engine, clip=clip, threads=threads)
    if not ended_well:
        raise typer.Exit(2)
