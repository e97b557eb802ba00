"""A compiled `.pte` on this machine: loaded through XNNPACK, its methods run on numpy arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.errors import EngineError

Array = NDArray[Any]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what native libraries print while they load (probes of the processor) off the error stream."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def set_threads(threads: int) -> None:
    """How many threads programs run on from now on, in this process."""
    with quiet_stderr():
        from executorch.extension.pybindings import portable_lib
    portable_lib._unsafe_reset_threadpool(threads)


def registered_backends() -> tuple[str, ...]:
    """The backends that this machine's runtime can execute."""
    with quiet_stderr():
        from executorch.runtime import Runtime
    return tuple(Runtime.get().backend_registry.registered_backend_names)


class ProgramFile:
    """One `.pte`, with the data file of its weights where it has one; loaded when a method is first run.

    Raises:
        EngineError: it cannot be loaded.
    """

    def __init__(self, path: Path, data: Path | None = None) -> None:
        self.path = path
        self._methods: dict[str, Any] = {}
        try:
            with quiet_stderr():
                from executorch.extension.pybindings import portable_lib
                from executorch.runtime import Runtime, Verification

                if data is None:
                    self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
                    self.names = frozenset(self._program.method_names)
                else:
                    self._module = portable_lib._load_for_executorch(str(path), str(data))
                    self.names = frozenset(self._module.method_names())
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{path} cannot be loaded by ExecuTorch ({error}). Export the bundle again.") from error
        self._external = data is not None

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        """The method's outputs, copies; of those that are not among the positions `wanted`, an empty array.

        Raises:
            EngineError: there is no such method, it cannot be loaded, or it fails.
        """
        if method not in self.names:
            raise EngineError(f"{self.path} has no method {method!r}. Export the bundle again.")
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        try:
            if self._external:
                outputs = self._module.run_method(method, tuple(tensors), True)
            else:
                outputs = self._loaded(method).execute(tensors)
        except RuntimeError as error:
            raise EngineError(f"{method} of {self.path} failed in ExecuTorch: {error}") from error
        empty = np.empty(0, np.float32)  # the others are copied: the runtime may use its output buffers again
        return [np.array(x) if wanted is None or position in wanted else empty for position, x in enumerate(outputs)]

    def forget(self, method: str) -> None:
        """Frees what running a method left in memory; it is loaded again when it is run again."""
        self._methods.pop(method, None)

    def _loaded(self, method: str) -> Any:
        if method not in self._methods:
            try:
                with quiet_stderr():
                    self._methods[method] = self._program.load_method(method)
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"{self.path} cannot be loaded by ExecuTorch ({error}). Export the bundle again.") from error
        return self._methods[method]
