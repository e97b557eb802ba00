"""What an engine is: it runs the methods of a bundle's programs on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...core.bundle import Bundle, Program
from ...core.config import ClipSpec
from ...core.errors import EngineError

Array = NDArray[Any]


class Engine(Protocol):
    """Inputs and outputs are arrays in the order of the manifest's method record; an engine never changes its inputs.

    What only programs read again (conditions, residuals, states) an engine may return as its own kind of tensor, left where it
    computes; features, tokens, embeddings, latents, velocities and video are float32 arrays.
    """

    name: str

    @property
    def threads(self) -> int:
        """How many threads it runs on now."""
        ...

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        """Raises EngineError: there is no such program or method, or it fails."""
        ...

    def has(self, program: str) -> bool: ...


@runtime_checkable
class Loads(Protocol):
    """An engine whose programs can be loaded before their first run, and freed one by one."""

    name: str

    def load(self, program: str) -> None:
        """Raises EngineError: there is no such program, or it cannot be loaded."""
        ...

    def free(self, program: str | None = None) -> int:
        """Frees the file of a program, or all -> how many files. A later run loads its own again."""
        ...


def contiguous(array: Array) -> Array:
    """The array itself if it lies contiguously in memory, a copy otherwise."""
    return np.ascontiguousarray(array)


def program_called(bundle: Bundle, program: str, method: str, clip: ClipSpec) -> Program:
    """The record of a bundle's program, by its role and for the shape `clip`, or by its name.

    Raises:
        EngineError: there is no such program, or it has no such method.
    """
    record = program_named(bundle, program, clip)
    if method not in record.methods:
        raise EngineError(f"{program} has no method {method!r}. It has: {', '.join(record.methods)}.")
    return record


def program_named(bundle: Bundle, program: str, clip: ClipSpec) -> Program:
    """`program_called`, whatever its methods are. Raises as that."""
    named = bundle.manifest.programs
    if program not in bundle.roles and program not in named:
        raise EngineError(f"The bundle has no program {program!r}. It has: {', '.join(named)}.")
    return bundle.program_for(program, clip) if program in bundle.roles else named[program]


def called_with(bundle: Bundle, program: str, method: str, clip: ClipSpec, inputs: Sequence[Array]) -> Program:
    """`program_called`, whose method takes these inputs.

    Raises:
        EngineError: as `program_called`, `check_inputs`.
    """
    record = program_called(bundle, program, method, clip)
    specs = record.methods[method].inputs
    check_inputs(f"{program}.{method}", [(spec.name, spec.dtype, spec.shape) for spec in specs], inputs)
    return record


def check_inputs(label: str, wanted: Sequence[tuple[str, str, Sequence[int | str]]], inputs: Sequence[Array]) -> None:
    """Refuses inputs that are not the (name, dtype, shape) that the method `label` takes. A dimension that is a name is the
    caller's to choose, the same for every input of a call.

    Raises:
        EngineError: the message names the first one that differs.
    """
    if len(inputs) != len(wanted):
        raise EngineError(f"{label} takes {len(wanted)} inputs ({', '.join(name for name, _, _ in wanted)}), not {len(inputs)}.")
    chosen: dict[str, int] = {}
    for (name, dtype, shape), array in zip(wanted, inputs, strict=True):
        told = "[" + ", ".join(f"{size}={chosen[size]}" if size in chosen else str(size) for size in shape) + "]"
        fits = len(shape) == array.ndim and all(
            chosen.setdefault(size, found) == found if isinstance(size, str) else size == found
            for size, found in zip(shape, array.shape, strict=True)
        )
        if not fits or str(array.dtype) != dtype:
            raise EngineError(f"{label} takes {name} as {dtype} {told}, not {array.dtype} {list(array.shape)}.")
