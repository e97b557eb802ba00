"""A compiled `.pte` on this machine: loaded through XNNPACK, its methods run on numpy arrays."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError

Array = NDArray[Any]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what native libraries print while they load (probes of the processor) off the error stream, the system's and Python's:
    ExecuTorch writes to both."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def runtime() -> Any:
    """ExecuTorch's compiled module, the one that its Python packages hand on; those import the whole exporter, this does not."""
    import torch  # noqa: F401  the module links torch's libraries

    with quiet_stderr():
        from executorch.extension.pybindings import _portable_lib

        _portable_lib._threadpool_get_thread_count()  # makes the pool, which looks at the processor
    return _portable_lib


def set_threads(threads: int) -> None:
    """How many threads programs run on from now on, in this process."""
    runtime()._unsafe_reset_threadpool(threads)


def threads() -> int:
    """How many threads programs run on now, in this process."""
    return int(runtime()._threadpool_get_thread_count())


def registered_backends() -> tuple[str, ...]:
    """The backends that this machine's runtime can execute."""
    return tuple(runtime()._get_registered_backend_names())


class ProgramFile:
    """One `.pte`, with the data file of its weights where it has one.

    Raises:
        EngineError: it cannot be loaded.
    """

    def __init__(self, path: Path, data: Path | None = None) -> None:
        self.path, self.data = path, data
        self._methods: dict[str, Any] = {}
        self._program = self._open()
        self.names = self._names()

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        """The method's outputs, copies; of those that are not among the positions `wanted`, an empty array.

        Raises:
            EngineError: there is no such method, it cannot be loaded, or it fails.
        """
        if method not in self.names:
            raise EngineError(f"{self.path} has no method {method!r}. Export the bundle again.")
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        if self._program is None:
            self._program = self._open()
        try:
            if self.data is None:
                outputs = self._loaded(method)(tensors, clone_outputs=False)
            else:
                outputs = self._program.run_method(method, tuple(tensors), False)
        except RuntimeError as error:
            raise EngineError(f"{method} of {self.path} failed in ExecuTorch: {error}") from error
        empty = np.empty(0, np.float32)  # the others are copied: the runtime uses its output buffers again
        return [np.array(x) if wanted is None or position in wanted else empty for position, x in enumerate(outputs)]

    def load(self, methods: Iterable[str]) -> None:
        """Loads these methods now, not at their first run; of a file whose weights lie in another one, the runtime loads a method
        when it runs it.

        Raises:
            EngineError: one cannot be loaded.
        """
        if self._program is None:
            self._program = self._open()
        if self.data is None:
            for method in methods:
                self._loaded(method)

    def release(self) -> None:
        """Frees everything that loading and running left in memory; the next run loads the file again."""
        self._methods.clear()
        self._program = None

    def _open(self) -> Any:
        try:
            library = runtime()
            with quiet_stderr():
                if self.data is not None:
                    return library._load_for_executorch(str(self.path), str(self.data))
                whole = library.Verification.InternalConsistency
                return library._load_program(str(self.path), program_verification=whole)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(error) from error

    def _names(self) -> frozenset[str]:
        if self.data is not None:
            return frozenset(self._program.method_names())
        return frozenset(self._program.get_method_name(index) for index in range(self._program.num_methods()))

    def _loaded(self, method: str) -> Any:
        if method not in self._methods:
            try:
                with quiet_stderr():
                    self._methods[method] = self._program.load_method(method)
            except (RuntimeError, ValueError) as error:
                raise self._damaged(error) from error
        return self._methods[method]

    def _damaged(self, error: Exception) -> EngineError:
        return EngineError(f"{self.path} cannot be loaded by ExecuTorch ({error}). Export the bundle again.")
