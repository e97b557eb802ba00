"""Programs as packages on the disk: one for each method, or one whose functions share their weights."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import ExportError
from .convert import MAIN, Converted, deployment
from .library import library, quiet, unchecked
from .names import FUNCTIONS, PACKAGE

AUTHOR, LICENCE = "EchoEdge", "As the weights that it was made from"
FUNCTIONS_SINCE, FUNCTIONS_FORMAT = 18, 9  # iOS, and its version of the format: several functions in a package


def write_packages(converted: Mapping[str, Converted], folder: Path, title: str, ios: int) -> None:
    """The methods of a program as packages in `folder`; with iOS 18 and several methods as the functions of one.

    Raises:
        ExportError: the library cannot write them.
    """
    written = {}
    for method, each in converted.items():
        written[method] = folder / f"{method}{PACKAGE}"
        _write(each, written[method], f"{title}: {method}", ios)
    if len(written) > 1 and ios >= FUNCTIONS_SINCE:
        _join({method: (path, MAIN) for method, path in written.items()}, folder / FUNCTIONS)
        for path in written.values():
            shutil.rmtree(path)


def merge_packages(folders: Sequence[Path], out: Path) -> None:
    """The packages of several folders, of a program's shapes, in the folder `out`: where their iOS has it as functions of one,
    which hold equal weights once.

    Raises:
        ExportError: the library cannot join them.
    """
    parts: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*{PACKAGE}")):
            names = functions_of(path)
            parts |= {name: (path, name) for name in names} if path.name == FUNCTIONS else {path.stem: (path, MAIN)}
    if all(_specification(path) >= FUNCTIONS_FORMAT for path, _ in parts.values()):
        _join(parts, out / FUNCTIONS)
        return
    for name, (path, _) in parts.items():
        shutil.copytree(path, out / f"{name}{PACKAGE}")


def _write(converted: Converted, path: Path, title: str, ios: int) -> None:
    ct = library()
    with quiet(), unchecked():
        try:
            model = ct.convert(
                converted.program, convert_to="mlprogram", pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
                minimum_deployment_target=deployment(ct, ios), compute_precision=ct.precision.FLOAT32,
            )  # fmt: skip
            model.author, model.license, model.short_description = AUTHOR, LICENCE, title
            for name, kind in converted.program.functions[MAIN].inputs.items():
                model.input_description[name] = _described(kind.shape, kind.dtype)
            for out in converted.program.functions[MAIN].outputs:
                model.output_description[out.name] = _described(out.shape, out.dtype)
            _require_order(model.get_spec().description, converted)
            model.save(str(path))
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"{path.name} could not be written by coremltools: {error}") from error


def _require_order(written: Any, converted: Converted) -> None:
    """Raises ExportError: the package has its inputs or outputs in another order than the method."""
    pairs = ((written.input, converted.inputs), (written.output, converted.outputs))
    for told, wanted in (([each.name for each in found], expected) for found, expected in pairs):
        if told != list(wanted):
            raise ExportError(f"coremltools wrote {', '.join(told)} where {', '.join(wanted)} belong. Report it.")


def _described(shape: Any, dtype: Any) -> str:
    from coremltools.converters.mil.mil import types

    return f"{types.builtin_to_string(dtype)} [{', '.join(str(size) for size in shape)}]"


def _join(parts: Mapping[str, tuple[Path, str]], out: Path) -> None:
    """Functions of packages, by their new names, as functions of one package, which hold equal weights once."""
    ct = library()
    described = ct.utils.MultiFunctionDescriptor()
    for name, (path, function) in parts.items():
        described.add_function(str(path), function, name)
    described.default_function_name = next(iter(parts))
    with quiet(), unchecked():
        try:
            ct.utils.save_multifunction(described, str(out))
        except Exception as error:
            raise ExportError(f"{out.name} could not be joined by coremltools: {error}") from error


def _model(package: Path) -> Any:
    model = library().proto.Model_pb2.Model()
    try:
        model.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    except Exception as error:  # protobuf's own kind has no stable place
        raise ExportError(f"{package} is no package that Core ML reads ({error}). Export again.") from error
    return model


def _specification(package: Path) -> int:
    return int(_model(package).specificationVersion)


def functions_of(package: Path) -> Mapping[str, Counter[str]]:
    """Operators of a written package by function, by type, constants apart.

    Raises:
        ExportError: it is not there, or no package.
    """
    found: dict[str, Counter[str]] = {}
    for name, function in _model(package).mlProgram.functions.items():
        blocks = function.block_specializations.values()
        found[name] = Counter(each.type for block in blocks for each in block.operations if each.type != "const")
    return found
