"""Core AI as a target: a folder of `.aimodel`s for a program, one for each method.

Programs are for clips of one shape. A unit whose modules have their weights is compiled whole; a transformer that streams, block by
block (`streamed.py`), in several files where one would be too large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...core.bundle import Method, Placement
from ...core.errors import ExportError
from ...core.model.programs import EntryPoint
from ...core.plan import check_choice
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ...quantize.schemes import PALETTES
from ...quantize.weights import quantise
from ..bars import WITHOUT_PRODUCTS, Compute
from ..base import Built, Fitting, Lowered, Precision, chosen_options, method_records
from ..idle import release_pages
from ..rewrites.fused import make_fused
from ..stored_weight import stored_weight
from .asset import TYPES, Part, convert, in_type, require_compiler, summary
from .session import SUFFIX, Signature, write_signatures
from .storage import settle
from .streamed import Streamed

MOST_WEIGHTS = 1_000_000_000  # bytes of a file's, where a method can be cut: what is compiled at once has to fit into memory
_COMPUTES: Mapping[Precision, Compute] = {"fp32": "fp32", "bf16": "whole-bf16", "fp16": "fp16-sums"}


@dataclass(frozen=True)
class CoreAIOptions:
    """`precision`: what programs compute in; their inputs and outputs are float32."""

    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, tuple(TYPES))


@dataclass(frozen=True)
class _Method:
    """A method in the compiler's hands: what it computes in, the names of its inputs and outputs, and what it is made of, which is
    read once."""

    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: Iterator[Part]


class CoreAI:
    """See `targets.base.Target`."""

    name, title, extra = "coreai", "Core AI", "coreai"

    def options(self, **given: Any) -> CoreAIOptions:
        return chosen_options(CoreAIOptions, self.title, given)

    def refuses(self, scheme: str, options: CoreAIOptions) -> str | None:
        if scheme in PALETTES:
            return f"{self.title} takes fp32, int8 and int4 weights, not {scheme}: palettes are for the target coreml."
        return None

    def refuses_convolutions(self, options: CoreAIOptions) -> str | None:
        return "Target coreai rounds linear layers alone; convolutions stay in float."

    def backend(self, options: CoreAIOptions) -> str:
        return ""

    def precision(self, options: CoreAIOptions) -> Precision:
        return options.precision

    def compute(self, options: CoreAIOptions) -> Compute:
        return _COMPUTES[options.precision]

    def executed(self, options: CoreAIOptions) -> bool:
        return True

    def together(self, options: CoreAIOptions) -> bool:
        return False

    def any_shape(self, role: str) -> bool:
        return False

    def settings(self, options: CoreAIOptions) -> Mapping[str, Any]:
        return {}

    def methods(self, unit: Unit) -> dict[str, Method]:
        return method_records(unit.methods)

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: CoreAIOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        require_compiler()
        layers = Counter[str]()
        programs = {}
        precision = _precision(unit.role, options)
        for name, entry in unit.methods.items():
            if unit.blocks is not None:
                parts = Streamed(unit, recipe, precision, fitting, layers, MOST_WEIGHTS).parts()
            else:
                parts = iter([_whole(unit.role, entry, recipe, precision, fitting, layers)])
            programs[name] = _Method(precision, tuple(entry.inputs), tuple(entry.outputs), parts)
        return Lowered(label, programs, layers)

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: CoreAIOptions) -> list[Built]:
        (unit,) = lowered
        place = folder / name
        place.mkdir()
        taken, signatures = {}, {}
        for method, made in unit.programs.items():
            taken[method], signatures[method] = _written(made, f"{unit.label}.{method}", place, method)
        write_signatures(place, signatures)
        return [Built(unit.label, "folder", place, taken, dict(unit.layers))]

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        raise ExportError(f"{name} has no data files to merge: weights lie in its programs.")

    def check(self, built: Built, options: CoreAIOptions) -> int:
        found = sorted(built.path.glob(f"*{SUFFIX}"))
        return sum(count for path in found for _, count in summary(path).operation_distribution)


def _precision(role: str, options: CoreAIOptions) -> Precision:
    """What a program computes in: convolutions alone, one after the other, stay float32 in place of bfloat16, which left 36 dB of
    the tiny decoder's toy."""
    return "fp32" if options.precision == "bf16" and role in WITHOUT_PRODUCTS else options.precision


def _whole(
    role: str, entry: EntryPoint, recipe: WeightRecipe, precision: Precision, fitting: Fitting, layers: Counter[str]
) -> Part:
    """A method of a unit whose modules have their weights."""
    inputs, relieve = tuple(entry.inputs.values()), partial(release_pages, entry.module)
    fused = make_fused(entry.module, inputs=inputs)
    layers.update(quantise(fused, role, recipe, inputs, store=stored_weight, samples=fitting.calls, relieve=relieve))
    packed = in_type(settle(fused), precision)
    relieve()
    return Part(packed, entry.inputs, entry.outputs)


def _written(made: _Method, label: str, folder: Path, method: str) -> tuple[Placement, Signature]:
    """Writes a method's parts, one after the other."""
    names, operators, flops = list[str](), 0, 0
    for part in made.parts:
        names.append(f"{method}-{len(names) + 1}{SUFFIX}" if names else f"{method}{SUFFIX}")
        found = convert(label, part, made.precision, folder / names[-1])
        operators, flops = operators + found[0], flops + found[1]
    taken = Placement(delegate_calls=len(names), delegated_ops=operators, delegated_flops=flops)
    return taken, Signature(made.inputs, made.outputs, tuple(names))


TARGET = CoreAI()
