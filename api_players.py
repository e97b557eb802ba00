"""The part of `api` for players in other languages; `api` hands it on, and is what to call."""

from __future__ import annotations

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
