"""ExecuTorch as a target: `.pte` files, by way of one of its backends.

A unit whose modules have their weights is lowered whole; a transformer that streams, block by block (`blockwise.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.bundle import Method
from ...core.errors import ConfigError, ExportError
from ...core.plan import check_choice
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ..bars import Compute
from ..base import Built, Fitting, Lowered, Precision, chosen_options, method_records
from .backends import BACKENDS, Backend
from .blockwise import TransformerParts, Way, lower_unit
from .data_files import merge_data
from .half_products import Products, multiplies_bfloat16
from .lower import DATA_SUFFIX, SUFFIX, lower_program, write_programs

LAYOUTS = ("separate", "one")


@dataclass(frozen=True)
class ExecuTorchOptions:
    """`backend`: which of ExecuTorch's; `layout`: a file for each program, or one for all; `way`: how a streaming transformer's
    blocks are compiled (`blockwise`); `products`: the type of products between activations (`half_products`)."""

    backend: str = "xnnpack"
    layout: str = "separate"
    way: Way = "auto"
    products: Products = "fp32"

    def __post_init__(self) -> None:
        check_choice("backend", self.backend, tuple(BACKENDS))
        check_choice("layout", self.layout, LAYOUTS)
        check_choice("way", self.way, ("auto", "stamped", "plain"))
        check_choice("products", self.products, ("fp32", "bf16"))
        if self.products == "bf16" and (self.backend != "xnnpack" or not multiplies_bfloat16()):
            raise ConfigError(
                "products are 'bf16', which is for XNNPACK on processors that multiply bfloat16, as this one would have to for the "
                "proof. Choose fp32."
            )

    @property
    def chosen(self) -> Backend:
        return BACKENDS[self.backend]


class ExecuTorch:
    """See `targets.base.Target`."""

    name, title, extra = "executorch", "ExecuTorch", ""

    def options(self, **given: Any) -> ExecuTorchOptions:
        return chosen_options(ExecuTorchOptions, self.title, given)

    def refuses(self, scheme: str, options: ExecuTorchOptions) -> str | None:
        backend = options.chosen
        if scheme in backend.weights:
            return None
        return f"The backend {backend.title} takes {' and '.join(backend.weights)} weights, not {scheme}."

    def refuses_convolutions(self, options: ExecuTorchOptions) -> str | None:
        return None if options.chosen.executed else f"The backend {options.chosen.title} has convolutions of fp32 alone."

    def backend(self, options: ExecuTorchOptions) -> str:
        return options.backend

    def precision(self, options: ExecuTorchOptions) -> Precision:
        return ("bf16" if options.products == "bf16" else "fp32") if options.chosen.executed else "fp16"

    def compute(self, options: ExecuTorchOptions) -> Compute:
        return self.precision(options)

    def executed(self, options: ExecuTorchOptions) -> bool:
        return options.chosen.executed

    def together(self, options: ExecuTorchOptions) -> bool:
        return options.layout == "one"

    def any_shape(self, role: str) -> bool:
        return False

    def settings(self, options: ExecuTorchOptions) -> Mapping[str, Any]:
        return {}

    def methods(self, unit: Unit) -> dict[str, Method]:
        return method_records(unit.methods)

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: ExecuTorchOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        if unit.blocks is None:
            found = lower_program(unit.role, unit.methods, recipe, options.chosen, outside, options.products, fitting.calls)
            return replace(found, label=label)
        said: list[str] = []
        way = options.way if options.chosen.executed else "plain"
        found = lower_unit(
            TransformerParts(unit, recipe, options.chosen, way, outside, fitting.of_block, said.append, options.products)
        )
        return replace(found, label=label, said=tuple(said))

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: ExecuTorchOptions) -> list[Built]:
        return write_programs(lowered, folder / f"{name}{SUFFIX}", self.together(options))

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        out = folder / f"{name}{DATA_SUFFIX}"
        merge_data(data, out)
        return out

    def check(self, built: Built, options: ExecuTorchOptions) -> int:
        from executorch.exir._serialize import _deserialize_pte_binary

        program = _deserialize_pte_binary(built.path.read_bytes()).program
        found = [delegate.id for plan in program.execution_plan for delegate in plan.delegates]
        if not found or set(found) != {options.chosen.identifier}:
            raise ExportError(
                f"{built.path.name} has delegates of {', '.join(sorted(set(found))) or 'no backend'}, not of "
                f"{options.chosen.identifier} alone."
            )
        return len(found)


TARGET = ExecuTorch()
