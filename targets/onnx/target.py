"""ONNX as a target: a folder of graphs for a program, one for each method, and the file of their weights.

Every program takes clips of any shape: a bundle is compiled once and plays them all. A unit whose modules have their weights is
exported whole; of a transformer that streams the graph is traced without weights, which then go from the checkpoint to the file
block by block.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.bundle import Method, Placement
from ...core.errors import ExportError
from ...core.model.programs import EntryPoint, PortraitEncoder
from ...core.model.transformer import DiT
from ...core.plan import check_choice
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ...quantize.schemes import PALETTES
from ...quantize.weights import linear_layers, quantise
from ..bars import Compute
from ..base import Built, Calls, Fitting, Lowered, Precision, chosen_options, method_records
from ..hollow import hollow, named_tensors, without_blocks
from ..idle import release_pages
from ..imagined import flops_of_call, operators_of_call
from ..rewrites.whole import make_whole
from .axes import PROBE, Axes, free_dims, method_of
from .dynamic import any_shape
from .graph import Graph, WeightsFile, check, trace, write
from .session import PROVIDERS, WEIGHTS
from .storage import ACCURACY, Inputs, settle, shape_layers, stored_weight


@dataclass(frozen=True)
class OnnxOptions:
    """`device`: what programs are for, cpu or cuda; `precision`: what they compute in, fp32 or fp16, which is for cuda; `inputs`:
    how the inputs of layers with fewer bits are rounded (see `storage`)."""

    device: str = "cpu"
    precision: Precision = "fp32"
    inputs: Inputs = "blocks"

    def __post_init__(self) -> None:
        check_choice("device", self.device, tuple(PROVIDERS))
        check_choice("precision", self.precision, ("fp32", "fp16"))
        check_choice("inputs", self.inputs, tuple(ACCURACY))


@dataclass(frozen=True)
class _Method:
    """A method in the compiler's hands: its graph and its weights, which may come as they are asked for. `flops`: of one call in
    the shape that it was made for."""

    graph: Graph
    weights: Any  # Iterator of (name, tensor), read once
    demanded: Mapping[str, int]
    flops: int


class Onnx:
    """See `targets.base.Target`."""

    name, title, extra = "onnx", "ONNX", "onnx"

    def options(self, **given: Any) -> OnnxOptions:
        return chosen_options(OnnxOptions, self.title, given)

    def refuses(self, scheme: str, options: OnnxOptions) -> str | None:
        if scheme not in PALETTES:
            return None
        return f"ONNX Runtime multiplies with integers, not with palettes such as {scheme}. Choose int8 or int4."

    def refuses_convolutions(self, options: OnnxOptions) -> str | None:
        return "Target onnx rounds linear layers alone; convolutions stay in float."

    def backend(self, options: OnnxOptions) -> str:
        return options.device

    def precision(self, options: OnnxOptions) -> Precision:
        return options.precision

    def settings(self, options: OnnxOptions) -> Mapping[str, Any]:
        return {"inputs": options.inputs, "accuracy_level": ACCURACY[options.inputs]}

    def compute(self, options: OnnxOptions) -> Compute:
        return self.precision(options)

    def executed(self, options: OnnxOptions) -> bool:
        return True

    def together(self, options: OnnxOptions) -> bool:
        return False

    def any_shape(self, role: str) -> bool:
        return True

    def methods(self, unit: Unit) -> dict[str, Method]:
        return {
            name: method_of(unit.role, method, unit.made_for, _axes(unit)) for name, method in method_records(unit.methods).items()
        }

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: OnnxOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        try:
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ExportError(
                f"The target onnx needs packages that are not here ({error}). pip install 'echoedge[onnx]'"
            ) from error
        make = _streamed if unit.blocks is not None else _held
        programs, layers = {}, Counter[str]()
        for name, entry in unit.methods.items():
            programs[name] = make(unit, f"{label}.{name}", entry, recipe, options, fitting, layers)
        return Lowered(label, programs, layers)

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: OnnxOptions) -> list[Built]:
        (unit,) = lowered
        place = folder / name
        place.mkdir()
        weights = WeightsFile(place / WEIGHTS)
        taken = {}
        for method, made in unit.programs.items():
            weights.add(method, made.weights)
            path = write(made.graph, method, weights)
            found = check(path, made.demanded)
            taken[method] = Placement(delegate_calls=1, delegated_ops=sum(found.values()), delegated_flops=made.flops)
        return [Built(unit.label, "folder", place, taken, dict(unit.layers))]

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        raise ExportError(f"{name} has no data files to merge: its graphs serve every shape.")

    def check(self, built: Built, options: OnnxOptions) -> int:
        graphs = sorted(built.path.glob("*.onnx"))
        return sum(sum(check(path, {}).values()) for path in graphs)


def _inputs(unit: Unit, options: OnnxOptions) -> Inputs:
    """How a unit's layers take their inputs. One scale for all rows is for the step, whose rows are alike and where the time goes;
    of a prompt, most rows of which are padding, it left 38 dB where 40 are demanded."""
    return "blocks" if options.inputs == "whole" and unit.role != "denoise" else options.inputs


# ---- methods --------------------------------------------------------------------------------------------------------------------


def _axes(unit: Unit) -> Axes:
    portraits = any(isinstance(entry.module, PortraitEncoder) for entry in unit.methods.values())
    return Axes(unit.config, portraits)


def _traced(unit: Unit, label: str, entry: EntryPoint, module: nn.Module, half: bool) -> Graph:
    """The graph of `module`, a method's as it is exported, traced at the probe's sizes."""
    axes, role = _axes(unit), unit.role
    shapes = {name: axes.named(role, name, x.shape, unit.made_for) for name, x in entry.inputs.items()}
    given = {spec.name: axes.named(role, spec.name, spec.shape, unit.made_for) for spec in entry.output_specs()}
    outputs = {f"new_{name}" if name in shapes else name: shape for name, shape in given.items()}  # a graph has each name once
    examples = {
        name: torch.zeros([axes.size(n, PROBE) for n in shape], dtype=entry.inputs[name].dtype) for name, shape in shapes.items()
    }
    free = free_dims()
    dims = [
        {axis: axes.dim(n, free) for axis, n in enumerate(shape) if isinstance(n, str)} for shape in shapes.values()
    ]  # fmt: skip
    return trace(label, module, examples, dims, shapes | outputs, list(outputs), half)


_WHOLE = {
    "LayerNormalization": lambda part: isinstance(part, nn.LayerNorm),
    "RMSNormalization": lambda part: isinstance(part, nn.RMSNorm),
    "Gelu": lambda part: isinstance(part, nn.GELU),
    "Attention": lambda part: getattr(part, "attentions", 0),
}  # operators that have to be whole in a graph, by how many of them a module is


def _held(
    unit: Unit, label: str, entry: EntryPoint, recipe: WeightRecipe, options: OnnxOptions, fitting: Fitting, layers: Counter[str]
) -> _Method:
    inputs = tuple(entry.inputs.values())
    flops = flops_of_call(any_shape(entry.module), inputs)
    whole = make_whole(any_shape(entry.module), inputs=inputs)
    relieve = partial(release_pages, entry.module)
    layers.update(quantise(whole, unit.role, recipe, inputs, store=stored_weight, samples=fitting.calls, relieve=relieve))
    demanded, half = operators_of_call(whole, inputs, _WHOLE), options.precision == "fp16"
    whole = settle(whole, _inputs(unit, options))
    whole = whole.half() if half else whole
    relieve()
    return _Method(_traced(unit, label, entry, whole, half), named_tensors(whole), demanded, flops)


def _streamed(
    unit: Unit, label: str, entry: EntryPoint, recipe: WeightRecipe, options: OnnxOptions, fitting: Fitting, layers: Counter[str]
) -> _Method:
    assert unit.blocks is not None
    half = options.precision == "fp16"
    inputs = tuple(entry.inputs.values())
    shell = any_shape(hollow(entry.module))
    flops = flops_of_call(shell, inputs)
    shell = make_whole(shell, inputs=inputs)
    shape_layers(shell, unit.role, recipe)
    demanded = operators_of_call(shell, inputs, _WHOLE)
    shell = settle(shell, _inputs(unit, options))
    shell = shell.half() if half else shell
    graph = _traced(unit, label, entry, shell, half)

    def settled(part: nn.Module, prefix: str, samples: Calls) -> Iterator[tuple[str, Tensor]]:
        """The weights of a part of the module, as the graph names them: it is read, rounded and written before the next one."""
        whole = make_whole(part)
        for name in linear_layers(whole):
            if not any(known.startswith(f"{prefix}{name}.") for known in graph.weights):
                whole.set_submodule(name, nn.Identity())  # nothing reads it
        layers.update(quantise(whole, unit.role, recipe, store=stored_weight, prefix=prefix, samples=samples))
        whole = settle(whole, _inputs(unit, options))
        for name, tensor in named_tensors(whole, prefix):
            if name in graph.weights:
                yield name, tensor.half() if half and tensor.is_floating_point() and not name.startswith("rope.") else tensor

    def weights(dit: DiT) -> Iterator[tuple[str, Tensor]]:
        outer = copy.copy(entry.module)
        outer._modules = {**outer._modules, "dit": without_blocks(dit)}
        yield from settled(any_shape(outer), "", ())
        for index, block in enumerate(dit.blocks):
            yield from settled(block, f"dit.blocks.{index}.", fitting.of_block(index))

    return _Method(graph, weights(unit.blocks), demanded, flops)


TARGET = Onnx()
