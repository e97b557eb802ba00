"""What a target is: it compiles units of a model to files, and says what it cannot. It runs nothing and puts nothing together.

    refuse     before any work: schemes and options that it does not compute correctly
    lower      a unit in the compiler's hands
    write      files of what was lowered, one for each unit or one for all
    merge      one file of weights for the shapes of a unit, where weights lie outside

A target is found by its name in `runtime/registry.py`, where its engine stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..core.bundle import Kind, Method, Placement, TensorSpec
from ..core.model.programs import EntryPoints
from ..core.plan import check_choice
from ..core.weights.source import Unit
from ..quantize.recipes import WeightRecipe
from .bars import Compute

Precision = Literal["fp32", "bf16", "fp16"]
Options = TypeVar("Options")
Calls = Sequence[Sequence[Any]]  # of a module, each a sequence of arguments


@dataclass(frozen=True)
class Fitting:
    """What roundings that look at data are fitted to: calls of the unit, or, of a transformer that streams, of each block."""

    calls: Calls = ()
    of_block: Callable[[int], Calls] = lambda _: ()


@dataclass(frozen=True)
class Lowered:
    """A unit in the compiler's hands. `programs`: the target's own, by method; `layers`: how many got which weights; `said`: what
    there is to tell of how it got there."""

    label: str
    programs: Mapping[str, Any]
    layers: Mapping[str, int]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """A compiled unit on the disk. `kind`: of its artifact, as the manifest names it; `data`: the file that holds its weights,
    where they lie outside, or, of a folder, what is merged with those of other shapes to one folder for all; methods are named
    `prefix` + their name in it; `placement`: by method, what the backend took; `methods`: their records, once they are known."""

    label: str
    kind: Kind
    path: Path
    placement: Mapping[str, Placement] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    data: Path | None = None
    prefix: str = ""
    said: tuple[str, ...] = ()
    methods: Mapping[str, Method] = field(default_factory=dict)


class Target(Protocol, Generic[Options]):
    """name: in manifests and on the command line; title: for people; extra: of pip, that its compiler comes with, or ""."""

    name: str
    title: str
    extra: str

    def options(self, **given: Any) -> Options:
        """The target's options, checked; what is not given has its default.

        Raises:
            ConfigError: one is unknown, or out of range, or cannot be done on this machine.
        """
        ...

    def refuses(self, scheme: str, options: Options) -> str | None:
        """Why weights of a scheme cannot go to this target, as a sentence; None where they can."""
        ...

    def refuses_convolutions(self, options: Options) -> str | None:
        """Why convolutions cannot be of 8 bits with this target, as a sentence; None where they can."""
        ...

    def backend(self, options: Options) -> str:
        """Which part of the target computes, as the manifest names it."""
        ...

    def precision(self, options: Options) -> Precision:
        """What programs compute in, as the manifest names it."""
        ...

    def compute(self, options: Options) -> Compute:
        """What is demanded of programs follows from this."""
        ...

    def executed(self, options: Options) -> bool:
        """Whether this machine runs what is compiled; else it is looked at with `check`."""
        ...

    def together(self, options: Options) -> bool:
        """Whether all units go into one file."""
        ...

    def any_shape(self, role: str) -> bool:
        """Whether one program of this role serves clips of every shape, though the shape changes what it takes."""
        ...

    def settings(self, options: Options) -> Mapping[str, Any]:
        """What the manifest is to tell, beside the recipe, of how weights are stored and computed with."""
        ...

    def methods(self, unit: Unit) -> dict[str, Method]:
        """The manifest's records of a unit's methods (`method_records`), with names for dimensions that the caller chooses."""
        ...

    def lower(
        self, unit: Unit, label: str, recipe: WeightRecipe, options: Options, outside: str | None, fitting: Fitting
    ) -> Lowered:
        """`label`: what the unit is called in the bundle; `outside`: the name of the data file that is to hold its weights.

        Raises:
            ExportError: the compiler refuses, or takes too little.
        """
        ...

    def write(self, lowered: Sequence[Lowered], folder: Path, name: str, options: Options) -> list[Built]:
        """To a file of that name, without its suffix, in a folder that is there.

        Raises:
            ExportError: the compiler refuses, or took too little.
        """
        ...

    def merge(self, data: Sequence[Path], folder: Path, name: str) -> Path:
        """One data file with everything that `data` hold, each constant once."""
        ...

    def check(self, built: Built, options: Options) -> int:
        """That a file is what it should be, without running it: how many pieces of it are the backend's.

        Raises:
            ExportError: it is something else.
        """
        ...


def chosen_options(kind: type[Options], title: str, given: Mapping[str, Any]) -> Options:
    """A target's options from those `given` by name; `kind` is their dataclass.

    Raises:
        ConfigError: an option is unknown, or `kind` refuses its value.
    """
    for name in given:
        check_choice(f"an option of {title}", name, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    return kind(**given)


def method_records(methods: EntryPoints) -> dict[str, Method]:
    """Inputs and outputs of a unit's methods for the manifest, without running them."""

    def spec(name: str, dtype: Any, shape: Sequence[int]) -> TensorSpec:
        return TensorSpec(name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape))  # type: ignore[arg-type]

    return {
        name: Method(
            inputs=tuple(spec(key, value.dtype, value.shape) for key, value in entry.inputs.items()),
            outputs=tuple(spec(output.name, output.dtype, output.shape) for output in entry.output_specs()),
        )
        for name, entry in methods.items()
    }
