"""A second target: it stores each method as torch.export writes it, a folder of .pt2 files for a program, full precision alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from echoedge.core.bundle import Method, Placement
from echoedge.core.errors import ConfigError, ExportError
from echoedge.core.weights.source import Unit
from echoedge.quantize.recipes import WeightRecipe
from echoedge.targets.bars import Compute
from echoedge.targets.base import Built, Fitting, Lowered, Precision, method_records


@dataclass(frozen=True)
class ToyOptions:
    """There is nothing to choose."""


class Toy:
    """See `targets.base.Target`."""

    name, title, extra = "toy", "torch.export", ""

    def options(self, **given: Any) -> ToyOptions:
        if given:
            raise ConfigError(f"The toy target has no option {next(iter(given))!r}.")
        return ToyOptions()

    def refuses(self, scheme: str, options: ToyOptions) -> str | None:
        return None if scheme == "fp32" else f"The toy target takes fp32 weights, not {scheme}."

    def refuses_convolutions(self, options: ToyOptions) -> str | None:
        return "The toy target has convolutions of fp32 alone."

    def backend(self, options: ToyOptions) -> str:
        return ""

    def precision(self, options: ToyOptions) -> Precision:
        return "fp32"

    def compute(self, options: ToyOptions) -> Compute:
        return self.precision(options)

    def executed(self, options: ToyOptions) -> bool:
        return True

    def together(self, options: ToyOptions) -> bool:
        return False

    def any_shape(self, role: str) -> bool:
        return False

    def settings(self, options: ToyOptions) -> Mapping[str, Any]:
        return {}

    def methods(self, unit: Unit) -> dict[str, Method]:
        return method_records(unit.methods)

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: ToyOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        with torch.no_grad():
            programs = {
                name: torch.export.export(entry.module, tuple(entry.inputs.values()), strict=False)
                for name, entry in unit.methods.items()
            }
        return Lowered(label, programs, {})

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: ToyOptions) -> list[Built]:
        (unit,) = lowered
        (folder / name).mkdir()
        for method, program in unit.programs.items():
            torch.export.save(program, folder / name / f"{method}.pt2")
        taken = {method: Placement(delegate_calls=0, delegated_ops=0) for method in unit.programs}
        return [Built(unit.label, "folder", folder / name, taken)]

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        raise ExportError(f"{name} has no data files: the toy target's weights lie inside.")

    def check(self, built: Built, options: ToyOptions) -> int:
        return len(list(built.path.glob("*.pt2")))


TARGET = Toy()
