"""A bundle that is replaced while it plays: engines load programs when they are first asked for them, and map their files."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.bundle import Bundle
from .around import Around
from .base import Array, Engine


class Watched(Around):
    """An engine that plays `bundle` as it was opened, or says that it cannot any more: never programs of two bundles together.

    Before a call, because a file that shrinks under an engine ends the process; behind it, because what has changed by then may
    have been read.
    """

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        super().__init__(engine)
        self.bundle = bundle

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        """Raises as the engine; BundleError: the bundle's files are not those that were opened."""
        self.bundle.require_unchanged()
        try:
            return self.engine.run(program, method, inputs)
        finally:
            self.bundle.require_unchanged()
