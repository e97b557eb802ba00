"""A module to a graph of opset 23, and a graph to a file whose weights lie outside, written one at a time.

1. trace    the module with free dimensions; what is computed of constants alone is folded, and no weight is looked at
2. write    weights once, to the one data file of a program, in the order in which they come; the graph that names their places
3. check    onnx's own checker on what was written, and that operators stayed whole
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ExportError
from ..lean import lean
from .session import SUFFIX, WEIGHTS
from .stale import stale_dimension, told

OPSET = 23
_INNER = "inner."
_FOLDED_BYTES = 1 << 16  # of a constant that is folded: shapes, no weights
_ALIGNED, _PAGE = 64, 4096  # of small tensors, and of those that are mapped


class _Flat(nn.Module):
    """A module whose inputs are one list; in half precision inside, where that is wanted, and float32 outside."""

    def __init__(self, inner: nn.Module, half: bool) -> None:
        super().__init__()
        self.inner, self.half_inside = inner, half

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.half_inside:
            tensors = tuple(x.half() if x.is_floating_point() else x for x in tensors)
        found = self.inner(*tensors)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(x.float() for x in outputs) if self.half_inside else outputs


# ---- 1. trace -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graph:
    """A traced method: onnx-ir's model; the names of its weights, which are those of the module's parameters and buffers."""

    model: Any
    weights: frozenset[str]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters tell of themselves off the error stream."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@lean()
def trace(
    label: str,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    dims: Sequence[Mapping[int, Any]],
    shapes: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    half: bool = False,
) -> Graph:
    """`inputs`: examples by name; `dims`: of each, its free axes; `shapes`: of inputs and outputs, with names, as the graph is to
    tell them.

    Raises:
        ExportError: the exporter refuses; the message names the method.
    """
    import onnx_ir as ir

    flat = _Flat(module, half).eval()
    with quiet(), torch.no_grad():
        try:
            exported = torch.export.export(
                flat, tuple(inputs.values()), dynamic_shapes=(tuple(dict(d) for d in dims),), strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )  # fmt: skip
            plain_views(exported.graph_module)
            program = torch.onnx.export(
                exported, (), dynamo=True, opset_version=OPSET, optimize=False, verbose=False, input_names=list(inputs),
                output_names=list(outputs),
            )  # fmt: skip
        except Exception as error:
            raise ExportError(f"{label} could not be exported to ONNX: {error}") from error
    assert program is not None
    model = program.model
    named = dict(flat.named_parameters()) | dict(flat.named_buffers())
    for name in list(model.graph.initializers):
        if name in named:
            value = model.graph.initializers.pop(name)
            value.name = name.removeprefix(_INNER)
            model.graph.initializers[value.name] = value
    weights = frozenset(name.removeprefix(_INNER) for name in named)
    _tidy(model, weights)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(list(shapes[str(value.name)]))
    return Graph(model, frozenset(name for name in weights if name in model.graph.initializers))


def plain_views(module: torch.fx.GraphModule) -> None:
    """Says views in the plainest way that there is, in place: as ones that come or go, or with one size left open. Sizes that are
    computed one by one make graphs of thousands of nodes. Checks of sizes go: runtimes make their own."""
    graph, aten = module.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target in (aten._assert_scalar.default, aten.sym_constrain_range_for_size.default):
            graph.erase_node(node)
        elif node.target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
            source, sizes = node.args[0], list(node.meta["val"].shape)
            given = list(source.meta["val"].shape)
            with graph.inserting_before(node):
                if [n for n in given if not _is_one(n)] == [n for n in sizes if not _is_one(n)]:
                    new = source
                    ones = [axis for axis, n in enumerate(given) if _is_one(n)]
                    if ones:
                        new = graph.call_function(aten.squeeze.dims, (new, ones))
                    for axis in (axis for axis, n in enumerate(sizes) if _is_one(n)):
                        new = graph.call_function(aten.unsqueeze.default, (new, axis))
                elif sum(not isinstance(n, int) for n in sizes) == 1:
                    new = graph.call_function(aten.reshape.default, (source, [n if isinstance(n, int) else -1 for n in sizes]))
                else:
                    continue
            new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _tidy(model: Any, weights: frozenset[str]) -> None:
    """Folds what follows from constants, and drops what nothing reads. Weights may have no numbers yet: none is folded."""
    import onnx_ir as ir
    import onnx_ir.passes.common as common
    from onnxscript.optimizer import _constant_folding

    def foldable(node: Any) -> bool | None:
        return False if any(x is not None and x.name in weights for x in node.inputs) else None

    folding = _constant_folding.FoldConstantsPass(
        shape_inference=False, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES, should_fold=foldable
    )
    with quiet():
        for each in (
            common.InlinePass(), folding, common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(),
            common.CommonSubexpressionEliminationPass(), common.IdentityEliminationPass(), common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
        ):  # fmt: skip
            each(model)
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    # Other shapes are stale after rewrites, and runtimes believe them; of these, they take an unknown width for none.
    wide = {id(value) for node in model.graph if node.op_type == "Attention" for value in (*node.inputs[:3], node.outputs[0])}
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            if id(value) not in kept:
                known = value.shape if id(value) in wide else None
                value.shape = known and ir.Shape([size if isinstance(size, int) else None for size in known])
                value.metadata_props.clear()


# ---- 2. write -------------------------------------------------------------------------------------------------------------------


@dataclass
class WeightsFile:
    """The data file of a program's graphs, under way. Equal tensors lie in it once."""

    path: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # SHA-256 -> offset, length
    found: dict[str, dict[str, tuple[tuple[int, int], torch.dtype, tuple[int, ...]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.touch()

    def add(self, method: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        with self.path.open("ab") as file:
            for name, tensor in tensors:
                data = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data
                digest = hashlib.sha256(data).hexdigest()
                if digest not in self.places:
                    file.seek(0, 2)
                    file.write(bytes(-file.tell() % (_PAGE if data.nbytes >= _PAGE else _ALIGNED)))
                    self.places[digest] = (file.tell(), data.nbytes)
                    file.write(data)
                self.found.setdefault(method, {})[name] = (self.places[digest], tensor.dtype, tuple(tensor.shape))


def write(graph: Graph, method: str, weights: WeightsFile) -> Path:
    """The graph beside its weights, which `weights` holds already.

    Raises:
        ExportError: weights are missing, or of another type or shape than the graph has; or the file is not valid.
    """
    import onnx_ir as ir

    found, initializers = weights.found.get(method, {}), graph.model.graph.initializers
    path = weights.path.with_name(f"{method}{SUFFIX}")
    for name in sorted(graph.weights):
        value = initializers[name]
        if name not in found:
            raise ExportError(f"{path} names weights {name}, which were not written. Report it.")
        (offset, length), dtype, shape = found[name]
        kind = ir.DataType.from_numpy(torch.empty(0, dtype=dtype).numpy().dtype)
        expected = tuple(int(size) for size in value.shape or shape)
        if expected != shape or (value.dtype or kind) != kind:
            raise ExportError(
                f"{path} takes {name} as {value.dtype} {list(expected)}; written were {dtype} {list(shape)}. Report it."
            )
        value.const_value = ir.ExternalTensor(
            WEIGHTS, offset, length, kind, name=name, shape=ir.Shape(shape), base_dir=str(path.parent)
        )  # fmt: skip
    ir.save(graph.model, str(path))
    return path


# ---- 3. check -------------------------------------------------------------------------------------------------------------------


def check(path: Path, demanded: Mapping[str, int]) -> Counter[str]:
    """Operators of a written graph, by name. `demanded`: of those that must be there whole, how many at least.

    Raises:
        ExportError: the file is not valid ONNX, a dimension of it is stale, its weights are cut, or an operator fell apart.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
        end, size = weights_end(model), _size(path.with_name(WEIGHTS))
        if end > size:
            raise ExportError(cut_off(path, end, size))
        onnx.checker.check_model(str(path))
        stale = stale_dimension(path)
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ExportError(f"{path} is not valid ONNX: {str(error).splitlines()[0]} Export the bundle again.") from error
    if stale is not None:
        raise ExportError(told(path, stale))
    found: Counter[str] = Counter(node.op_type for node in model.graph.node)
    for name, count in demanded.items():
        if found[name] < count:
            raise ExportError(
                f"{path} has {found[name]} {name} where {count} belong: the exporter took some apart, which runtimes compute "
                "slower. Install the releases of onnx and onnxscript that echoedge[onnx] names."
            )
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def weights_end(model: Any) -> int:
    """How many bytes of its weights' file a graph, as onnx reads it, takes."""
    ends = [0]
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            ends.append(int(entries.get("offset", 0)) + int(entries["length"]))
    return max(ends)


def cut_off(path: Path, end: int, size: int) -> str:
    return f"{path.with_name(WEIGHTS)} is cut off: {path.name} reads {end} bytes of it, and it has {size}. Copy the bundle again."
