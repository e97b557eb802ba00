"""Traces: what each operator of a program made of a recorded call, in a few numbers, so that a wrong one can be named later.

    tests/traces.safetensors   PROGRAM.METHOD.samples: elements of every value, one value's behind the other's
                               PROGRAM.METHOD.sizes [n, 2]: root mean square of a value's finite elements, number of the others
    tests/traces.json          {"programs": {name: {method: {"call", "most", "values": [[name, shape, source]…]}}}}

A value's elements are all of it where it has `most` or fewer, else those at `places`. `source` is "reference" where the numbers are
the exported graph's, computed by torch, or "proof" where they are the file's own, as it was when it was proven. `call` is the
position among the method's recorded calls; an input of it that another call made does not travel, and `stand_in` takes its place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from ..plan import noise
from .golden import Golden
from .programs import Method

Array = NDArray[Any]
TRACES = "tests/traces.safetensors"
TRACES_INDEX = "tests/traces.json"
Source = Literal["reference", "proof"]
MOST = 32  # elements of a value
MOST_NUMBERS = 1 << 16  # of a method, so that a trace takes 256 KiB at most; but for `LEAST` elements of each value
LEAST = 8
_DRAWN = 1 << 16  # different numbers in a stand-in


def places(name: str, size: int, most: int) -> NDArray[np.int64]:
    """The places of a value's elements in row-major order: of the SHAKE-256 of its name, `most` unsigned numbers of 8 bytes,
    little-endian, modulo `size`; all places where there are no more."""
    if size <= most:
        return np.arange(size)
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * most), "<u8")
    return (drawn % np.uint64(size)).astype(np.int64)


def stand_in(program: str, name: str, shape: Sequence[int]) -> Array:
    """Normal numbers in the place of an input that does not travel, float32: the plan's noise, again and again."""
    seed = int.from_bytes(hashlib.sha256(f"{program}.{name}".encode()).digest()[:8], "little")
    size = math.prod(shape)
    return np.resize(noise(seed, (1, 1, 1, min(size, _DRAWN))).reshape(-1), tuple(shape))


@dataclass(frozen=True)
class Mark:
    """A value in a few numbers. `rms`: of its finite elements; `not_finite`: how many others it has; `samples`: elements at
    `places`."""

    shape: tuple[int, ...]
    rms: float
    not_finite: int
    samples: NDArray[np.float32]

    @classmethod
    def of(cls, name: str, value: Array, most: int) -> Self:
        flat = np.asarray(value).reshape(-1)
        finite = np.isfinite(flat)
        kept = flat if finite.all() else flat[finite]
        rms = math.sqrt(float(np.mean(np.square(kept, dtype=np.float64)))) if kept.size else 0.0
        return cls(np.shape(value), rms, int(flat.size - kept.size), flat[places(name, flat.size, most)].astype(np.float32))

    def difference(self, found: Mark) -> float:
        """How far `found`, of the same shape, is from this: the larger of the differences of their root mean squares and of their
        elements, over the root mean square here (over 1 where that is 0). Infinite where other elements are not finite."""
        if found.not_finite != self.not_finite:
            return float("inf")
        here, there = self.samples.astype(np.float64), found.samples.astype(np.float64)
        same = (here == there) | (np.isnan(here) & np.isnan(there))
        with np.errstate(invalid="ignore"):  # of two equal infinities
            apart = np.where(same, 0.0, here - there)
        if not np.isfinite(apart).all():
            return float("inf")
        elements = math.sqrt(float(np.mean(np.square(apart)))) if apart.size else 0.0
        return max(elements, abs(found.rms - self.rms)) / (self.rms or 1.0)


@dataclass(frozen=True)
class Trace:
    """A method's values in the order in which the file makes them, by name: marks, and where they come from."""

    call: int
    most: int
    marks: Mapping[str, Mark] = field(repr=False)
    sources: Mapping[str, Source] = field(repr=False)


