"""Goldens: recorded full-precision calls that travel in a bundle, so that any device can compare its programs with them.

    tests/golden.safetensors   arrays by content
    tests/golden.json          {"programs": {name: {method: [call…]}}, "clip": {name: key}, "settings": {…}, "reactions": {…}}

A call is {"inputs": [source…], "outputs": [expected…]}. A source is the key of an array, or {"program", "method", "call",
"output"}: what that call gave on the device itself, for tensors too large to travel (keys and values, the VAE's state). An expected
output is a key, {"key", "every"}: every n-th of its elements, or null: not compared. What reactions are: `reactions.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from . import Figures
from .agreement import figures, worst

Array = NDArray[Any]
GOLDEN = "tests/golden.safetensors"
GOLDEN_INDEX = "tests/golden.json"
Run = Callable[[str, str, Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class Given:
    """An input that another recorded call gave."""

    program: str
    method: str
    call: int
    output: int


@dataclass(frozen=True)
class Golden:
    """Recorded calls: arrays by content, and an index that names them (see the module)."""

    tensors: dict[str, Array] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=lambda: {"programs": {}, "clip": {}, "settings": {}, "reactions": {}})

    def add(self, array: Array) -> str:
        """Keeps an array once and returns its key."""
        array = np.ascontiguousarray(array)
        key = hashlib.sha256(str((array.shape, array.dtype)).encode() + array.tobytes()).hexdigest()[:24]
        self.tensors.setdefault(key, array)
        return key

    def add_call(
        self,
        program: str,
        method: str,
        inputs: Sequence[Array | Given],
        outputs: Sequence[Array | None],
        most: int | None = None,
    ) -> None:
        """`outputs`: None is not kept; of those with more than `most` elements every n-th is."""
        call = {
            "inputs": [dict(vars(a)) if isinstance(a, Given) else self.add(a) for a in inputs],
            "outputs": [None if a is None else self._expected(a, most) for a in outputs],
        }
        self.index["programs"].setdefault(program, {}).setdefault(method, []).append(call)

    def _expected(self, array: Array, most: int | None) -> str | dict[str, Any]:
        if most is None or array.size <= most:
            return self.add(array)
        every = -(-array.size // most)
        return {"key": self.add(array.reshape(-1)[::every]), "every": every}

    def pair(self, expected: Any, output: Array) -> tuple[Array, Array]:
        """What is recorded of an output, and the same elements of `output`."""
        if isinstance(expected, str):
            return self.tensors[expected], output
        return self.tensors[expected["key"]], np.asarray(output).reshape(-1)[:: expected["every"]]

    def used(self, program: str, method: str) -> set[int]:
        """Positions of the outputs of a method that are compared, or that calls of the same program read."""
        calls = self.index["programs"][program]
        found = {i for call in calls[method] for i, expected in enumerate(call["outputs"]) if expected is not None}
        for call in (call for others in calls.values() for call in others):
            sources = [Given(**source) for source in call["inputs"] if isinstance(source, dict)]
            found |= {source.output for source in sources if (source.program, source.method) == (program, method)}
        return found

    def makers(self, program: str) -> set[str]:
        """Other programs whose outputs the recorded calls of `program` read."""
        calls = (call for calls in self.index["programs"][program].values() for call in calls)
        return {source["program"] for call in calls for source in call["inputs"] if isinstance(source, dict)} - {program}

    def of(self, program: str) -> Golden:
        """What is recorded of one program, which reads nothing that others give."""
        calls = self.index["programs"][program]
        expected = [entry for found in calls.values() for call in found for entry in (*call["inputs"], *call["outputs"])]
        keys = {entry["key"] if isinstance(entry, dict) else entry for entry in expected if entry is not None}
        return Golden({key: self.tensors[key] for key in keys}, Golden().index | {"programs": {program: calls}})

    def merge(self, other: Golden) -> None:
        """Takes over what `other` recorded. Calls of a method that is here already come behind those that are."""
        self.tensors.update(other.tensors)
        mine, theirs = self.index["programs"], other.index["programs"]
        before = {(name, method): len(calls) for name, methods in mine.items() for method, calls in methods.items()}

        def moved(source: Any) -> Any:
            if not isinstance(source, dict):
                return source
            return source | {"call": source["call"] + before.get((source["program"], source["method"]), 0)}

        for name, methods in theirs.items():
            for method, calls in methods.items():
                added = [call | {"inputs": [moved(source) for source in call["inputs"]]} for call in calls]
                mine.setdefault(name, {}).setdefault(method, []).extend(added)
        for part in ("clip", "settings", "reactions"):
            self.index[part].update(other.index[part])


def compare(
    golden: Golden,
    run: Run,
    programs: Sequence[str] | None = None,
    given: Callable[[Given], Array] | None = None,
    done: Callable[[str, Figures], None] = lambda *_: None,
) -> dict[str, Figures]:
    """Runs the recorded calls of `programs` (all by default) and gives each program's worst agreement.

    `given`: where inputs come from that other programs make; by default from those programs as `run` runs them. What a program's
    own earlier calls gave is always its own. `done(program, figures)` is called as each is finished.

    Raises:
        BundleError: the record is damaged, an input is of a call that was not made, or nothing of a program is compared.
    """
    results: dict[str, Figures] = {}
    kept: dict[tuple[str, str, int, int], Array] = {}
    index: Mapping[str, Any] = golden.index["programs"]
    wanted = _wanted(golden, given is not None)
    for name in programs if programs is not None else index:
        found = []
        for method, calls in index[name].items():
            for number, call in enumerate(calls):
                outputs = run(name, method, [_input(golden, name, source, kept, given) for source in call["inputs"]])
                if len(outputs) != len(call["outputs"]):
                    raise BundleError(f"{name}.{method} gives {len(outputs)} outputs; its record has {len(call['outputs'])}.")
                for position, (expected, output) in enumerate(zip(call["outputs"], outputs, strict=True)):
                    if expected is not None:
                        found.append(figures(*golden.pair(expected, output)))
                    place = (name, method, number, position)
                    if place in wanted:
                        kept[place] = output
                del outputs
        if not found:
            raise BundleError(f"The recorded calls of {name} compare no outputs: they prove nothing. Export the bundle again.")
        results[name] = worst(found)
        done(name, results[name])
        kept = {place: value for place, value in kept.items() if wanted[place] - results.keys()}  # what nobody reads any more goes
    return results


def _wanted(golden: Golden, elsewhere: bool) -> dict[tuple[str, str, int, int], set[str]]:
    """Which outputs other calls read, and the programs that do; with `elsewhere` those of other programs are not kept."""
    wanted: dict[tuple[str, str, int, int], set[str]] = {}
    for name, methods in golden.index["programs"].items():
        for calls in methods.values():
            for call in calls:
                for source in call["inputs"]:
                    if isinstance(source, dict) and not (elsewhere and source["program"] != name):
                        place = (source["program"], source["method"], source["call"], source["output"])
                        wanted.setdefault(place, set()).add(name)
    return wanted


def _input(
    golden: Golden,
    program: str,
    source: Any,
    kept: Mapping[tuple[str, str, int, int], Array],
    given: Callable[[Given], Array] | None,
) -> Array:
    if isinstance(source, str):
        return golden.tensors[source]
    reference = Given(**source)
    if given is not None and reference.program != program:
        return given(reference)
    place = (reference.program, reference.method, reference.call, reference.output)
    if place not in kept:
        raise BundleError(f"The recorded calls of {program} need an output of {reference.program}, which has not been run.")
    return kept[place]
