"""Core ML as a target: a folder of packages for a program, in half precision, of one clip's shape.

A unit whose modules have their weights is converted whole; of a transformer that streams the program is converted without weights,
which then come block by block.
"""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.bundle import Method, Placement
from ...core.config import PATCH
from ...core.errors import ConfigError, ExportError
from ...core.model.attention import Attention, rope_tables
from ...core.model.programs import Denoise, EntryPoint
from ...core.model.transformer import DiT
from ...core.plan import check_choice
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ...quantize.schemes import PALETTES
from ...quantize.weights import quantise
from ..bars import Compute
from ..base import Built, Calls, Fitting, Lowered, Precision, chosen_options, method_records
from ..hollow import hollow, named_tensors, without_blocks
from ..idle import release_pages
from ..imagined import flops_of_call, operators_of_call
from ..rewrites.apple import make_apple
from ..rewrites.channels_first import Laid, channels_first
from .convert import Converted, convert, fill, require_operators
from .graph import write_graphs
from .names import LAYOUTS, PACKAGE, UNITS
from .package import functions_of, merge_packages, write_packages
from .storage import Stored, Storing

WHOLE_ATTENTION_SINCE = 18
_TABLES = ("cos", "sin")  # buffers of the step, which are there without its weights
_DRAWN = 1 << 17  # elements: of all that is no matrix
NOT_BEFORE_18 = {"int4": "4-bit integers in blocks"} | dict.fromkeys(PALETTES, "tables for groups of channels")


@dataclass(frozen=True)
class CoreMLOptions:
    """`ios`: the oldest system that is to run the programs, 17 or 18 (macOS 14 or 15); `units`: what Core ML may run them on, which
    is chosen when they are loaded: a player is told; `layout`: which unit the transformer's step is laid out for."""

    ios: int = 18
    units: str = "all"
    layout: str = "gpu"

    def __post_init__(self) -> None:
        if self.ios not in (17, 18):
            raise ConfigError(f"ios is {self.ios!r}. Choose from 17, 18.")
        check_choice("units", self.units, tuple(UNITS))
        check_choice("layout", self.layout, LAYOUTS)


@dataclass(frozen=True)
class _Method:
    """A method in the compiler's hands. `flops`: of one call; `prefix`: of its name, where several shapes share a folder."""

    converted: Converted
    flops: int
    prefix: str = ""


class CoreML:
    """See `targets.base.Target`."""

    name, title, extra = "coreml", "Core ML", "coreml"

    def options(self, **given: Any) -> CoreMLOptions:
        return chosen_options(CoreMLOptions, self.title, given)

    def refuses(self, scheme: str, options: CoreMLOptions) -> str | None:
        if options.ios < 18 and scheme in NOT_BEFORE_18:
            return f"iOS {options.ios} has no {NOT_BEFORE_18[scheme]}: take --ios 18, or int8."
        return None

    def refuses_convolutions(self, options: CoreMLOptions) -> str | None:
        return "Target coreml rounds linear layers alone; convolutions stay in float."

    def backend(self, options: CoreMLOptions) -> str:
        return options.units

    def precision(self, options: CoreMLOptions) -> Precision:
        return "fp16"

    def compute(self, options: CoreMLOptions) -> Compute:
        return "fp16"

    def executed(self, options: CoreMLOptions) -> bool:
        return True

    def together(self, options: CoreMLOptions) -> bool:
        return False

    def any_shape(self, role: str) -> bool:
        return False

    def settings(self, options: CoreMLOptions) -> Mapping[str, Any]:
        return {"ios": options.ios, "units": options.units, "layout": options.layout}

    def methods(self, unit: Unit) -> dict[str, Method]:
        return method_records(unit.methods)

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: CoreMLOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        make = _streamed if unit.blocks is not None else _held
        programs, layers = {}, Counter[str]()
        for name, entry in unit.methods.items():
            made = make(unit, f"{label}.{name}", entry, recipe, options, fitting, layers)
            programs[name] = replace(made, prefix="" if outside is None else f"clip_{unit.made_for}_")
        return Lowered(label, programs, layers)

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: CoreMLOptions) -> list[Built]:
        (unit,) = lowered
        place = folder / name
        place.mkdir()
        prefix = next(iter(unit.programs.values())).prefix
        converted = {prefix + method: made.converted for method, made in unit.programs.items()}
        write_packages(converted, place, unit.label, options.ios)
        write_graphs({method: each.graph for method, each in converted.items()}, place)
        taken = {
            method: Placement(
                delegate_calls=1, delegated_ops=sum(made.converted.operators.values()), delegated_flops=made.flops
            )
            for method, made in unit.programs.items()
        }  # fmt: skip
        return [Built(unit.label, "folder", place, taken, dict(unit.layers), place if prefix else None, prefix)]

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        out = folder / f"merged-{name}" / name
        shutil.rmtree(out.parent, ignore_errors=True)  # what a killed run may have left
        out.mkdir(parents=True)
        merge_packages(data, out)
        return out

    def check(self, built: Built, options: CoreMLOptions) -> int:
        return sum(counts.total() for path in built.path.glob(f"*{PACKAGE}") for counts in functions_of(path).values())


# ---- methods --------------------------------------------------------------------------------------------------------------------