def most_of(values: int) -> int:
    """How many elements are kept of each of so many values."""
    return max(LEAST, min(MOST, MOST_NUMBERS // max(1, values)))


@dataclass(frozen=True)
class Traces:
    """By program and method."""

    programs: dict[str, dict[str, Trace]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for at, trace in self._each():
            marks = trace.marks.values()
            found[f"{at}.samples"] = np.concatenate([mark.samples for mark in marks] or [np.zeros(0, np.float32)])
            found[f"{at}.sizes"] = np.array([(mark.rms, mark.not_finite) for mark in marks], np.float64).reshape(-1, 2)
        return found

    def index(self) -> dict[str, Any]:
        def told(trace: Trace) -> dict[str, Any]:
            values = [[name, list(mark.shape), trace.sources[name]] for name, mark in trace.marks.items()]
            return {"call": trace.call, "most": trace.most, "values": values}

        return {"programs": {name: {m: told(trace) for m, trace in methods.items()} for name, methods in self.programs.items()}}

    def _each(self) -> Iterator[tuple[str, Trace]]:
        return ((f"{name}.{m}", trace) for name, methods in self.programs.items() for m, trace in methods.items())

    @classmethod
    def of(cls, index: Any, tensors: Mapping[str, Array]) -> Self:
        """Raises BundleError: the two do not go together."""
        try:
            return cls({
                name: {method: _read(told, f"{name}.{method}", tensors) for method, told in methods.items()}
                for name, methods in index["programs"].items()
            })  # fmt: skip
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise BundleError(f"{TRACES_INDEX} is damaged ({error!r}). Export the bundle again.") from error

    def write(self, stem: Path) -> None:
        """As two files beside each other."""
        from safetensors.numpy import save_file

        save_file(self.tensors(), stem.with_suffix(".safetensors"))
        stem.with_suffix(".json").write_text(json.dumps(self.index()))

    @classmethod
    def read(cls, stem: Path) -> Self:
        from safetensors.numpy import load_file

        return cls.parsed(stem.with_suffix(".json").read_text(), load_file(stem.with_suffix(".safetensors")))

    @classmethod
    def parsed(cls, text: str, tensors: Mapping[str, Array]) -> Self:
        """Raises BundleError: as `of`, or the text is not JSON."""
        try:
            index = json.loads(text)
        except ValueError as error:
            raise BundleError(f"{TRACES_INDEX} is damaged ({error}). Export the bundle again.") from error
        return cls.of(index, tensors)


def _read(told: Mapping[str, Any], at: str, tensors: Mapping[str, Array]) -> Trace:
    samples, sizes = tensors[f"{at}.samples"], tensors[f"{at}.sizes"]
    call, most, values = int(told["call"]), int(told["most"]), told["values"]
    marks, sources, begin = dict[str, Mark](), dict[str, Source](), 0
    if sizes.shape != (len(values), 2):
        raise ValueError(f"{at} has {len(values)} values and sizes of {list(sizes.shape)}")
    for (name, shape, source), (rms, lost) in zip(values, sizes.tolist(), strict=True):
        if source not in get_args(Source):
            raise ValueError(f"the source of {name} is {source!r}")
        end = begin + min(most, math.prod(shape))
        marks[name], sources[name] = Mark(tuple(shape), rms, int(lost), samples[begin:end]), source
        begin = end
    if begin != len(samples):
        raise ValueError(f"{at} has {len(samples)} elements where its values have {begin}")
    return Trace(call, most, marks, sources)


def inputs_of(call: int, golden: Golden, program: str, method: str, record: Method) -> list[Array]:
    """What is given in the call of that number of a method: its recorded inputs, and stand-ins for those that do not travel.

    Raises:
        BundleError: there is no such call, or it is of another method.
    """
    calls = golden.index["programs"].get(program, {}).get(method, [])
    if not 0 <= call < len(calls) or len(calls[call]["inputs"]) != len(record.inputs):
        raise BundleError(f"The trace of {program}.{method} is of call {call}, which is not recorded. Export the bundle again.")
    found = []
    for source, spec in zip(calls[call]["inputs"], record.inputs, strict=True):
        if isinstance(source, str):
            found.append(golden.tensors[source])
        else:
            found.append(stand_in(program, spec.name, [int(size) for size in spec.shape]))
    return found
