"""The interpreter as an engine: it plays bundles of Core ML packages where there is no Core ML.

`mil` rounds every result to the type that the file declares, as `function.Precision` says of fp16; `mil-fp32` computes with the
file's weights in float32, so that what is wrong then, the file has wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....core.bundle import Bundle, Method
from ....core.config import ClipSpec
from ....core.errors import EngineError
from ....targets.coreml.names import LARGEST, ROW, package_of
from ..base import Array, called_with
from .function import Function, Precision, Tap
from .package import Package
from .traced import Traced, traced

if TYPE_CHECKING:
    from ....targets.base import Built

_IN_FILE = {"float32": np.float16, "int64": np.int32}  # what inputs of a bundle's types are in a package


class Programs:
    """Functions of packages, opened when they are first asked for."""

    def __init__(self, precision: Precision) -> None:
        self.precision: Precision = precision
        self._open: dict[tuple[Path, str], Function] = {}

    def run(
        self, folder: Path, method: str, inputs: Sequence[Array], tap: Tap | None = None, record: Method | None = None
    ) -> list[Array]:
        """A method of the program in `folder`; the package has inputs and outputs in the order of the method's `record`, whose
        outputs' shapes results get. `tap`: as `Function.run` has it.

        Raises:
            BundleError: the package is damaged.
            EngineError: an input is not what it takes.
        """
        function = self.function(folder, method)
        found = function.run(feed(function, inputs), self.precision, tap=tap)
        told = [_as_told(found[name]) for name in function.outputs]
        return told if record is None else shaped(told, record)

    def release(self) -> None:
        self._open.clear()

    def function(self, folder: Path, method: str) -> Function:
        key = (folder, method)
        if key not in self._open:
            package = Package.open(package_of(folder, method))
            self._open[key] = package.function(method if method in package.functions else None)
        return self._open[key]


def feed(function: Function, inputs: Sequence[Array]) -> dict[str, Array]:
    """Inputs in the order of the method's record as the function takes them."""
    taken = zip(function.inputs.items(), inputs, strict=True)
    return {name: as_in_file(array, kind.shape) for (name, kind), array in taken}


def as_in_file(array: Array, shape: Sequence[int | None] | None = None) -> Array:
    """An input as packages take it; numbers that half precision does not hold become ±32,768: they are masks. `shape`: of the
    package, which may have the same numbers in other axes, and up to a row of zeros behind them."""
    kind = _IN_FILE.get(str(array.dtype), array.dtype)
    if kind is np.float16:
        over = np.abs(array) > np.finfo(np.float16).max
        array = np.where(over, np.copysign(np.float32(LARGEST), array), array) if over.any() else array
    array = np.ascontiguousarray(array).astype(kind)
    sizes = [size for size in shape or () if size is not None]
    missing = math.prod(sizes) - array.size
    if shape is None or len(sizes) < len(shape) or array.shape == tuple(sizes) or not 0 <= missing < ROW:
        return array
    return np.pad(array.reshape(-1), (0, missing)).reshape(sizes)


def shaped(results: Sequence[Array], record: Method) -> list[Array]:
    """A method's results in the shapes of its record; packages may have other axes."""
    shapes = [tuple(size for size in spec.shape if isinstance(size, int)) for spec in record.outputs]
    return [
        array.reshape(shape) if array.shape != shape and array.size == math.prod(shape) else array
        for array, shape in zip(results, shapes, strict=True)
    ]


def _as_told(array: Array) -> Array:
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


class MilEngine:
    """Interprets a bundle's packages.

    Raises:
        EngineError: the bundle is for another target.
    """

    def __init__(self, bundle: Bundle, clip: ClipSpec, precision: Precision = "fp16") -> None:
        require_coreml(bundle, "mil")
        self.name = "mil" if precision == "fp16" else f"mil-{precision}"
        self.bundle, self.clip = bundle, clip
        self._programs = Programs(precision)

    @property
    def threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        record = called_with(self.bundle, program, method, self.clip, inputs)
        known = record.methods[method]
        return self._programs.run(self.bundle.path(record.path), record.prefix + method, inputs, record=known)

    def release(self) -> None:
        """Closes every package; the next run opens its own again."""
        self._programs.release()


def require_coreml(bundle: Bundle, engine: str) -> None:
    target = bundle.manifest.target
    if target.name != "coreml":
        raise EngineError(f"The bundle {bundle.root} was compiled for {target.name}; the engine {engine} plays Core ML packages.")


class BuiltPackages:
    """A compiled unit before there is a bundle; see `registry.BuiltUnit`."""

    def __init__(self, built: Built, precision: Precision = "fp16") -> None:
        self.path, self.folder, self.prefix = built.path, built.data or built.path, built.prefix
        self.methods, self._programs = built.methods, Programs(precision)

    def run(
        self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None, tap: Tap | None = None
    ) -> list[Array]:
        return self._programs.run(self.folder, self.prefix + method, inputs, tap, self.methods.get(method))

    def traced(self, method: str, inputs: Sequence[Array], call: int) -> Traced:
        """See `registry.TracedUnit`."""
        from ....targets.coreml.graph import graphs_of, read_graphs

        name = self.prefix + method
        graph = read_graphs(self.path)[name] if graphs_of(self.path).is_file() else None
        function = self._programs.function(self.folder, name)
        return traced(function, feed(function, inputs), call, graph)


def open_built(built: Built, precision: Precision = "fp16") -> BuiltPackages:
    return BuiltPackages(built, precision)


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None, precision: Precision = "fp16") -> MilEngine:
    """Raises as `MilEngine`."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return MilEngine(bundle, clip, precision)
