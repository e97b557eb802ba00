"""Two runs of one program beside each other: which operator's result is the first to differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from ....core.bundle.traces import Mark
from ....core.errors import EngineError
from .function import Array, Function, Made, Precision
from .observed import difference


@dataclass(frozen=True)
class Differing:
    """A result that differs. `relative`: root mean square of the difference over that of what was expected; infinite where shapes
    differ, or only one of the two is finite."""

    name: str
    type: str
    relative: float
    reason: str

    def __str__(self) -> str:
        return f"{self.type} {self.name!r} {self.reason}"


@dataclass(frozen=True)
class Compared:
    """`results`: how many were compared, until the first that differs by more than the bar; `largest`: of the relative differences
    among those that do not; `first`: None where none does."""

    results: int
    largest: float
    first: Differing | None


def compare(
    function: Function,
    expected: Function | Mapping[str, Array | Mark],
    inputs: Mapping[str, Array],
    bar: float,
    precision: Precision = "fp32",
    expected_precision: Precision = "fp32",
    states: Mapping[str, Array] | None = None,
) -> Compared:
    """Runs `function` until a result differs from what is expected by more than `bar`, relative to it.

    `expected`: the same function of another package, which runs beside it a step at a time (weights may be stored in another way,
    operators and names are the same), or results by the names of values, whole or as marks, of which those that the function makes
    are compared. What an operator reads may differ by up to the bar already, so the bar is that of whole runs. `states`: both start
    from them; they are not changed.

    Raises:
        EngineError: the two functions are not the same program, or nothing that was expected is made.
        BundleError, EngineError: as `Function.run`.
    """
    running = function.running(inputs, precision, dict(states) if states is not None else None)
    if isinstance(expected, Function):
        beside = expected.running(inputs, expected_precision, dict(states) if states is not None else None)
        pairs = _in_step(function, running, expected, beside)
    else:
        pairs = ((made, _known(expected[made.name])) for made in running if made.name in expected)
    results, largest = 0, 0.0
    for made, known in pairs:
        results += 1
        if tuple(made.value.shape) != tuple(known.shape):
            reason = f"has the shape {list(made.value.shape)} and not {list(known.shape)}"
            return Compared(results, largest, Differing(made.name, made.step.type, float("inf"), reason))
        relative = _difference(made, known)
        if not relative <= bar:
            reason = f"differs by {relative:.3g} of what is expected, and the bar is {bar:g}"
            return Compared(results, largest, Differing(made.name, made.step.type, relative, reason))
        largest = max(largest, relative)
    if not results:
        raise EngineError(f"The function {function.name!r} makes none of the values that were expected; nothing was compared.")
    return Compared(results, largest, None)


def _known(expected: Array | Mark) -> torch.Tensor | Mark:
    return expected if isinstance(expected, Mark) else torch.from_numpy(expected.copy())


def _difference(made: Made, known: torch.Tensor | Mark) -> float:
    if isinstance(known, Mark):
        return known.difference(marked(made, known))
    return difference(made.value, known)


def marked(made: Made, like: Mark) -> Mark:
    """A result in as many elements as another mark of it has."""
    return Mark.of(made.name, made.value.numpy(), len(like.samples))


def _in_step(
    function: Function, running: Iterator[Made], expected: Function, beside: Iterator[Made]
) -> Iterator[tuple[Made, torch.Tensor | Mark]]:
    for made in running:
        known = next(beside, None)
        if known is None or made.name != known.name:
            other = "ends" if known is None else f"makes {known.name!r} by {known.step.type}"
            raise EngineError(
                f"The functions {function.name!r} and {expected.name!r} are not the same program: one makes {made.name!r} by "
                f"{made.step.type} where the other {other}."
            )
        yield made, known.value
    left = next(beside, None)
    if left is not None:
        raise EngineError(f"The function {expected.name!r} makes {left.name!r} where {function.name!r} has ended.")
