"""The toy target's engine: .pt2 files on torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echoedge.core.bundle import Bundle
from echoedge.core.config import ClipSpec
from echoedge.runtime.engines.base import Array
from echoedge.targets.base import Built


def run_file(path: Path, inputs: Sequence[Array]) -> list[Array]:
    with torch.no_grad():
        found = torch.export.load(path).module()(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]


class ToyEngine:
    name = "toy"

    def __init__(self, bundle: Bundle, clip: ClipSpec) -> None:
        self.bundle, self.clip = bundle, clip

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def has(self, program: str) -> bool:
        return program in self.bundle.roles

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return run_file(self.bundle.path(self.bundle.program_for(program, self.clip).path) / f"{method}.pt2", inputs)


class BuiltFolder:
    def __init__(self, built: Built) -> None:
        self.path = built.path

    def run(self, method: str, inputs: Sequence[Array], wanted: Collection[int] | None = None) -> list[Array]:
        return run_file(self.path / f"{method}.pt2", inputs)


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None) -> Any:
    if threads is not None:
        torch.set_num_threads(threads)
    return ToyEngine(bundle, clip)


def open_built(built: Built) -> BuiltFolder:
    return BuiltFolder(built)
