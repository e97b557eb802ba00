"""Stages 2 and 3: units compiled to files, and every final file executed on the recorded calls of its shape.

A file is believed when it has been run, from the data file that ships with it, and compared: each program is judged alone, on what
the full-precision model gave to it. What this machine cannot run is looked at, and the record says that no more was done.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...core.bundle import Figures, Kind, Method, Placement
from ...core.bundle.agreement import falls_short
from ...core.bundle.golden import Given, compare
from ...core.bundle.traces import Traces, inputs_of
from ...core.errors import ExportError
from ...core.weights.source import Unit, unit
from ...targets.bars import bar
from ...targets.base import Built, Lowered
from ..registry import TracedUnit, open_built
from .record import Recorded, fitting_of
from .request import ExportRequest

ONE_FILE = "model"


class Compiled(BaseModel):
    """A compiled unit and what there is to say of it. Paths lie in the work folder. state_bytes: what a streaming program hands on
    from call to call, in the shape that it was made for."""

    label: str
    role: str
    clip: str | None
    kind: Kind
    path: str
    data: str | None
    prefix: str
    placement: dict[str, Placement]
    layers: dict[str, int]
    methods: dict[str, Method]
    state_bytes: int = 0
    said: tuple[str, ...] = ()

    def built(self, folder: Path, data: str | None = None) -> Built:
        """`data`: the data file that ships, where it is not the unit's own."""
        found = data or self.data
        return Built(
            self.label, self.kind, folder / self.path, self.placement, self.layers, folder / found if found else None, self.prefix,
            methods=self.methods,
        )  # fmt: skip


class CompiledTogether(BaseModel):
    """All units of one file, by role."""

    units: dict[str, Compiled]


class SharedData(BaseModel):
    """The data file that the shapes of a unit share; None where no weights lie outside."""

    path: str | None


class Proof(BaseModel):
    """How a compiled file agrees with the record; or, where this machine cannot run it, how many pieces of it are the backend's.
    `traces`: the stem of two files with what its operators made, where the engine looks at them."""

    figures: Figures | None = None
    pieces: int | None = None
    traces: str | None = None

    def read_traces(self, folder: Path) -> Traces:
        return Traces() if self.traces is None else Traces.read(folder / self.traces)


# ---- 2. compile -----------------------------------------------------------------------------------------------------------------


def _lower(request: ExportRequest, folder: Path, role: str, shape: int, fitted: Recorded | None) -> tuple[Lowered, dict[str, Any]]:
    """A unit in the compiler's hands, and what its record says beside that."""
    made, label = unit(request.source, role, request.clips[shape], request.making), request.label(role, shape)
    outside = role if request.shared(role) else None
    fitting = fitting_of(request, folder, fitted, role)
    lowered = request.compiler.lower(made, label, request.recipe, request.options, outside, fitting)
    known = {"label": label, "role": role, "clip": None if request.one_for_all(role) else str(made.clip)}
    return lowered, known | {"methods": request.compiler.methods(made), "state_bytes": _state_bytes(made)}


def _state_bytes(made: Unit) -> int:
    following = made.methods.get("next")
    inputs = {} if following is None else following.inputs
    return sum(x.nbytes for name, x in inputs.items() if name.startswith("state_"))


def _record(built: Built, known: dict[str, Any], folder: Path) -> Compiled:
    return Compiled(
        **known, kind=built.kind, path=str(built.path.relative_to(folder)),
        data=str(built.data.relative_to(folder)) if built.data else None, prefix=built.prefix, placement=dict(built.placement),
        layers=dict(built.layers), said=built.said,
    )  # fmt: skip


def compile_one(request: ExportRequest, folder: Path, fitted: Recorded | None = None, *, role: str, shape: int) -> Compiled:
    """Compiles a unit for the clip shape of that index to a file of its own."""
    label = request.label(role, shape)
    own = folder / f"compiled-{label}"
    shutil.rmtree(own, ignore_errors=True)  # what a killed run may have left
    own.mkdir()
    lowered, known = _lower(request, folder, role, shape, fitted)
    (built,) = request.compiler.write([lowered], own, label, request.options)
    return _record(built, known, folder)


def compile_together(request: ExportRequest, folder: Path, fitted: Recorded | None = None) -> CompiledTogether:
    """Compiles all units of the one clip shape into one file."""
    parts = [_lower(request, folder, role, 0, fitted) for role in request.roles]
    written = request.compiler.write([lowered for lowered, _ in parts], folder, ONE_FILE, request.options)
    records = [_record(built, known, folder) for built, (_, known) in zip(written, parts, strict=True)]
    return CompiledTogether(units={record.role: record for record in records})


def merge_shapes(request: ExportRequest, folder: Path, *compiled: Compiled) -> SharedData:
    """The data file that a unit's shapes share, as it goes into the bundle."""
    files = [folder / each.data for each in compiled if each.data]
    if not files:
        return SharedData(path=None)
    return SharedData(path=str(request.compiler.merge(files, folder, compiled[0].role).relative_to(folder)))


# ---- 3. prove -------------------------------------------------------------------------------------------------------------------


def prove(
    request: ExportRequest, folder: Path, compiled: Compiled | CompiledTogether, recorded: Recorded, *shared: SharedData, role: str
) -> Proof:
    """Runs a compiled unit on the recorded calls of its shape, from the files that ship.

    Raises:
        ExportError: it computes something else, or was never called in the full-precision run.
    """
    made = compiled.units[role] if isinstance(compiled, CompiledTogether) else compiled
    built = made.built(folder, shared[0].path if shared else None)
    if not request.executed:
        return Proof(pieces=request.compiler.check(built, request.options))
    golden, label = recorded.read_golden(folder), made.label
    if label not in golden.index["programs"]:
        raise ExportError(
            f"{label} was not called in the full-precision run, so that there is nothing to compare its file with. Export with "
            "more --steps, or report it."
        )
    file = open_built(request.target, built)

    def given(source: Given) -> Any:
        return recorded.array(folder, f"{source.program}.{source.output}")

    def run(program: str, method: str, inputs: Sequence[Any]) -> list[Any]:
        return file.run(method, inputs, golden.used(program, method))

    found = compare(golden, run, [label], given)[label]
    wanted = bar(role, made.layers, request.compiler.compute(request.options))
    if not isinstance(file, TracedUnit):
        require_parity(label, found, wanted)
        return Proof(figures=found)
    methods = {
        method: file.traced(method, inputs_of(0, golden, label, method, made.methods[method]), 0)
        for method in golden.index["programs"][label]
    }
    require_parity(label, found, wanted, next((f"in {method} {each.wrong}" for method, each in methods.items() if each.wrong), ""))
    stem = f"traces-{label}-{recorded.golden}"
    Traces({label: {method: each.trace for method, each in methods.items()}}).write(folder / stem)
    return Proof(figures=found, traces=stem)


def require_parity(name: str, found: Figures, wanted: Figures, wrong: str = "") -> None:
    """Refuses a compiled program that computes something else than the model. `wrong`: its first wrong operator, in words.

    Raises:
        ExportError: it falls short of what is demanded; the message gives both.
    """
    if falls_short(found, wanted):
        first = f" The first operator that is wrong: {wrong}." if wrong else ""
        raise ExportError(
            f"{name} was compiled, and the file does not compute what the model computes: {found.psnr_db:.1f} dB and cosine "
            f"{found.cosine:.6f}, where {wanted.psnr_db} dB and {wanted.cosine} are demanded.{first} Take finer weights for it "
            "(--weights int8, or a recipe file), or report it."
        )
