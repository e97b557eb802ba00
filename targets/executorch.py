"""ExecuTorch: a program of the reference to one `.pte` through XNNPACK.

portable rewrite -> weight quantisation -> torch.export -> one XNNPACK delegate -> .pte, then the file itself is run and compared.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..core.bundle import Delegation
from ..core.errors import ExportError
from ..core.programs import Program
from ..quantize.recipes import WeightRecipe
from ..quantize.weights import quantise
from .portable import make_portable

SUFFIX = ".pte"


@dataclass(frozen=True)
class Compiled:
    """A compiled program: its file, what of each method the backend took, and how many layers got which weights."""

    path: Path
    delegation: dict[str, Delegation]
    layers: dict[str, int]


def compile_program(name: str, program: Program, recipe: WeightRecipe, folder: Path) -> Compiled:
    """Compiles `program` to `folder/name.pte`.

    Raises:
        ExportError: the exporter or the backend refuses; the message names the program and the method.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    exported, layers = {}, Counter[str]()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for method_name, method in program.items():
            portable = make_portable(method.module)
            layers.update(quantise(portable, name, recipe, tuple(method.inputs.values())))
            try:
                exported[method_name] = torch.export.export(portable, tuple(method.inputs.values()), strict=False)
            except Exception as error:
                raise ExportError(f"{name}.{method_name} could not be traced: {error}") from error
        try:
            edge = to_edge_transform_and_lower(
                exported,
                partitioner={method_name: [XnnpackPartitioner()] for method_name in exported},
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
            )
            delegation = {method_name: _delegation(edge.exported_program(method_name)) for method_name in exported}
            lowered = edge.to_executorch()
        except Exception as error:
            raise ExportError(f"{name} could not be lowered to XNNPACK: {error}") from error
    path = folder / f"{name}{SUFFIX}"
    with path.open("wb") as file:
        lowered.write_to_file(file)
    return Compiled(path, delegation, dict(layers))


def _delegation(exported: object) -> Delegation:
    """Counts what the backend took in and what stayed outside, by operator."""
    calls, inside, outside = 0, 0, Counter[str]()
    module = exported.graph_module  # type: ignore[attr-defined]
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        target = str(getattr(node.target, "__name__", node.target))
        if "executorch_call_delegate" in target:
            calls += 1
            lowered = getattr(module, node.args[0].target)
            original = lowered.original_module.graph_module
            inside += sum(n.op == "call_function" and "getitem" not in str(n.target) for n in original.graph.nodes)
        elif "getitem" not in target:
            outside[target] += 1
    return Delegation(delegate_calls=calls, delegated_ops=inside, other_ops=dict(outside))
