"""A module of half precision to a program in Core ML's own language, its weights found again by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import ExportError
from ..lean import lean
from ..rewrites.apple import MOST_DIMENSIONS
from .graph import Graph
from .library import library, quiet, unchecked
from .names import output_names
from .operators import our_operators
from .storage import Stored, constant

_INNER = "inner."
MAIN = "main"  # of a program before it is joined with others
STORED = "_stored"  # behind the name of a weight whose numbers are in
_LEFT_OUT = {
    "common::const_deduplication",  # weights that are not there yet are all alike
    "common::fuse_elementwise_to_batchnorm",  # makes norms of products and sums, whose means are float32
}


class _Flat(nn.Module):
    """A module whose inputs are one list."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: Tensor) -> Any:
        return self.inner(*tensors)


@dataclass(frozen=True)
class Converted:
    """`program`: the library's; `inputs`, `outputs`: their names in it, in order; `weights`: by the name of a parameter or buffer
    of the module, the operator that holds it; `folded`: names of those whose numbers the converter has computed with; `graph`: what
    was converted."""

    program: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    folded: frozenset[str]
    weights: Mapping[str, Any]
    graph: Graph

    @property
    def operators(self) -> Counter[str]:
        return Counter(each.op_type for each in self.program.functions[MAIN].operations if each.op_type != "const")


@lean()
def convert(label: str, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], ios: int) -> Converted:
    """`module`: of half precision throughout; `inputs`: examples by name, floats or whole numbers.

    Raises:
        ExportError: the converter refuses, or leaves something that Apple's runtimes do not take or that is not in half precision.
    """
    ct = library()
    flat = _Flat(module).eval()
    examples = tuple(x.half() if x.is_floating_point() else x for x in inputs.values())
    given = [
        ct.TensorType(name=name, shape=tuple(x.shape), dtype=np.float16 if x.is_floating_point() else np.int32)
        for name, x in inputs.items()
    ]
    named, pipeline = output_names(inputs, outputs), ct.PassPipeline.DEFAULT
    pipeline.remove_passes(_LEFT_OUT)
    with quiet(), torch.no_grad():
        try:
            exported = torch.export.export(flat, examples, strict=False).run_decompositions({})
            with our_operators(), unchecked():
                program = ct.convert(
                    exported, inputs=given, outputs=[ct.TensorType(name=name) for name in named],
                    minimum_deployment_target=deployment(ct, ios), convert_to="milinternal", pass_pipeline=pipeline,
                    compute_precision=ct.precision.FLOAT32,
                )  # fmt: skip
        except Exception as error:
            raise ExportError(f"{label} could not be converted to Core ML: {error}") from error
    held = {
        each.arg.name: each.target.removeprefix(_INNER) for each in exported.graph_signature.input_specs if each.target is not None
    }
    found = {held[each.name]: each for each in program.functions[MAIN].operations if each.op_type == "const" and each.name in held}
    folded = frozenset(held.values()) - frozenset(found)
    graph = Graph.of(exported, named, {node: name for node, name in held.items() if name in folded})
    converted = Converted(program, tuple(inputs), tuple(named), folded, found, graph)
    _require_half(label, converted)
    return converted


def deployment(ct: Any, ios: int) -> Any:
    return getattr(ct.target, f"iOS{ios}")


def _require_half(label: str, converted: Converted) -> None:
    """Refuses what would compute in single precision unasked, and what has too many dimensions."""
    from coremltools.converters.mil.mil import types

    for each in converted.program.functions[MAIN].operations:
        for out in each.outputs:
            if types.is_tensor(out.sym_type) and len(out.shape) > MOST_DIMENSIONS:
                raise ExportError(
                    f"{label} has a tensor of {len(out.shape)} dimensions ({each.op_type} {each.name}); Core ML takes "
                    f"{MOST_DIMENSIONS}. Report it."
                )
            if each.op_type != "const" and out.dtype == types.fp32:
                raise ExportError(f"{label} would compute {each.op_type} {each.name} in float32. Report it.")


def require_operators(label: str, converted: Converted, demanded: Mapping[str, int]) -> None:
    """Raises ExportError: fewer operators stayed whole than `demanded` says."""
    found = converted.operators
    for name, count in demanded.items():
        if found[name] < count:
            raise ExportError(
                f"{label} has {found[name]} {name} where {count} belong: the converter took some apart. Install the release of "
                "coremltools that echoedge[coreml] names."
            )


def fill(label: str, converted: Converted, tensors: Iterable[tuple[str, Tensor | Stored]]) -> None:
    """Puts weights into a program: integers or palettes where they are `Stored`, else numbers of half precision. Those that the
    program does not read are passed over.

    Raises:
        ExportError: a weight of the program was not given, or has another shape.
    """
    function, missing = converted.program.functions[MAIN], dict(converted.weights)
    for name, tensor in tensors:
        holder = missing.pop(name, None)
        if holder is None:
            continue
        old = holder.outputs[0]
        shape = tuple(old.shape)
        if tuple(tensor.shape) != (shape[:2] if isinstance(tensor, Stored) and set(shape[2:]) <= {1} else shape):
            raise ExportError(f"{label} takes {name} of shape {list(old.shape)}, not {list(tensor.shape)}. Report it.")
        converted.graph.reads(holder.name, f"{holder.name}{STORED}", tensor if isinstance(tensor, Tensor) else None)
        with function, _scopes(holder):
            new = constant(tensor, name=f"{holder.name}{STORED}", before=holder, axes=len(shape))
            function.replace_uses_of_var_after_op(anchor_op=holder, old_var=old, new_var=new)
            function.remove_ops([holder])
    if missing:
        raise ExportError(f"{label} takes weights that were not given: {', '.join(sorted(missing)[:5])}. Report it.")


def _scopes(holder: Any) -> Any:
    """New operators are told to come from where the one did that they replace: the library asks for it."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil.scope import ScopeInfo

    return mb.scope(*(ScopeInfo(source=source, data=data) for source, data in holder.scopes.items()))
