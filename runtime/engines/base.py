"""What an engine is: it runs the methods of a bundle's programs on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError

Array = NDArray[Any]


class Engine(Protocol):
    """Inputs and outputs are arrays in the order of the manifest's method record; an engine never changes its inputs.

    What only programs read again (conditions, residuals, states) an engine may return as its own kind of tensor, left where it
    computes; features, tokens, embeddings, latents, velocities and video are float32 arrays.
    """

    name: str

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        """Raises EngineError: there is no such program or method, or it fails."""
        ...

    def has(self, program: str) -> bool: ...


def contiguous(array: Array) -> Array:
    """The array itself if it lies contiguously in memory, a copy otherwise."""
    return np.ascontiguousarray(array)


def check_inputs(label: str, wanted: Sequence[tuple[str, str, tuple[int, ...]]], inputs: Sequence[Array]) -> None:
    """Refuses inputs that are not the (name, dtype, shape) that the method `label` takes: programs have fixed shapes.

    Raises:
        EngineError: the message names the first one that differs.
    """
    if len(inputs) != len(wanted):
        raise EngineError(f"{label} takes {len(wanted)} inputs ({', '.join(name for name, _, _ in wanted)}), not {len(inputs)}.")
    for (name, dtype, shape), array in zip(wanted, inputs, strict=True):
        if array.shape != shape or str(array.dtype) != dtype:
            raise EngineError(f"{label} takes {name} as {dtype} {list(shape)}, not {array.dtype} {list(array.shape)}.")
