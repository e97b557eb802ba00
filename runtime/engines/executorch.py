"""ExecuTorch's runtime: each program is loaded on first use and stays loaded while memory allows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ...core.bundle import Bundle, Program
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ...core.files import available_memory
from ...targets.executorch.backends import BACKENDS
from ...targets.executorch.program_file import ProgramFile, registered_backends, set_threads, threads
from .base import Array, called_with, program_named
from .recent import Recent

if TYPE_CHECKING:
    from ...targets.base import Built

LOADED_PER_BYTE = 2  # a file is mapped, and XNNPACK packs a copy of its weights


class ExecuTorchEngine:
    """Runs a bundle's compiled programs. `on`: so many threads; 0 leaves the runtime's choice. `keep_bytes`: of the files of
    programs that stay loaded together, so that a machine need not hold all of them; by default a third of the memory that is free
    now. One always stays: the one that runs. `clip`: which of the bundle's shapes is played, the main one by default.

    Raises:
        EngineError: the bundle is for another target, or lowered to a backend that this machine does not have.
    """

    name = "executorch"

    def __init__(self, bundle: Bundle, on: int = 0, keep_bytes: int | None = None, clip: ClipSpec | None = None) -> None:
        target = bundle.manifest.target
        if target.name != "executorch":
            raise EngineError(f"The bundle {bundle.root} was compiled for {target.name}; the executorch engine cannot play it.")
        known = BACKENDS.get(target.backend)
        if known is None or known.identifier not in registered_backends():
            title = known.title if known else target.backend
            raise EngineError(
                f"The bundle {bundle.root} is lowered to {title}, which this machine does not have: it plays on a device that "
                "does. Export it with --backend xnnpack to play it here."
            )
        self.bundle, self.clip = bundle, clip or bundle.clip
        self._files = Recent[str, ProgramFile](available_memory() // (LOADED_PER_BYTE + 1) if keep_bytes is None else keep_bytes)
        if on:
            set_threads(on)

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    @property
    def loaded(self) -> tuple[str, ...]:
        """The paths of the program files that are loaded now, the one used last at the end."""
        return self._files.keys

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        record = called_with(self.bundle, program, method, self.clip, inputs)
        return self._file(record).run(record.prefix + method, inputs)

    def load(self, program: str) -> None:
        """Loads a program's file and its methods now, not at their first run.

        Raises:
            EngineError: there is no such program, or it cannot be loaded.
        """
        record = program_named(self.bundle, program, self.clip)
        self._file(record).load([record.prefix + method for method in record.methods])

    def free(self, program: str | None = None) -> int:
        """Frees the file of a program, which other programs may share, or all files -> how many. A later run loads its own again.

        Raises:
            EngineError: there is no such program.
        """
        wanted = self.loaded if program is None else (program_named(self.bundle, program, self.clip).path,)
        return sum(self._files.drop(path) for path in wanted)

    @property
    def threads(self) -> int:
        return threads()

    def _file(self, record: Program) -> ProgramFile:
        data = self.bundle.path(record.data) if record.data else None
        return self._files.get(record.path, lambda: self._bytes(record), lambda: ProgramFile(self.bundle.path(record.path), data))

    def _bytes(self, record: Program) -> int:
        return record.artifact.bytes + (self.bundle.manifest.files[record.data].bytes if record.data else 0)


class BuiltFile:
    """A compiled unit before there is a bundle; see `registry.BuiltUnit`."""

    def __init__(self, built: Built) -> None:
        self._file, self._prefix = ProgramFile(built.path, built.data), built.prefix

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        outputs = self._file.run(self._prefix + method, inputs, wanted)
        self._file.release()
        return outputs


def open_built(built: Built) -> BuiltFile:
    """Raises EngineError: the file cannot be loaded."""
    return BuiltFile(built)


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None) -> ExecuTorchEngine:
    """Raises as `ExecuTorchEngine`."""
    return ExecuTorchEngine(bundle, threads or 0, clip=clip)
