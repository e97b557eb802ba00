"""ONNX Runtime: each method is loaded on first use and stays loaded while memory allows.

What only programs read again (keys and values, states, residuals) stays where it was computed, as the library's own values; so do
inputs that come again, the conditions of every step. What runs where is proven when a graph is loaded (`targets/onnx/session.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.bundle import CONDITION_PROGRAMS, Bundle, Method, Program
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ...core.files import available_memory
from ...core.memory import usable_cores
from ...targets.onnx.session import SUFFIX, WEIGHTS, heard, library, open_session, provider, require_flash
from ...targets.onnx.stale import misstated, told
from .base import Array, called_with, contiguous
from .recent import Recent

if TYPE_CHECKING:
    from ...targets.base import Built

LOADED_PER_BYTE = 2  # weights are mapped, and kernels pack a copy of theirs
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
_KEPT = ("state_", "residual")  # outputs that programs alone read again, besides those of condition programs


class OnDevice:
    """An array that lies where it was computed; numpy sees it where it asks."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shape, self.ndim = tuple(value.shape()), len(value.shape())
        self.dtype = np.dtype(_DTYPES[value.data_type()])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        found: Array = self.value.numpy()
        return found if dtype is None else found.astype(dtype)


class OnnxEngine:
    """Runs a bundle's graphs. `on`: so many threads; 0 leaves the library's choice. `keep_bytes`: of the weights of programs that
    stay loaded together; by default a third of the memory that is free now. One always stays: the one that runs.

    Raises:
        EngineError: the bundle is for another target, or for a device that this machine does not have.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, clip: ClipSpec, on: int = 0, keep_bytes: int | None = None) -> None:
        target = bundle.manifest.target
        if target.name != "onnx":
            raise EngineError(f"The bundle {bundle.root} was compiled for {target.name}; the onnx engine cannot play it.")
        self.bundle, self.clip, self.device, self._on = bundle, clip, target.backend, on
        provider(self.device)
        self._sessions = Recent[tuple[str, str], Any](
            available_memory() // (LOADED_PER_BYTE + 1) if keep_bytes is None else keep_bytes
        )
        self._flash = self.device == "cuda" and target.precision == "fp16"  # to be proven by the first step

    @property
    def threads(self) -> int:
        return self._on or usable_cores()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The graphs that are loaded now, as PATH/METHOD, the one used last at the end."""
        return tuple(f"{path}/{method}" for path, method in self._sessions.keys)

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        record = called_with(self.bundle, program, method, self.clip, inputs)
        known = record.methods[method]
        kept = [record.role in CONDITION_PROGRAMS or spec.name.startswith(_KEPT) for spec in known.outputs]
        session, label = self._session(record, method), f"{program}.{method}"
        if not (self._flash and record.role == "denoise"):
            return run_bound(session, label, self.device, known, inputs, kept)
        with heard() as told:
            outputs = run_bound(session, label, self.device, known, inputs, kept, verbose=True)
        require_flash(label, told[0])
        self._flash = False
        return outputs

    def release(self) -> None:
        """Frees every graph that is loaded; the next run loads its own again."""
        self._sessions.clear()

    def _session(self, record: Program, method: str) -> Any:
        return self._sessions.get((record.path, method), lambda: self._bytes(record.path), lambda: self._opened(record, method))

    def _opened(self, record: Program, method: str) -> Any:
        path, known = self.bundle.path(record.path) / f"{method}{SUFFIX}", record.methods[method]
        session = open_session(path, self.device, self._on)
        for values, specs in ((session.get_inputs(), known.inputs), (session.get_outputs(), known.outputs)):
            stale = misstated(values, [(spec.name, spec.shape) for spec in specs])
            if stale is not None:
                raise EngineError(told(path, stale))
        return session

    def _bytes(self, path: str) -> int:
        return self.bundle.manifest.files[f"{path}/{WEIGHTS}"].bytes


def run_bound(
    session: Any, label: str, device: str, known: Method, inputs: Sequence[Any], kept: Sequence[bool], verbose: bool = False
) -> list[Any]:
    """One call with its inputs and outputs bound to the device. `kept`: which outputs stay there.

    Raises:
        EngineError: the runtime refuses.
    """
    binding = session.io_binding()
    ort = library()
    try:
        for spec, array in zip(known.inputs, inputs, strict=True):
            value = array.value if isinstance(array, OnDevice) else ort.OrtValue.ortvalue_from_numpy(contiguous(array), "cpu", 0)
            binding.bind_ortvalue_input(spec.name, value)
        for output, stays in zip(session.get_outputs(), kept, strict=True):  # by place: a graph has each name once
            binding.bind_output(output.name, device if stays else "cpu")
        options = ort.RunOptions()
        if verbose:
            options.log_severity_level = 0
        session.run_with_iobinding(binding, options)
        outputs = binding.get_outputs()
    except Exception as error:  # the library's own kinds have no common one
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise EngineError(f"{label} failed in ONNX Runtime: {reason}") from error
    return [OnDevice(value) if stays else value.numpy() for value, stays in zip(outputs, kept, strict=True)]


class BuiltGraphs:
    """A compiled unit before there is a bundle; see `registry.BuiltUnit`."""

    def __init__(self, built: Built) -> None:
        self.path = Path(built.path)

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        session = open_session(self.path / f"{method}{SUFFIX}", "cpu")
        feed = dict(zip((each.name for each in session.get_inputs()), map(contiguous, inputs), strict=True))
        try:
            outputs = session.run(None, feed)
        except Exception as error:  # the library's own kinds have no common one
            raise EngineError(f"{method} of {self.path} failed in ONNX Runtime: {str(error).splitlines()[0][:300]}") from error
        empty = np.empty(0, np.float32)
        return [x if wanted is None or position in wanted else empty for position, x in enumerate(outputs)]


def open_built(built: Built) -> BuiltGraphs:
    """A unit that is proven on the CPU, whatever device it is for."""
    return BuiltGraphs(built)


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None) -> OnnxEngine:
    """Raises as `OnnxEngine`."""
    return OnnxEngine(bundle, clip, threads or 0)
