"""A function as rules look at it: its steps, the type of every value, and the constants that are small enough to matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..kinds import TensorType
from ..package import Package
from ..program import CONST, Ref, Step, Steps

IOS_OF_OPSET = 10  # the operator set CoreML8 is iOS 18's
IOS_OF_SPECIFICATION = 9  # so is version 9 of the file format


@dataclass(frozen=True)
class Value:
    """One that is no constant. `step`: what makes it, None for an input."""

    name: str
    kind: TensorType
    step: Step | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that are free count as 1; of a free rank there are none."""
        return tuple(1 if size is None else size for size in self.kind.shape or ())

    @property
    def bytes(self) -> int:
        return math.prod(self.sizes) * self.kind.kind.bits // 8


@dataclass(frozen=True)
class View:
    """A function of a package; `ios`: the version that it is to run on."""

    package: Package
    steps: Steps
    ios: int
    types: dict[str, TensorType] = field(default_factory=dict)
    makers: dict[str, Step] = field(default_factory=dict)

    @staticmethod
    def of(package: Package, function: str | None, ios: int | None) -> View:
        view = View(package, package.steps(function), package.specification + IOS_OF_SPECIFICATION if ios is None else ios)
        view.types.update(view.steps.inputs)
        for step in view.steps.steps:
            view.makers.update((name, step) for name, _ in step.outputs)
            view.types.update((name, kind) for name, kind in step.outputs if kind is not None)
        return view

    def computed(self) -> Iterator[Step]:
        """Steps that are no constants."""
        return (step for step in self.steps.steps if not step.constant)

    def values(self) -> Iterator[Value]:
        """Inputs, but no states, and results."""
        for name, kind in self.steps.inputs.items():
            if not kind.state:
                yield Value(name, kind, None)
        for step in self.computed():
            yield from self.made_by(step)

    def made_by(self, step: Step) -> Iterator[Value]:
        for name, kind in step.outputs:
            if kind is not None:
                yield Value(name, kind, step)

    def type_of(self, step: Step, parameter: str) -> TensorType | None:
        """Of an argument that is a value by name; None where it is left out or written in place."""
        refs = step.given.get(parameter, ())
        return self.types.get(refs[0].name) if len(refs) == 1 and refs[0].name is not None else None

    def shape_of(self, step: Step, parameter: str) -> tuple[int, ...]:
        """Its sizes; () where it is not known."""
        kind = self.type_of(step, parameter)
        return () if kind is None else Value(parameter, kind, None).sizes

    def constant(self, ref: Ref) -> Tensor | str | None:
        """What a constant is, as the file has it; None for what is computed or decoded."""
        if ref.name is None:
            return self.package.values.read(ref.value, "An argument")
        maker = self.makers.get(ref.name)
        if maker is None or maker.type != CONST:
            return None
        return self.package.values.read(maker.given["val"][0].value, f"The constant {ref.name!r}")

    def given(self, step: Step, parameter: str, default: Any = None) -> Any:
        """An argument that is a constant, in Python; `default` where it is left out or computed."""
        refs = step.given.get(parameter, ())
        found = self.constant(refs[0]) if len(refs) == 1 else None
        return default if found is None else found.tolist() if isinstance(found, Tensor) else found
