"""Core AI: each method is loaded on first use and stays loaded while memory allows, on the processor.

It runs the very files that a phone or a Mac loads, by Apple's own runtime, and compiles each when it is loaded
(`targets/coreai/session.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.bundle import Bundle, Program
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ...core.files import available_memory
from ...targets.coreai.session import Chain, read_signature, require_runtime
from .base import Array, called_with
from .recent import Recent

if TYPE_CHECKING:
    from ...targets.base import Built

LOADED_PER_BYTE = 3  # what the library compiles of a file lies in memory beside a copy of its weights


class CoreAIEngine:
    """Runs a bundle's `.aimodel`s. `keep_bytes`: of the files of methods that stay loaded together; by default a quarter of the
    memory that is free now. One always stays: the one that runs.

    Raises:
        EngineError: the bundle is for another target, or Apple's runtime is not here in the version that it has to be.
    """

    name = "coreai"

    def __init__(self, bundle: Bundle, clip: ClipSpec, keep_bytes: int | None = None) -> None:
        target = bundle.manifest.target
        if target.name != "coreai":
            raise EngineError(f"The bundle {bundle.root} was compiled for {target.name}; the coreai engine cannot play it.")
        require_runtime()
        self.bundle, self.clip = bundle, clip
        self._chains = Recent[tuple[str, str], Chain](
            available_memory() // (LOADED_PER_BYTE + 1) if keep_bytes is None else keep_bytes, Chain.close
        )

    @property
    def threads(self) -> int:
        """The library computes on one, and has no choice of them (measured: a call's time is that of a single thread)."""
        return 1

    @property
    def loaded(self) -> tuple[str, ...]:
        """The methods that are loaded now, as PATH/METHOD, the one used last at the end."""
        return tuple(f"{path}/{method}" for path, method in self._chains.keys)

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        record = called_with(self.bundle, program, method, self.clip, inputs)
        return self._chain(record, method).run(inputs)

    def release(self) -> None:
        """Frees every method that is loaded; the next run loads its own again."""
        self._chains.clear()

    def _chain(self, record: Program, method: str) -> Chain:
        path = record.path
        return self._chains.get((path, method), lambda: self._bytes(path, method), lambda: Chain(self.bundle.path(path), method))

    def _bytes(self, path: str, method: str) -> int:
        names = tuple(f"{path}/{part}/" for part in read_signature(self.bundle.path(path), method).parts)
        return sum(entry.bytes for name, entry in self.bundle.manifest.files.items() if name.startswith(names))


class BuiltAssets:
    """A compiled unit before there is a bundle; see `registry.BuiltUnit`."""

    def __init__(self, built: Built) -> None:
        require_runtime()
        self.path = Path(built.path)

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        chain = Chain(self.path, method)
        try:
            found = chain.run(inputs)
        finally:
            chain.close()
        empty = np.empty(0, np.float32)
        return [x if wanted is None or position in wanted else empty for position, x in enumerate(found)]


def open_built(built: Built) -> BuiltAssets:
    """Raises EngineError: the runtime is not here."""
    return BuiltAssets(built)


def open_bundle(bundle: Bundle, clip: ClipSpec, _: int | None) -> CoreAIEngine:
    """Raises as `CoreAIEngine`. It runs on one thread, whatever is asked for."""
    return CoreAIEngine(bundle, clip)
