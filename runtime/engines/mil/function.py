"""A function of a package, run a step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....core.errors import EngineError
from .kinds import Kind, TensorType, of_array
from .ops.base import Held, State
from .program import Ref, Step, Steps
from .values import Values

Array = NDArray[Any]
Precision = Literal["fp16", "fp32"]
"""fp16: each result is rounded to the type that the file declares, and sums inside an operator are taken in float32; that is the
least that Apple promises. fp32: the file's weights, and float32 for all else: what is wrong then, the file has wrong."""


@dataclass(frozen=True)
class Made:
    """A value that a step has made; `value` is good until the next step runs."""

    step: Step
    name: str
    value: Tensor


Tap = Callable[[Made], None]


@dataclass(frozen=True)
class Sizes:
    """What shapes an input may have: those listed, or each size from a least to a most (None: no bound)."""

    listed: Sequence[tuple[int, ...]] = ()
    ranges: Sequence[tuple[int, int | None]] = ()

    def allow(self, shape: Sequence[int]) -> bool:
        if self.listed:
            return tuple(shape) in self.listed
        return not self.ranges or all(
            low <= n and (most is None or n <= most) for n, (low, most) in zip(shape, self.ranges, strict=False)
        )

    def __str__(self) -> str:
        if self.listed:
            return "one of " + ", ".join(str(list(shape)) for shape in self.listed)
        return "[" + ", ".join(str(low) if low == most else f"{low} … {most or ''}".strip() for low, most in self.ranges) + "]"


class Function:
    """`inputs`, `outputs`: types by name; `states`: of what the caller keeps between runs; `counts`: operators by type;
    `results`: how many values are no constants."""

    def __init__(self, steps: Steps, values: Values, sizes: Mapping[str, Sizes]) -> None:
        self.name, self.counts, self.outputs = steps.name, steps.counts, steps.outputs
        self.inputs = {name: kind for name, kind in steps.inputs.items() if not kind.state}
        self.states = {name: kind for name, kind in steps.inputs.items() if kind.state}
        self.results = sum(len(step.outputs) for step in steps.steps if not step.constant)
        self._steps, self._values, self._sizes = steps, values, sizes

    def new_states(self) -> dict[str, Array]:
        """Every state, of zeros, as Core ML starts them."""
        return {name: torch.zeros(_fixed(name, kind), dtype=kind.kind.held).numpy() for name, kind in self.states.items()}

    def constant(self, name: str) -> Tensor | None:
        """A constant, decoded where it is compressed; None where the function has none of that name.

        Raises:
            BundleError: it is damaged.
        """
        step = self._steps.constants.get(name)
        if step is None:
            return None
        needed = [ref.name for refs in step.given.values() for ref in refs if ref.name is not None]
        found = self._results(step, {each: self.constant(each) for each in needed}, "fp16")[0]
        return found if isinstance(found, Tensor) else None

    def run(
        self,
        inputs: Mapping[str, Array],
        precision: Precision = "fp16",
        states: dict[str, Array] | None = None,
        tap: Tap | None = None,
    ) -> dict[str, Array]:
        """Outputs by name, of the types that the file declares; with precision fp32, floats are float32.

        `states`: from `new_states` or the run before, changed in place. `tap`: is shown every result that is not a constant.

        Raises:
            EngineError: inputs or states are not what the function takes, or an operator gives what the file does not declare.
            BundleError: a weight is damaged or missing.
        """
        running = self.running(inputs, precision, states)
        while True:
            try:
                made = next(running)
            except StopIteration as ended:
                outputs: dict[str, Array] = ended.value
                return outputs
            if tap is not None:
                tap(made)

    def running(
        self, inputs: Mapping[str, Array], precision: Precision = "fp16", states: dict[str, Array] | None = None
    ) -> Iterator[Made]:
        """`run`, a result at a time: gives those that are no constants, as they are made; returns the outputs."""
        if precision not in get_args(Precision):
            raise EngineError(f"There is no precision {precision!r} here. Choose from: {', '.join(get_args(Precision))}.")
        held: dict[str, Held] = self._fed(inputs) | self._kept(states, precision)
        return self._run(held, precision, states)

    def _run(self, held: dict[str, Held], precision: Precision, states: dict[str, Array] | None) -> Any:
        for step in self._steps.steps:
            for (name, _), value in zip(step.outputs, self._results(step, held, precision), strict=True):
                held[name] = value
                if not step.constant and isinstance(value, Tensor):
                    yield Made(step, name, value)
            for name in step.frees:
                held.pop(name, None)
        if states is not None:
            states.update({name: held[name].value.numpy().copy() for name in self.states})
        return {name: held[name].numpy().astype(self._given_out(kind.kind, precision)) for name, kind in self.outputs.items()}

    def _results(self, step: Step, held: Mapping[str, Held], precision: Precision) -> Sequence[Held]:
        given = {name: [self._argument(ref, held, step) for ref in refs] for name, refs in step.given.items()}
        operator = step.operator
        if operator is None:
            return [_constant(step, given["val"][0])]
        widen = operator.form == "computes" or (operator.form in ("moves", "converts") and precision == "fp32")
        try:
            found = operator.call(given, widen, self._steps.opset)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise EngineError(f"{step} cannot be run: {reason}.") from error
        results: Sequence[Tensor] = () if found is None else found if isinstance(found, tuple) else (found,)
        if len(results) != len(step.outputs):
            raise EngineError(f"{step} gives {len(results)} values where the file says {len(step.outputs)}.")
        source = operator.leading(given) if operator.form in ("computes", "moves") else None
        return [
            _as_declared(step, name, value, kind, source, precision)
            for (name, kind), value in zip(step.outputs, results, strict=True)
        ]

    def _argument(self, ref: Ref, held: Mapping[str, Held], step: Step) -> Held:
        return held[ref.name] if ref.name is not None else self._values.read(ref.value, f"A constant of {step}")

    def _fed(self, inputs: Mapping[str, Array]) -> dict[str, Held]:
        missing, unknown = self.inputs.keys() - inputs.keys(), inputs.keys() - self.inputs.keys()
        if missing or unknown:
            word, names = ("lacks the inputs", missing) if missing else ("has no inputs", unknown)
            raise EngineError(
                f"The function {self.name!r} {word} {', '.join(sorted(names))}. It takes: {', '.join(self.inputs) or 'none'}."
            )
        for name, kind in self.inputs.items():
            array, sizes = inputs[name], self._sizes.get(name, Sizes())
            if str(array.dtype) != _numpy_name(kind.kind) or not kind.allows(array.shape):
                raise EngineError(f"{self.name} takes {name} as {kind}, not {array.dtype} {list(array.shape)}.")
            if not sizes.allow(array.shape):
                raise EngineError(f"{self.name} takes {name} of the sizes {sizes}, not {list(array.shape)}.")
        return {name: _tensor(inputs[name], kind.kind) for name, kind in self.inputs.items()}

    def _kept(self, states: Mapping[str, Array] | None, precision: Precision) -> dict[str, Held]:
        if states is None and self.states:
            raise EngineError(
                f"The function {self.name!r} keeps {', '.join(self.states)} between runs: give it states, at first those of "
                "new_states()."
            )
        found = {}
        for name, kind in self.states.items():
            array = (states or {}).get(name)
            known = (_numpy_name(kind.kind), "float32") if precision == "fp32" else (_numpy_name(kind.kind),)
            if array is None or str(array.dtype) not in known or not kind.allows(array.shape):
                told = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
                raise EngineError(f"{self.name} keeps the state {name} as {kind}, and was given {told}.")
            value = torch.from_numpy(np.ascontiguousarray(array))
            found[name] = State(value.float() if precision == "fp32" and value.is_floating_point() else value)
        return found

    @staticmethod
    def _given_out(kind: Kind, precision: Precision) -> str:
        return "float32" if precision == "fp32" and kind.held.is_floating_point else _numpy_name(kind)


