"""What an engine is: it runs the methods of a bundle's programs on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Engine(Protocol):
    """Inputs and outputs are arrays in the order of the manifest's method record; an engine never changes its inputs."""

    name: str

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        """Raises EngineError: there is no such program or method, or it fails."""
        ...

    def has(self, program: str) -> bool: ...


def contiguous(array: Array) -> Array:
    """The array itself if it lies contiguously in memory, a copy otherwise."""
    return np.ascontiguousarray(array)
