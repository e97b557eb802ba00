"""Dimensions of a graph that do not fit each other, found without running it and told in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NODE = re.compile(r"\(op_type:(\w+), node name: ([^)]*)\): *(?:\[\w+\] *)?(.*)")


def stale_dimension(path: Path) -> str | None:
    """What of a saved graph, whose weights need not be there, contradicts itself; None where nothing does. Sizes that a call
    chooses are nobody's to contradict."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return _of_weights(model) or _of_operators(model)


def _of_weights(model: Any) -> str | None:
    from onnx import helper

    stated = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    for tensor in model.graph.initializer:
        dims, expected = list(tensor.dims), stated.get(tensor.name)
        if expected and expected != dims:
            return f"weights {tensor.name} are {dims}, and the graph was made for {expected}"
        length = {entry.key: entry.value for entry in tensor.external_data}.get("length")
        bytes_of = math.prod(dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if length is not None and int(length) != bytes_of:
            return f"weights {tensor.name} are {dims}, which takes {bytes_of} bytes, and {length} are stored"
    return None


def _of_operators(model: Any) -> str | None:
    import onnx

    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        found = _NODE.search(str(error))
        return f"{found[1]} {found[2]}: {found[3]}" if found else str(error).strip().splitlines()[0]
    return None


def told(path: Path, found: str) -> str:
    return f"{path} has a stale dimension: {found}. Export the bundle again."


def misstated(values: Sequence[Any], specs: Sequence[tuple[str, Sequence[int | str]]]) -> str | None:
    """Which of a session's inputs or outputs, `values`, has another rank or size than the record says; None where none has. A size
    that a call chooses (a name in the record) must be free in the graph."""
    for value, (name, shape) in zip(values, specs, strict=False):
        fits = len(value.shape) == len(shape) and all(
            not isinstance(found, int) if isinstance(size, str) else not isinstance(found, int) or found == size
            for found, size in zip(value.shape, shape, strict=True)
        )
        if not fits:
            listed = ", ".join(str(size) for size in value.shape)
            return f"{name} is [{listed}] in the graph and [{', '.join(map(str, shape))}] in the manifest"
    if len(values) != len(specs):
        return f"the graph has {len(values)} of its inputs or outputs, and the manifest {len(specs)}"
    return None
