"""Core ML packages on the machine at hand: by Core ML itself where that is, which is macOS, and by the interpreter elsewhere.

What is here for macOS has not been run: no machine of ours has Core ML.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ...core.memory import usable_cores
from ...targets.coreml.names import FUNCTIONS, UNITS, output_names, package_of
from .base import Array, Engine, called_with
from .mil import engine as interpreter
from .mil.package import Package

if TYPE_CHECKING:
    from ...targets.base import Built


class CoreMLEngine:
    """Core ML runs a bundle's packages, on the units that the bundle names. Packages are compiled by the system when they are first
    loaded, which can take minutes.

    Raises:
        EngineError: the bundle is for another target, or coremltools is not installed.
    """

    name = "coreml"

    def __init__(self, bundle: Bundle, clip: ClipSpec) -> None:
        interpreter.require_coreml(bundle, self.name)
        self.bundle, self.clip = bundle, clip
        self._models: dict[tuple[Path, str], tuple[Any, dict[str, Any]]] = {}

    @property
    def threads(self) -> int:
        return usable_cores()

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        record = called_with(self.bundle, program, method, self.clip, inputs)
        known = record.methods[method]
        names = [spec.name for spec in known.inputs]
        model, shapes = self._model(self.bundle.path(record.path), record.prefix + method)
        feed = {name: interpreter.as_in_file(array, shapes[name]) for name, array in zip(names, inputs, strict=True)}
        try:
            found = model.predict(feed)
        except Exception as error:  # the library's own kinds have no common one
            raise EngineError(f"{program}.{method} failed in Core ML: {error}") from error
        told = output_names(names, [spec.name for spec in known.outputs])
        return interpreter.shaped([np.asarray(found[name], np.float32) for name in told], known)

    def release(self) -> None:
        self._models.clear()

    def _model(self, folder: Path, method: str) -> tuple[Any, dict[str, Any]]:
        """Core ML's, and the shapes of its inputs by name."""
        key = (folder, method)
        if key not in self._models:
            try:
                import coremltools as ct
            except ImportError as error:
                raise EngineError(
                    f"The engine coreml needs coremltools, which is not here ({error}). pip install 'echoedge[coreml]'"
                ) from error
            path, units = package_of(folder, method), ct.ComputeUnit[UNITS[self.bundle.manifest.target.backend]]
            function = method if path.name == FUNCTIONS else None
            taken = Package.open(path).steps(function).inputs
            model = ct.models.MLModel(str(path), compute_units=units, function_name=function)
            self._models[key] = model, {name: kind.shape for name, kind in taken.items()}
        return self._models[key]


def open_built(built: Built) -> interpreter.BuiltPackages:
    """A unit that is proven by the interpreter, on every machine alike."""
    return interpreter.open_built(built)


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None) -> Engine:
    """Raises as `CoreMLEngine`, or as `mil.engine.MilEngine`."""
    return CoreMLEngine(bundle, clip) if sys.platform == "darwin" else interpreter.open_bundle(bundle, clip, threads)
