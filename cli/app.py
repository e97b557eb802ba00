"""The command line: one verb a file, options to the functions of `api` and their results to words.

Heavy libraries are imported by what needs them, so that `--help` is quick.
"""

from __future__ import annotations

import atexit
import gc
import logging
import sys
from typing import Annotated

import typer
from rich.markup import escape

from .. import __version__
from ..core.errors import EchoEdgeError
from .animate import animate
from .baseline import baseline_app
from .bench import bench
from .bench_job import bench_job
from .checkpoint import checkpoint_app
from .demo import demo
from .distill import distill_app
from .doctor import doctor
from .export import export
from .fit import fit
from .inspect import inspect
from .operators import bench_operators
from .players import serve_programs, vectors
from .quantize import quantize_app
from .train import train_app
from .verify import verify
from .words import err

app = typer.Typer(
    name="echoedge",
    help="Compile EchoMimicV3 into bundles, play them, and prove that they equal the full-precision model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
_VERBS = (export, fit, animate, verify, bench, inspect, bench_operators, bench_job, doctor, demo, vectors, serve_programs)
for _verb in _VERBS:
    app.command()(_verb)
app.add_typer(train_app, name="train")
app.add_typer(distill_app, name="distill")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(baseline_app, name="baseline")
app.add_typer(quantize_app, name="quantize")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: errors that a user can mend are one sentence on the error stream and exit status 2; Ctrl-C is 130."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # what is there goes with the process; Python would look through torch's objects first, for 0.4 s
    for library in ("torchao", "torch.utils._pytree"):  # they warn of optional parts that are not there, on every import
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        app(prog_name="echoedge")
    except EchoEdgeError as error:
        err.print(
            f"[red]{type(error).__name__.removesuffix('Error').lower()}:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt) as end:
        interruption = _interruption_behind(end)
        if interruption is None:
            raise
        kept = getattr(interruption, "__notes__", ["Nothing was left behind."])
        err.print(escape(" ".join(["Interrupted.", *kept])), highlight=False, soft_wrap=True)
        sys.exit(130)


def _interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that a library has turned into `error`; None if there was none."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


if __name__ == "__main__":
    main()
