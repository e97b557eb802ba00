"""ExecuTorch's runtime: each program is loaded on first use and stays loaded while memory allows."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.bundle import Bundle, Program
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ...core.files import available_memory
from ...targets.executorch.backends import BACKENDS
from ...targets.executorch.program_file import ProgramFile, registered_backends, set_threads
from .base import Array, check_inputs

LOADED_PER_BYTE = 2  # a file is mapped, and XNNPACK packs a copy of its weights


class ExecuTorchEngine:
    """Runs a bundle's compiled programs. `threads`: 0 leaves the runtime's choice. `keep_bytes`: of the files of programs that stay
    loaded together, so that a machine need not hold all of them; by default a third of the memory that is free now. One always
    stays: the one that runs. `clip`: which of the bundle's shapes is played, the main one by default.

    Raises:
        EngineError: the bundle is for another target, or lowered to a backend that this machine does not have.
    """

    name = "executorch"

    def __init__(self, bundle: Bundle, threads: int = 0, keep_bytes: int | None = None, clip: ClipSpec | None = None) -> None:
        manifest = bundle.manifest
        if manifest.target != "executorch":
            raise EngineError(f"The bundle {bundle.root} was compiled for {manifest.target}; the executorch engine cannot play it.")
        known = BACKENDS.get(manifest.backend)
        if known is None or known.identifier not in registered_backends():
            title = known.title if known else manifest.backend
            raise EngineError(
                f"The bundle {bundle.root} is lowered to {title}, which this machine does not have: it plays on a device that "
                "does. Export it with --backend xnnpack to play it here."
            )
        self.bundle, self.clip = bundle, clip or bundle.clip
        self.keep_bytes = available_memory() // (LOADED_PER_BYTE + 1) if keep_bytes is None else keep_bytes
        self._files: dict[str, ProgramFile] = {}  # the one used last is the last
        if threads:
            set_threads(threads)

    def has(self, program: str) -> bool:
        return program in self.bundle.manifest.programs

    @property
    def loaded(self) -> tuple[str, ...]:
        """The paths of the program files that are loaded now, the one used last at the end."""
        return tuple(self._files)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        if not self.has(program):
            raise EngineError(f"The bundle has no program {program!r}. It has: {', '.join(self.bundle.manifest.programs)}.")
        record = self.bundle.program(self.bundle.program_name(program, self.clip))
        if method not in record.methods:
            raise EngineError(f"{program} has no method {method!r}. It has: {', '.join(record.methods)}.")
        specs = record.methods[method].inputs
        check_inputs(f"{program}.{method}", [(spec.name, spec.dtype, spec.shape) for spec in specs], inputs)
        return self._file(record).run(record.prefix + method, inputs)

    def _file(self, record: Program) -> ProgramFile:
        files = self._files
        if record.path in files:
            files[record.path] = files.pop(record.path)
            return files[record.path]
        sizes = {other.path: self._bytes(other) for other in self.bundle.manifest.programs.values()}
        while files and sum(sizes[path] for path in files) + sizes[record.path] > self.keep_bytes:
            del files[next(iter(files))]
        data = self.bundle.path(record.data) if record.data else None
        files[record.path] = ProgramFile(self.bundle.path(record.path), data)
        return files[record.path]

    def _bytes(self, record: Program) -> int:
        return record.bytes + (self.bundle.manifest.files[record.data].bytes if record.data else 0)
