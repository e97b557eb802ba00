"""Engines around an engine: one that writes down its calls, one that computes some programs with another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from echoedge.core.bundle import CONDITION_PROGRAMS
from echoedge.runtime.engines.around import Around
from echoedge.runtime.engines.base import Array, Engine


class Call(NamedTuple):
    program: str
    method: str
    inputs: list[Array]
    outputs: list[Array]


class Recording:
    """Keeps every call; hides the programs named in `without`."""

    name = "recording"

    def __init__(self, engine: Engine, without: Sequence[str] = ()) -> None:
        self.engine, self.without = engine, without
        self.calls: list[Call] = []

    @property
    def threads(self) -> int:
        return self.engine.threads

    def has(self, program: str) -> bool:
        return program not in self.without and self.engine.has(program)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        outputs = self.engine.run(program, method, inputs)
        self.calls.append(Call(program, method, [array.copy() for array in inputs], outputs))
        return outputs

    def of(self, program: str) -> list[Call]:
        return [call for call in self.calls if call.program == program]


class Swapped(Around):
    """`engine`, but `program` is run by `other`."""

    def __init__(self, engine: Engine, other: Engine, program: str) -> None:
        super().__init__(engine)
        self.name, self.other, self.program = "swapped", other, program

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return (self.other if program == self.program else self.engine).run(program, method, inputs)


class Joined:
    """`engine` with one program for all conditions, as bundles of format 1 have it; `deaf`: it hears silence."""

    name = "joined"

    def __init__(self, engine: Engine, deaf: bool = False) -> None:
        self.engine, self.deaf = engine, deaf

    @property
    def threads(self) -> int:
        return self.engine.threads

    def has(self, program: str) -> bool:
        return program == "encode_conditions" or (program not in CONDITION_PROGRAMS and self.engine.has(program))

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        if program != "encode_conditions":
            return self.engine.run(program, method, inputs)
        y, text, image, *audio = inputs
        audio[0] = audio[0] * np.float32(not self.deaf)
        given = {"patch_conditions": [y], "text_conditions": [text], "image_conditions": [image], "audio_conditions": audio}
        return [array for role, arrays in given.items() for array in self.engine.run(role, method, arrays)]