def _as_declared(
    step: Step, name: str, value: Tensor, declared: TensorType | None, source: Tensor | None, precision: Precision
) -> Tensor:
    """A result, rounded to what the file declares of it. `source`: an argument whose type of floats the result has to have."""
    if declared is None:
        raise EngineError(f"{step} gives a tensor where the file says that {name!r} is text.")
    wanted = declared.kind.held
    alike = value.dtype == wanted or (
        value.is_floating_point() == wanted.is_floating_point and (value.dtype == torch.bool) == (wanted == torch.bool)
    )
    if precision == "fp16" and step.operator is not None and wanted.is_floating_point:
        if source is not None:
            alike = alike and source.dtype == wanted
        elif step.operator.form in ("converts", "decodes"):
            alike = value.dtype == wanted
    if not alike or not declared.allows(value.shape):
        shown = of_array(value.dtype if source is None or not value.is_floating_point() else source.dtype)
        raise EngineError(f"{step} gives {name!r} as {shown} {list(value.shape)} where the file says {declared}.")
    if precision == "fp32" and not step.constant and wanted.is_floating_point:
        return value.float()
    return value.to(wanted)


def _constant(step: Step, value: Held) -> Held:
    _, declared = step.outputs[0]
    if isinstance(value, str) != (declared is None):
        raise EngineError(f"{step} is {'text' if isinstance(value, str) else 'a tensor'} where the file says {declared or 'text'}.")
    if declared is not None and (value.dtype != declared.kind.held or not declared.allows(value.shape)):
        raise EngineError(f"{step} holds {of_array(value.dtype)} {list(value.shape)} where the file says {declared}.")
    return value


def _fixed(name: str, kind: TensorType) -> list[int]:
    if kind.shape is None or None in kind.shape:
        raise EngineError(f"The state {name} is {kind}, of which only Core ML knows how much to keep.")
    return [size for size in kind.shape if size is not None]


def _numpy_name(kind: Kind) -> str:
    return {"fp16": "float16", "fp32": "float32"}.get(kind.name, kind.name)


def _tensor(array: Array, kind: Kind) -> Tensor:
    """The array itself where that can be; torch never writes to it."""
    whole = np.require(array, requirements=["C", "W"]) if array.size else np.array(array)
    return torch.from_numpy(whole).to(kind.held)
