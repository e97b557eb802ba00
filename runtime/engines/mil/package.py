"""A saved Core ML package, opened: NAME.mlpackage with its manifest, its program and its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ....core.errors import BundleError, EngineError
from .function import Function, Sizes
from .program import Steps, steps_of
from .protos import generated
from .values import Values

MANIFEST, DATA, WEIGHTS = "Manifest.json", "Data", "weights"


@dataclass(frozen=True)
class Package:
    """`program`: the file that holds it; `specification`: the version of the format, 9 for iOS 18; `functions`: their names;
    `default`: the one that runs where none is named. Made by `open`."""

    path: Path
    program: Path
    specification: int
    functions: Sequence[str]
    default: str
    _model: Any = field(repr=False)

    @staticmethod
    def open(path: Path | str) -> Package:
        """Reads what a package has. Weights are read when a function runs, each when it is needed.

        Raises:
            BundleError: it is no package, incomplete or damaged, or holds no ML Program.
            EngineError: coremltools, whose classes read the format, is not installed.
        """
        root = Path(path)
        program = _program_file(root)
        model = generated("Model_pb2").Model()
        try:
            model.ParseFromString(program.read_bytes())
        except OSError as error:
            raise BundleError(f"The program {program} cannot be read ({error}). Copy the whole package again.") from error
        except Exception as error:  # protobuf's DecodeError, which has no stable place
            raise BundleError(f"The program {program} is damaged ({error}). Copy the whole package again.") from error
        if model.WhichOneof("Type") != "mlProgram":
            form = model.WhichOneof("Type") or "nothing"
            raise BundleError(
                f"The package {root} holds {form}, not an ML Program. Convert with minimum_deployment_target=ct.target.iOS16."
            )
        names = list(model.mlProgram.functions)
        default = model.description.defaultFunctionName or ("main" if "main" in names else names[0] if names else "")
        if default not in names:
            raise BundleError(
                f"The package {root} runs {default!r} by default, and its program has {', '.join(names) or 'no function'}."
            )
        return Package(root, program, model.specificationVersion, tuple(names), default, model)

    @property
    def weight_bytes(self) -> int:
        """Of the files that hold weights, which functions share."""
        folder = self.program.parent / WEIGHTS
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0

    def function(self, name: str | None = None) -> Function:
        """A function by its name; the default one where it is left out.

        Raises:
            EngineError: there is none of that name, or it has an operator that is not known here.
            BundleError: it is damaged.
        """
        steps = self.steps(name)
        return Function(steps, self.values, self._sizes(steps.name))

    def steps(self, name: str | None = None) -> Steps:
        """What a function does, step by step; raises as `function` does."""
        chosen = self.default if name is None else name
        if chosen not in self.functions:
            raise EngineError(f"The package {self.path} has no function {chosen!r}. It has: {', '.join(self.functions)}.")
        return steps_of(chosen, self._model.mlProgram.functions[chosen])

    @cached_property
    def values(self) -> Values:
        """Reads its constants."""
        return Values(self.program.parent)

    def _sizes(self, function: str) -> Mapping[str, Sizes]:
        """What shapes the inputs of a function may have, where they are free."""
        described = self._model.description
        inputs = next((each.input for each in described.functions if each.name == function), described.input)
        return {each.name: _sizes(each.type.multiArrayType) for each in inputs if each.type.WhichOneof("Type") == "multiArrayType"}


def _sizes(array: Any) -> Sizes:
    form = array.WhichOneof("ShapeFlexibility")
    if form == "enumeratedShapes":
        return Sizes(listed=tuple(tuple(each.shape) for each in array.enumeratedShapes.shapes))
    if form == "shapeRange":
        return Sizes(
            ranges=[(each.lowerBound, None if each.upperBound < 0 else each.upperBound) for each in array.shapeRange.sizeRanges]
        )
    return Sizes()


def _program_file(root: Path) -> Path:
    """The file that the manifest calls the package's root."""
    if not (root / MANIFEST).is_file():
        raise BundleError(f"{root} is not a Core ML package: it has no {MANIFEST}. Give the folder NAME.mlpackage.")
    try:
        manifest = json.loads((root / MANIFEST).read_text())
        relative = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        program = (root / DATA / relative).resolve()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"The {MANIFEST} of {root} names no program ({error!r}). Copy the whole package again.") from error
    if not program.is_relative_to(root.resolve()):
        raise BundleError(
            f"The {MANIFEST} of {root} names the program {relative!r}, which is outside it: do not trust this package."
        )
    if not program.is_file():
        raise BundleError(f"The package {root} lacks its program {DATA}/{relative}. Copy the whole package again.")
    return program
