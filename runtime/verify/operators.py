"""Which operator of a Core ML package is the first to be wrong: asked of programs that fall short, by the bundle's traces."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...core.bundle import Bundle, Program
from ...core.bundle.golden import Golden
from ...core.bundle.traces import TRACES, TRACES_INDEX, Trace, Traces, inputs_of
from ..engines.base import Engine

if TYPE_CHECKING:
    from ..engines.mil.compare import Compared

WRONG = 2e-3  # of the file in single precision; what was recorded may itself be off by half of that (`engines.mil.traced.SAME`)
FINITE = sys.float_info.max  # in half precision, where right norms of small numbers differ by 0.66 as their epsilon goes under
PLAYING = ("mil", "mil-fp32", "coreml")  # engines that run packages
Where = Literal["file", "half precision", "nowhere"]


@dataclass(frozen=True)
class Wrong:
    """The first operator of a program that differs. `where`: "file" where it is wrong in single precision already, "half precision"
    where it is not finite there alone, "nowhere" where none is: then `type` and `name` are empty. `relative`: the difference over
    the root mean square of what was recorded."""

    where: Where
    method: str = ""
    type: str = ""
    name: str = ""
    relative: float | None = None
    reason: str = ""
    compared: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For scripts; `relative` is null where it is infinite or nothing differs."""
        finite = self.relative is not None and self.relative != float("inf")
        return {
            "where": self.where, "method": self.method or None, "type": self.type or None, "name": self.name or None,
            "relative": self.relative if finite else None, "reason": self.reason, "compared": self.compared,
        }  # fmt: skip

    def __str__(self) -> str:
        if self.where == "nowhere":
            return f"none of {self.compared} operators' results differs: {self.reason}"
        kind = "the first operator that is wrong in the file" if self.where == "file" else "right in the file; in half precision"
        return f"{kind}: {self.type} {self.name!r} of {self.method}, {self.reason}"


class Naming:
    """Names operators of `bundle`'s programs. Nothing is read until a program is asked for.

    Raises (of `of`):
        BundleError: the traces are damaged, or a package is.
        EngineError: coremltools is missing, or a package has an operator that the interpreter does not know.
    """

    def __init__(self, bundle: Bundle, golden: Golden, engine: Engine) -> None:
        self.bundle, self.golden, self.engine = bundle, golden, engine
        self._traces: Traces | None = None

    def of(self, name: str) -> Wrong | None:
        """The first operator of a program that differs; None where the engine plays no packages, or there is no trace of it."""
        if self.engine.name not in PLAYING or TRACES_INDEX not in self.bundle.manifest.files:
            return None
        if self._traces is None:
            self._traces = Traces.parsed(self.bundle.path(TRACES_INDEX).read_text(), self.bundle.read_tensors(TRACES))
        methods = self._traces.programs.get(name)
        if not methods:
            return None
        program, compared = self.bundle.program(name), 0
        for method, trace in methods.items():
            found = self._compared(name, program, method, trace, "fp32")
            if found.first is not None:
                return _wrong("file", method, found)
            compared += found.results
        if self.engine.name == "mil":
            for method, trace in methods.items():
                found = self._compared(name, program, method, trace, "fp16")
                if found.first is not None:
                    return _wrong("half precision", method, found)
        return Wrong("nowhere", compared=compared, reason=self._elsewhere())

    def _compared(self, name: str, program: Program, method: str, trace: Trace, precision: Literal["fp16", "fp32"]) -> Compared:
        from ..engines.mil.compare import compare
        from ..engines.mil.engine import Programs, feed

        programs = Programs(precision)
        function = programs.function(self.bundle.path(program.path), program.prefix + method)
        given = feed(function, inputs_of(trace.call, self.golden, name, method, program.methods[method]))
        return compare(function, trace.marks, given, WRONG if precision == "fp32" else FINITE, precision)

    def _elsewhere(self) -> str:
        if self.engine.name == "coreml":
            return "the file is right by the interpreter, and Core ML computes something else: try other --units, or a device"
        return "the file is what was proven: look at the weights' bits, at what other programs give to it, or at what is demanded"


def _wrong(where: Where, method: str, found: Compared) -> Wrong:
    assert found.first is not None
    first = found.first
    return Wrong(where, method, first.type, first.name, first.relative, first.reason, found.results)
