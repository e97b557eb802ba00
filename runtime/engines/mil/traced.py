"""What each operator of a function makes of a call, beside what torch makes of the graph that the function was converted from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ....core.bundle.traces import Mark, Source, Trace, most_of
from .compare import Differing
from .function import Array, Function, Made

if TYPE_CHECKING:
    from ....targets.coreml.graph import Graph

SAME = 1e-3  # of single precision on both sides, relative


@dataclass(frozen=True)
class Traced:
    """`wrong`: the first operator of which torch makes something else, by its name; None where there is none, or no graph."""

    trace: Trace
    wrong: Differing | None


def traced(function: Function, given: Mapping[str, Array], call: int, graph: Graph | None) -> Traced:
    """Runs the function in single precision, and the graph. `given`: inputs in the order of the method's record.

    Marks are the graph's where it makes a value of that name and the file's agrees with it, else the file's: a value that the
    converter has moved keeps its name and means something else.

    Raises:
        EngineError, BundleError: as `Function.run`.
    """
    most = most_of(function.results)
    marks, types = dict[str, Mark](), dict[str, str]()

    def tap(made: Made) -> None:
        marks[made.name], types[made.name] = Mark.of(made.name, made.value.numpy(), most), made.step.type

    function.run(given, "fp32", tap=tap)
    known = {} if graph is None else _known(graph, function, list(given.values()), most)
    apart = {name: mark.difference(marks[name]) for name, mark in known.items() if _alike(marks.get(name), mark)}
    agreed = {name for name, relative in apart.items() if relative <= SAME}
    kept = {name: known[name] if name in agreed else mark for name, mark in marks.items()}
    sources: dict[str, Source] = {name: "reference" if name in agreed else "proof" for name in marks}
    first = next((name for name in marks if name in apart and name not in agreed), None)
    wrong = None
    if first is not None:
        reason = f"differs by {apart[first]:.3g} from what torch makes of the same graph"
        wrong = Differing(first, types[first], apart[first], reason)
    return Traced(Trace(call, most, kept, sources), wrong)


def _alike(mine: Mark | None, known: Mark) -> bool:
    return mine is not None and mine.shape == known.shape


@torch.no_grad()
def _known(graph: Graph, function: Function, inputs: Sequence[Array], most: int) -> Mapping[str, Mark]:
    tensors = [torch.from_numpy(np.array(array)) for array in inputs]
    return {name: Mark.of(name, value.numpy(), most) for name, value in graph.values(tensors, function.constant)}
