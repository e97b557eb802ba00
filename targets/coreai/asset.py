"""A module to an `.aimodel` folder.

1. part       what one folder is made of: a module whose inputs and outputs have names
2. convert    traced by torch, converted and written by Apple's packages
3. check      what was written holds its integers in their bits, and is no larger than phones take
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ExportError
from ...core.files import human_bytes
from ...core.model.programs import Denoise
from ..base import Precision
from ..imagined import flops_of_call
from ..lean import lean
from .library import COMPILER, INSTALL, misfit, quiet
from .session import BYTECODE
from .storage import STORED, Holds, held_by

TYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LARGEST_FILE = 2_000_000_000
# Of a file beside its weights: the graph's operators, which took 16 to 60 bytes each, and constants of shapes.
_GRAPH_BYTES, _OPERATOR_BYTES, _MORE = 32_768, 128, 1.05


def require_compiler() -> None:
    """Raises ExportError: a package is missing, or another version than the one that it has to be."""
    wrong = misfit(COMPILER)
    if wrong is not None:
        raise ExportError(f"The target coreai needs {wrong}. {INSTALL}")


# ---- 1. part --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A module, examples of its inputs by name, and the names of its outputs."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]


class Within(nn.Module):
    """A module that computes in a type; its inputs and outputs are float32 all the same."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found = self.inner(*(x.to(self.dtype) if x.is_floating_point() else x for x in tensors))
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(x.float() for x in outputs)


def in_type(module: nn.Module, precision: Precision) -> nn.Module:
    """`module` computing in a type, in place; tables of rotary embedding stay float32."""
    steps = [part for part in module.modules() if isinstance(part, Denoise)]
    tables = [(step, name, getattr(step, name)) for step in steps for name in ("cos", "sin")]
    module = module.to(TYPES[precision])
    for step, name, table in tables:
        setattr(step, name, table)
    return module


# ---- 2. convert -----------------------------------------------------------------------------------------------------------------


@lean()
def convert(label: str, part: Part, precision: Precision, path: Path) -> tuple[int, int]:
    """Writes `part`, whose module computes in `precision` already, to the folder `path`. -> operators of its graph, and FLOPs
    of the products of one call.

    Raises:
        ExportError: the exporter or the converter refuses, or the file holds something else than it should.
    """
    import coreai_torch
    from coreai_torch import TorchConverter

    flat = Within(part.module, TYPES[precision]).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(flat, tuple(part.inputs.values()), strict=False)
            exported = exported.run_decompositions(coreai_torch.get_decomp_table())
            spread_constants(exported.graph_module)
            with quiet():
                converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
                converter.add_exported_program(exported, input_names=list(part.inputs), output_names=list(part.outputs))
                converter.to_coreai().save_asset(path)
        except Exception as error:
            raise ExportError(f"{label} could not be compiled for Core AI: {error}") from error
    return check(path, held_by(part.module)), flops_of_call(flat, tuple(part.inputs.values()))


def spread_constants(module: torch.fx.GraphModule) -> None:
    """Has tensors that are filled with one number be that number, spread over their shape, in place: the converter writes them out
    whole, and takes none of bfloat16."""
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        known = node.meta.get("val")
        if node.target is not aten.full.default or not known.is_floating_point():
            continue
        ones = [1] * known.dim()
        with graph.inserting_before(node), known.fake_mode:
            one = graph.call_function(aten.full.default, (ones, node.args[1]), {"dtype": torch.float32})
            one.meta["val"] = torch.empty(ones)
            typed = graph.call_function(aten._to_copy.default, (one,), {"dtype": known.dtype})
            typed.meta["val"] = torch.empty(ones, dtype=known.dtype)
            wide = graph.call_function(aten.expand.default, (typed, list(known.shape)))
            wide.meta["val"] = known
        node.replace_all_uses_with(wide)
        graph.erase_node(node)
    module.recompile()


# ---- 3. check -------------------------------------------------------------------------------------------------------------------


def summary(path: Path) -> Any:
    """What the library reads off a folder: names, operators, how many numbers of which type it holds."""
    from coreai.authoring.asset import AIModelAsset

    try:
        with quiet():
            return AIModelAsset.load(path).summary(include_statistics=True)
    except Exception as error:  # the library's own kinds have no common one
        raise ExportError(f"{path} cannot be read again: {error}") from error


def check(path: Path, held: Holds) -> int:
    """That a written folder keeps its integers in their bits, and is no larger than it may be. -> operators of its graph.

    Raises:
        ExportError: it is something else; the message says what it takes.
    """
    found, size = summary(path), (path / BYTECODE).stat().st_size
    if size > LARGEST_FILE:
        raise ExportError(
            f"{path / BYTECODE} takes {human_bytes(size)}, and one file may take {human_bytes(LARGEST_FILE)}. Take fewer bits "
            "(--weights int8 or int4, --precision bf16)."
        )
    operators = sum(count for _, count in found.operation_distribution)
    stored = dict(found.storage_types)
    for bits, count in held.codes.items():
        if stored.get(STORED[bits], 0) < count:
            raise ExportError(
                f"{path} holds {stored.get(STORED[bits], 0)} weights of {bits} bits where {count} belong: the converter has "
                f"unpacked some. {INSTALL}, whose versions keep them."
            )
    most = int(_MORE * held.bytes) + _GRAPH_BYTES + _OPERATOR_BYTES * operators
    if held.codes and size > most:
        weights = sum(held.codes.values())
        raise ExportError(
            f"{path} takes {human_bytes(size)} where its weights with their scales warrant {human_bytes(most)}: "
            f"{size / weights:.2f} bytes a weight. {INSTALL}, whose versions keep them packed."
        )
    return operators
