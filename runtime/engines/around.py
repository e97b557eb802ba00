"""Engines around an engine: what it runs passes through, and is written down, timed or changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .base import Array, Engine


class Around:
    """An engine around another one."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.name = engine, engine.name

    @property
    def threads(self) -> int:
        return self.engine.threads

    def has(self, program: str) -> bool:
        return self.engine.has(program)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return self.engine.run(program, method, inputs)


class Call(NamedTuple):
    program: str
    method: str
    seconds: float


class Timed(Around):
    """Writes down how long every call took, to the end of what it started: `settle` waits for the device."""

    def __init__(self, engine: Engine, settle: Callable[[], None] = lambda: None) -> None:
        super().__init__(engine)
        self.settle = settle
        self.calls: list[Call] = []

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        started = time.perf_counter()
        outputs = self.engine.run(program, method, inputs)
        self.settle()
        self.calls.append(Call(program, method, time.perf_counter() - started))
        return outputs
