"""ExecuTorch: programs of the reference to `.pte` files.

portable rewrite -> weight quantisation -> torch.export -> one delegate per method -> .pte. What was written is believed when it has
been run and compared (`runtime/export/compile.py`, `runtime/verify/parity.py`).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError, ExportError
from ...core.model.programs import EntryPoints
from ...quantize.convolutions import quantise_convolutions
from ...quantize.recipes import WeightRecipe
from ...quantize.weights import executed_layers, linear_layers, quantise
from ..base import Built, Lowered
from ..idle import release_pages
from ..rewrites.portable import GELU, make_portable
from .backends import BACKENDS, Backend
from .convolutions import DynamicConvolution, inputs_turned
from .gate import placement, require_delegated
from .half_products import Products, products_in
from .retraces import quick
from .storage import stored_weight

SUFFIX = ".pte"
DATA_SUFFIX = ".ptd"
XNNPACK = BACKENDS["xnnpack"]


def gelu_for(recipe: WeightRecipe, program: str, module: Any, prefix: str = "", used: Collection[str] | None = None) -> GELU:
    """The form of GELU that goes with the weights of `module`, a program or part of one whose layers are called `prefix` + theirs:
    one operator instead of six where its own quantised weights hide the difference. `used`: of its layers those that run."""
    rules = (recipe.rule_for(program, prefix + name) for name in linear_layers(module) if used is None or name in used)
    return "fast" if any(rule is not None and rule.weights != "fp32" for rule in rules) else "exact"


@quick()
def lower_program(
    name: str,
    program: EntryPoints,
    recipe: WeightRecipe,
    backend: Backend = XNNPACK,
    external: str | None = None,
    products: Products = "fp32",
    samples: Sequence[Sequence[Any]] = (),
) -> Lowered:
    """Lowers `program` as it is, whatever it is. `external`: the data file that is to hold its weights; `products`: the type of
    products between activations (see `half_products`); `samples`: calls of it, for roundings that look at data.

    Raises:
        ExportError: the exporter or the backend refuses; the message names the program and the method.
    """
    import torch
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    exported, layers = {}, Counter[str]()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for method_name, method in program.items():
            inputs = tuple(method.inputs.values())
            try:
                gelu = gelu_for(recipe, name, method.module, used=executed_layers(method.module, inputs))
                portable = make_portable(method.module, inputs=inputs, gelu=gelu)
                relieve = partial(release_pages, method.module)
                layers.update(quantise(portable, name, recipe, inputs, store=stored_weight, samples=samples, relieve=relieve))
                layers.update(quantise_convolutions(portable, name, recipe, inputs, store=DynamicConvolution))
                relieve()
                exported[method_name] = torch.export.export(portable, inputs, strict=False)
            except ConfigError:
                raise
            except Exception as error:
                raise ExportError(f"{name}.{method_name} could not be traced: {error}") from error
        partitioner = backend.partitioner()
        try:
            with products_in(products), inputs_turned():
                edge = to_edge_transform_and_lower(
                    exported,
                    partitioner={method_name: [partitioner] for method_name in exported},
                    compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
                )
        except Exception as error:
            raise ExportError(f"{name} could not be lowered to {backend.title}: {error}") from error
    programs = {method_name: edge.exported_program(method_name) for method_name in exported}
    for found in programs.values():
        _move_weights(found, external)
    return Lowered(name, programs, dict(layers))


def _move_weights(program: Any, external: str | None) -> None:
    """Marks the weights of a program's delegates as lying in the data file `external`."""
    from executorch.exir._serialize._named_data_store import NamedDataStore

    if external is None:
        return
    for child in program.graph_module.children():
        data = getattr(child, "named_data_store_output", None)
        if data is not None:
            store = NamedDataStore()
            for key, entry in data.pte_data.items():
                store.add_named_data(key, data.buffers[entry.buffer_index], entry.alignment, external_tag=external)
            child._named_data_store_output = store.get_named_data_store_output()


@quick()
def write_programs(lowered: Iterable[Lowered], path: Path, together: bool = False) -> list[Built]:
    """Writes one program, or several `together`, to the file `path`, and weights that lie outside to one beside it.

    Raises:
        ExportError: a backend took too little of a program, or the file cannot be made.
    """
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    programs = list(lowered)
    methods = {}
    for program in programs:
        methods.update({_prefix(program.label, together) + method: found for method, found in program.programs.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
        inputs_stay = MemoryPlanningPass(alloc_graph_input=False)  # a player's inputs are read where they lie, not copied in
        try:
            manager = EdgeProgramManager(methods, compile_config=config)
            made = manager.to_executorch(ExecutorchBackendConfig(memory_planning_pass=inputs_stay))
        except Exception as error:
            raise ExportError(f"{path.name} could not be made: {error}") from error
    taken = []
    for program in programs:
        prefix = _prefix(program.label, together)
        taken.append({method: placement(made.exported_program(prefix + method)) for method in program.programs})
        require_delegated(program.label, taken[-1])
    with path.open("wb") as file:
        made.write_to_file(file)
    data = None
    with tempfile.TemporaryDirectory(dir=path.parent) as empty:  # nothing else can be taken for the data file
        made.write_tensor_data_to_file(empty)
        for written in sorted(Path(empty).iterdir()):
            if data is not None:
                raise ExportError(f"{path.name} would have weights in {data.name} and {written.name}; one data file goes with it.")
            data = path.parent / written.name
            os.replace(written, data)
    return [
        Built(p.label, "pte", path, found, p.layers, data, _prefix(p.label, together), p.said)
        for p, found in zip(programs, taken, strict=True)
    ]


def _prefix(name: str, together: bool) -> str:
    return f"{name}." if together else ""


def compile_program(
    name: str, program: EntryPoints, recipe: WeightRecipe, folder: Path, samples: Sequence[Sequence[Any]] = ()
) -> Built:
    """Compiles `program` to `folder/name.pte` with XNNPACK, its weights inside. `samples`: as in `lower_program`.

    Raises:
        ExportError: the exporter or the backend refuses, or takes too little of it; the message names the program.
    """
    return write_programs([lower_program(name, program, recipe, samples=samples)], folder / f"{name}{SUFFIX}")[0]
