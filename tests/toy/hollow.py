"""A target that compiles nothing, for tests that are about what surrounds the compiler; this machine cannot run its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from echoedge.core.bundle import Placement
from echoedge.core.weights.source import Unit
from echoedge.quantize.recipes import WeightRecipe
from echoedge.targets.base import Built, Fitting, Lowered

from .target import Toy, ToyOptions


class Hollow(Toy):
    name, title = "hollow", "a hollow target"

    def refuses(self, scheme: str, options: ToyOptions) -> str | None:
        return None

    def executed(self, options: ToyOptions) -> bool:
        return False

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: ToyOptions, outside: str | None, fitting: Fitting
    ) -> Lowered:
        return Lowered(label, dict.fromkeys(unit.methods), {})

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: ToyOptions) -> list[Built]:
        (unit,) = lowered
        (folder / f"{name}.hollow").write_text(name)
        taken = {method: Placement(delegate_calls=1, delegated_ops=1) for method in unit.programs}
        return [Built(unit.label, "file", folder / f"{name}.hollow", taken)]

    def check(self, built: Built, options: ToyOptions) -> int:
        return 1


TARGET = Hollow()
