"""Programs as packages on the disk: one for each method, or one whose functions share their weights."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import ExportError
from .convert import Converted, deployment
from .library import library, quiet
from .names import FUNCTIONS, PACKAGE

AUTHOR, LICENCE = "EchoEdge", "As the weights that it was made from"
FUNCTIONS_SINCE = 18  # iOS: several functions in a package


def write_packages(converted: Mapping[str, Converted], folder: Path, title: str, ios: int) -> list[Path]:
    """The methods of a program as packages in `folder`; with iOS 18 and several methods as the functions of one.

    Raises:
        ExportError: the library cannot write them.
    """
    written = {}
    for method, each in converted.items():
        written[method] = folder / f"{method}{PACKAGE}"
        _write(each, written[method], f"{title}: {method}", ios)
    if len(written) == 1 or ios < FUNCTIONS_SINCE:
        return list(written.values())
    together = folder / FUNCTIONS
    _join(written, together)
    for path in written.values():
        shutil.rmtree(path)
    return [together]


def _write(converted: Converted, path: Path, title: str, ios: int) -> None:
    ct = library()
    with quiet():
        try:
            model = ct.convert(
                converted.program, convert_to="mlprogram", pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
                minimum_deployment_target=deployment(ct, ios), compute_precision=ct.precision.FLOAT32,
            )  # fmt: skip
            model.author, model.license, model.short_description = AUTHOR, LICENCE, title
            for name, kind in converted.program.functions["main"].inputs.items():
                model.input_description[name] = _described(kind.shape, kind.dtype)
            for out in converted.program.functions["main"].outputs:
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


def _join(packages: Mapping[str, Path], out: Path) -> None:
    """Packages as functions of one, which hold equal weights once."""
    ct = library()
    described = ct.utils.MultiFunctionDescriptor()
    for method, path in packages.items():
        described.add_function(str(path), "main", method)
    described.default_function_name = next(iter(packages))
    with quiet():
        try:
            ct.utils.save_multifunction(described, str(out))
        except Exception as error:
            raise ExportError(f"{out.name} could not be joined by coremltools: {error}") from error


def operators_of(package: Path) -> Counter[str]:
    """Operators of a written package, by type, constants apart; of all its functions.

    Raises:
        ExportError: it is not there, or no package.
    """
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    try:
        model.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    except Exception as error:  # protobuf's own kind has no stable place
        raise ExportError(f"{package} is no package that Core ML reads ({error}). Export again.") from error
    found: Counter[str] = Counter()
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            found.update(each.type for each in block.operations if each.type != "const")
    return found
