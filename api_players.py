"""The part of `api` for players elsewhere, in other languages and on boards; `api` hands it on, and is what to call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .core.alone import alone

if TYPE_CHECKING:
    from .runtime.serving.wire import Sink, Source


@alone("writing of vectors")
def write_vectors(out: str | Path, *, force: bool = False) -> dict[str, int]:
    """Writes golden vectors, what this player computes from given numbers, into the folder `out` (docs/PLAYERS.md) -> how many
    cases each group has. Where nothing has changed the bytes are the same.

    Raises:
        OutputError, ResourceError: as `runtime.vectors.write.write_vectors`.
    """
    from .runtime.vectors import write

    return write.write_vectors(Path(out), force)


def serve_programs(
    bundle: str | Path, source: Source, sink: Sink, *, engine: str = "auto", clip: str | None = None, threads: int | None = None
) -> bool:
    """Runs programs of a bundle for another process: requests from `source`, answers into `sink`, both of bytes (docs/PLAYERS.md),
    until the source ends or asks to end -> whether it ended so. Errors are answers; none is raised. clip: HEIGHTxWIDTHxFRAMES."""
    from .runtime.serving.programs import serve

    return serve(Path(bundle), source, sink, engine=engine, clip=clip, threads=threads)


def bench_job(folder: str | Path, *, hello: str | None = None, say: Callable[[str], None] = print) -> int:
    """Plays the job that `bench(device="ssh:…")` has put into `folder`, and says in lines of its own how far it is; gives the exit
    status, 0 where it is done. hello: says only what it is, to the job of that word.

    Raises:
        InputError: there is no such folder, no job, or none that can be read.
    """
    from .core.bundle.device_job import SAID
    from .core.errors import InputError
    from .runtime.bench.devices import runner

    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"There is no folder {place}. `echoedge bench BUNDLE --device ssh:HOST` makes it.")
    if hello is not None:
        say(SAID + runner.hello(place, hello).model_dump_json())
        return runner.DONE
    return runner.run_job(place, say)
