"""ExecuTorch's runtime: each `.pte` is loaded on first use and stays loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.bundle import Bundle
from ...core.errors import EngineError
from .base import Array, check_inputs, contiguous


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


class ExecuTorchEngine:
    """Runs a bundle's compiled programs through XNNPACK. `threads`: 0 leaves the runtime's choice."""

    name = "executorch"

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        if bundle.manifest.target != "executorch":
            raise EngineError(
                f"The bundle {bundle.root} was compiled for {bundle.manifest.target}; the executorch engine cannot play it."
            )
        self.bundle = bundle
        self._programs: dict[str, Any] = {}
        self._methods: dict[tuple[str, str], Any] = {}
        if threads:
            with quiet_stderr():
                from executorch.extension.pybindings import portable_lib
            portable_lib._unsafe_reset_threadpool(threads)

    def has(self, program: str) -> bool:
        return program in self.bundle.manifest.programs

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        loaded = self._methods.get((program, method)) or self._load(program, method)
        specs = self.bundle.program(program).methods[method].inputs
        check_inputs(f"{program}.{method}", [(spec.name, spec.dtype, spec.shape) for spec in specs], inputs)
        try:
            outputs = loaded.execute([torch.from_numpy(contiguous(array)) for array in inputs])
        except RuntimeError as error:
            raise EngineError(f"{program}.{method} failed in ExecuTorch: {error}") from error
        return [np.array(tensor) for tensor in outputs]  # copies: the runtime may use its output buffers again

    def _load(self, program: str, method: str) -> Any:
        with quiet_stderr():
            from executorch.runtime import Runtime, Verification
        if not self.has(program):
            raise EngineError(f"The bundle has no program {program!r}. It has: {', '.join(self.bundle.manifest.programs)}.")
        record = self.bundle.program(program)
        if method not in record.methods:
            raise EngineError(f"{program} has no method {method!r}. It has: {', '.join(record.methods)}.")
        path: Path = self.bundle.path(record.path)
        try:
            with quiet_stderr():
                if program not in self._programs:
                    self._programs[program] = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
                if method not in self._programs[program].method_names:
                    raise EngineError(f"{path} has no method {method!r}. Export the bundle again.")
                loaded = self._programs[program].load_method(method)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{path} cannot be loaded by ExecuTorch ({error}). Export the bundle again.") from error
        self._methods[program, method] = loaded
        return loaded