def _demanded(module: nn.Module, inputs: Sequence[Tensor], options: CoreMLOptions) -> dict[str, int]:
    """Operators that have to stay whole."""
    kinds = {
        "layer_norm": lambda part: int(isinstance(part, nn.LayerNorm)),
        "gelu": lambda part: int(isinstance(part, nn.GELU)),
        "einsum": lambda part: int(getattr(part, "products", 0)),
    }
    if options.ios >= WHOLE_ATTENTION_SINCE:
        kinds["scaled_dot_product_attention"] = lambda part: (
            1 if isinstance(part, Attention) else int(getattr(part, "attentions", 0))
        )
    return operators_of_call(module, inputs, kinds)


def _rewritten(module: nn.Module, options: CoreMLOptions, inputs: Sequence[Tensor] | None = None) -> nn.Module:
    return make_apple(module, inputs, whole=options.ios >= WHOLE_ATTENTION_SINCE)


def _laid(module: nn.Module, inputs: Mapping[str, Tensor], options: CoreMLOptions) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """A rewritten module in the layout that is asked for, and the inputs that it takes. Its weights have been rounded before, so
    that they are the same in every layout."""
    laid = channels_first(module, tuple(inputs.values())) if options.layout == "ane" else module
    return laid, laid.given(inputs) if isinstance(laid, Laid) else inputs


def _tensors(module: nn.Module, stored: Mapping[str, Stored], prefix: str = "") -> Iterator[tuple[str, Tensor | Stored]]:
    for name, tensor in named_tensors(module, prefix):
        yield name, stored.get(name, tensor)


def _held(
    unit: Unit, label: str, entry: EntryPoint, recipe: WeightRecipe, options: CoreMLOptions, fitting: Fitting, layers: Counter[str]
) -> _Method:
    inputs = tuple(entry.inputs.values())
    flops, storing = flops_of_call(entry.module, inputs), Storing(options.ios)
    ours = _rewritten(entry.module, options, inputs)
    relieve = partial(release_pages, entry.module)
    layers.update(quantise(ours, unit.role, recipe, inputs, store=storing, samples=fitting.calls, relieve=relieve))
    stored = storing.take(ours)
    ours, given = _laid(ours, entry.inputs, options)
    converted = convert(label, copy.deepcopy(ours).half(), given, entry.outputs, options.ios)
    require_operators(label, converted, _demanded(ours, tuple(given.values()), options))
    fill(label, converted, _tensors(ours, stored))
    relieve()
    return _Method(converted, flops)


def _streamed(
    unit: Unit, label: str, entry: EntryPoint, recipe: WeightRecipe, options: CoreMLOptions, fitting: Fitting, layers: Counter[str]
) -> _Method:
    assert unit.blocks is not None
    inputs, program = tuple(entry.inputs.values()), _with_tables(unit, entry.module)
    empty = hollow(program)
    flops = flops_of_call(empty, inputs)
    shell, given = _laid(_rewritten(empty, options, inputs), entry.inputs, options)
    demanded, shell = _demanded(shell, tuple(given.values()), options), hollow(shell, torch.float16, _DRAWN)
    converted = convert(label, shell, given, entry.outputs, options.ios)
    lost = converted.folded - {name for name, _ in shell.named_buffers()}  # those are there
    if lost:
        raise ExportError(f"{label} was converted with weights that were not there yet: {', '.join(sorted(lost)[:5])}. Report it.")
    require_operators(label, converted, demanded)

    def part(module: nn.Module, prefix: str, samples: Calls) -> Iterator[tuple[str, Tensor | Stored]]:
        """The weights of a part of the module, as the program names them: it is read and rounded before the next one."""
        storing, ours = Storing(options.ios), _rewritten(module, options)
        wanted = {name for name in converted.weights if name.startswith(prefix)}
        _forget_idle(ours, prefix, wanted)
        layers.update(quantise(ours, unit.role, recipe, store=storing, prefix=prefix, samples=samples))
        stored = storing.take(ours, prefix)
        yield from _tensors(_laid(ours, {} if prefix else entry.inputs, options)[0], stored, prefix)

    def weights(dit: DiT) -> Iterator[tuple[str, Tensor | Stored]]:
        outer = copy.copy(program)
        outer._modules = {**outer._modules, "dit": without_blocks(dit)}
        yield from part(outer, "", ())
        for index, block in enumerate(dit.blocks):
            yield from part(block, f"dit.blocks.{index}.", fitting.of_block(index))

    fill(label, converted, weights(unit.blocks))
    return _Method(converted, flops)


def _with_tables(unit: Unit, module: nn.Module) -> nn.Module:
    """A module of a transformer that streams, with the rotary tables that it would have if its weights were there."""
    module = copy.copy(module)
    if isinstance(module, Denoise):
        clip, heads = unit.made_for, unit.config.head_dim
        tables = rope_tables(heads, clip.latent_frames, clip.latent_height // PATCH, clip.latent_width // PATCH)
        module._buffers = {**module._buffers, **dict(zip(_TABLES, tables, strict=True))}
    return module


def _forget_idle(module: nn.Module, prefix: str, wanted: set[str]) -> None:
    """Takes from `module`, in place, the layers of which a program reads nothing."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.Linear) and name and not any(known.startswith(f"{prefix}{name}.") for known in wanted):
            module.set_submodule(name, nn.Identity())


TARGET = CoreML()
