"""`echoedge bench-job`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api


def bench_job(
    folder: Annotated[Path, typer.Argument(help="The folder with the job, job.json.", show_default=False)],
    hello: Annotated[
        str | None, typer.Option(help="Play nothing: say what this is, to the job of that word.", show_default=False)
    ] = None,
) -> None:
    """Play a benchmark's job, as apps on phones do: what `bench --device ssh:HOST` starts on a board."""
    raise typer.Exit(api.bench_job(folder, hello=hello, say=lambda line: print(line, flush=True)))
