"""Operators of a written package made wrong, one at a time, in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from echoedge.runtime.engines.mil.protos import generated
from echoedge.runtime.engines.mil.values import Values

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
Read = Callable[[Any], np.ndarray]  # a constant that lies in the weight file
Wrong = Callable[[Any, Any, Read], None]  # of a block and an operator in it
_WRITTEN = {10: np.float16, 11: np.float32, 23: np.int32, 16: np.int16, 22: np.int16, 32: np.uint16, 31: np.uint8, 21: np.int8}


def change(package: Path, kind: str, wrong: Wrong, function: str | None = None, place: int = 0) -> str:
    """Makes the operator of that type wrong which is at `place` among those of its type; gives the name of its first output, or of
    what reads a compressed constant: that shows it."""
    path = package / PROGRAM
    model = generated("Model_pb2").Model()
    model.ParseFromString(path.read_bytes())
    (block,) = model.mlProgram.functions[function or "main"].block_specializations.values()
    target = [op for op in block.operations if op.type == kind][place]
    values = Values(path.parent)
    wrong(block, target, lambda said: values.read(said, kind).numpy())
    path.write_bytes(model.SerializeToString())
    name = target.outputs[0].name
    if kind.startswith("constexpr"):
        reads = (op for op in block.operations if any(a.name == name for each in op.inputs.values() for a in each.arguments))
        name = next(reads).outputs[0].name
    return str(name)


def without(name: str) -> Wrong:
    """An argument dropped."""

    def wrong(_: Any, op: Any, __: Read) -> None:
        del op.inputs[name]

    return wrong


def another(kind: str, *dropped: str) -> Wrong:
    """Another operator in its place; `dropped`: what that one does not take."""

    def wrong(_: Any, op: Any, __: Read) -> None:
        op.type = kind
        for name in dropped:
            del op.inputs[name]

    return wrong


def swapped(one: str, other: str) -> Wrong:
    """Two arguments in each other's place."""

    def wrong(_: Any, op: Any, __: Read) -> None:
        first, second = op.inputs[one].arguments[0].name, op.inputs[other].arguments[0].name
        op.inputs[one].arguments[0].name, op.inputs[other].arguments[0].name = second, first

    return wrong


def turned(name: str) -> Wrong:
    """The values of an argument in the opposite order."""

    def wrong(_: Any, op: Any, __: Read) -> None:
        names = [each.name for each in op.inputs[name].arguments]
        for argument, each in zip(op.inputs[name].arguments, reversed(names), strict=True):
            argument.name = each

    return wrong


def written(**changes: Callable[[np.ndarray], Any] | str) -> Wrong:
    """Constants among the arguments changed, for this operator alone: numbers by a function of what they were, texts to another."""

    def wrong(block: Any, op: Any, read: Read) -> None:
        for name, becomes in changes.items():
            argument = op.inputs[name].arguments[0]
            said = type(argument.value)()
            if argument.WhichOneof("binding") == "name":
                holder = next(each for each in block.operations if each.outputs[0].name == argument.name)
                said.CopyFrom(holder.attributes["val"])
            else:
                said.CopyFrom(argument.value)
            _write(said, becomes, read)
            argument.value.CopyFrom(said)

    return wrong


def _write(said: Any, becomes: Callable[[np.ndarray], Any] | str, read: Read) -> None:
    if said.WhichOneof("value") == "blobFileValue":
        said.immediateValue.tensor.bytes.values = read(said).tobytes()  # in place of the other
    tensor = said.immediateValue.tensor
    form = tensor.WhichOneof("value")
    if isinstance(becomes, str):
        tensor.strings.values[0] = becomes
    elif form == "bytes":
        kind = _WRITTEN[said.type.tensorType.dataType]
        tensor.bytes.values = np.asarray(becomes(np.frombuffer(tensor.bytes.values, kind).copy()), kind).tobytes()
    else:
        values = getattr(tensor, form).values
        values[:] = np.asarray(becomes(np.array(list(values)))).tolist()
