"""A function of a program, as steps in the order in which they run, each with what may be forgotten after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....core.errors import BundleError, EngineError
from .kinds import TensorType, type_of
from .ops import OPERATORS
from .ops.base import Operator

CONST = "const"
_NAME = "name"  # the attribute that every operator has for people


@dataclass(frozen=True)
class Ref:
    """An argument: the name of a value, or a constant that stands in the place of one."""

    name: str | None
    value: Any = None


@dataclass(frozen=True)
class Step:
    """One operator. `name`: of its first output, or its own where it has none. `operator`: None for a plain constant. `frees`: what
    nothing reads after it."""

    name: str
    type: str
    where: str
    operator: Operator | None
    given: Mapping[str, Sequence[Ref]]
    outputs: Sequence[tuple[str, TensorType | None]]
    frees: Sequence[str] = ()

    @property
    def constant(self) -> bool:
        return self.operator is None or self.operator.form == "decodes"

    def __str__(self) -> str:
        return f"{self.type} {self.name!r} in {self.where}"


@dataclass(frozen=True)
class Steps:
    """A function. `opset`: the number in its operator set's name, 7 for iOS 17. `counts`: of operators by type, constants too;
    `constants`: those that nothing reads among them."""

    name: str
    opset: int
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    steps: Sequence[Step]
    counts: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, Step] = field(default_factory=dict)


def steps_of(name: str, function: Any) -> Steps:
    """The steps of a Function message.

    Raises:
        BundleError: it is incomplete, or a value is used that nothing makes.
        EngineError: it has an operator that is not known here.
    """
    where = f"function {name!r}"
    if function.opset not in function.block_specializations:
        raise BundleError(f"The {where} is for the operator set {function.opset!r}, of which it has no block; export it again.")
    block = function.block_specializations[function.opset]
    number = function.opset.removeprefix("CoreML")
    if not number.isdigit():
        raise BundleError(f"The {where} is for the operator set {function.opset!r}; those called CoreML and a number are known.")
    inputs: dict[str, TensorType] = {}
    for each in function.inputs:
        found = type_of(each.type, f"The input {each.name!r} of {where}")
        if found is None:
            raise BundleError(f"The input {each.name!r} of {where} is text; inputs have to be tensors.")
        inputs[each.name] = found
    read = [_step(operation, where) for operation in block.operations]
    made = {output: kind for step in read for output, kind in step.outputs}
    outputs: dict[str, TensorType] = {}
    for output in block.outputs:
        kind = made.get(output) or inputs.get(output)
        if kind is None:
            raise BundleError(f"The {where} gives {output!r}, which nothing in it makes as a tensor; the package is damaged.")
        outputs[output] = kind
    ordered = _freed(_ordered(read, inputs, list(outputs), where), [*outputs, *inputs])
    constants = {step.name: step for step in read if step.constant}
    return Steps(name, int(number), inputs, outputs, ordered, Counter(step.type for step in read), constants)


def _step(operation: Any, where: str) -> Step:
    outputs = [(each.name, type_of(each.type, f"The value {each.name!r} of {where}")) for each in operation.outputs]
    called = outputs[0][0] if outputs else operation.attributes[_NAME].immediateValue.tensor.strings.values[0]
    if operation.type != CONST and operation.type not in OPERATORS:
        raise EngineError(
            f"The operator {operation.type} (value {called!r} in {where}) is not known here, so the package cannot be run on this "
            "machine. Core ML on an Apple device may run it."
        )
    given = {
        name: [Ref(bound.name) if bound.WhichOneof("binding") == "name" else Ref(None, bound.value) for bound in argument.arguments]
        for name, argument in operation.inputs.items()
    }
    given |= {name: [Ref(None, value)] for name, value in operation.attributes.items() if name != _NAME}
    if operation.type == CONST and list(given) != ["val"]:
        raise BundleError(f"The constant {called!r} in {where} has {', '.join(given) or 'no value'}; a constant has val alone.")
    return Step(called, operation.type, where, OPERATORS.get(operation.type), given, outputs)


def _ordered(read: Sequence[Step], inputs: Mapping[str, TensorType], wanted: Sequence[str], where: str) -> list[Step]:
    """Constants go right before what reads them first, and those that nothing reads go away; all else stays in the file's order."""
    constants = {output: step for step in read if step.constant for output, _ in step.outputs}
    placed, known, ordered = set[int](), set(inputs), list[Step]()

    def need(name: str, reader: str) -> None:
        maker = constants.get(name)
        if maker is not None and id(maker) not in placed:
            placed.add(id(maker))
            place(maker)
        if name not in known:
            raise BundleError(f"{reader} reads the value {name!r}, which nothing before it makes; the package is damaged.")

    def place(step: Step) -> None:
        for refs in step.given.values():
            for ref in refs:
                if ref.name is not None:
                    need(ref.name, str(step))
        known.update(output for output, _ in step.outputs)
        ordered.append(step)

    for step in read:
        if not step.constant:
            place(step)
    for name in wanted:
        need(name, f"The end of {where}")
    return ordered


def _freed(steps: Sequence[Step], kept: Sequence[str]) -> list[Step]:
    seen, found = set(kept), list[Step]()
    for step in reversed(steps):
        touched = {ref.name for refs in step.given.values() for ref in refs if ref.name} | {output for output, _ in step.outputs}
        found.append(Step(step.name, step.type, step.where, step.operator, step.given, step.outputs, sorted(touched - seen)))
        seen |= touched
    return found[::-1]
