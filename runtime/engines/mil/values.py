"""Constants of a program: written in it, or in the package's weight file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ....core.errors import BundleError
from .kinds import TensorType, type_of, unpacked
from .weights import WeightFile

_PLACE = "@model_path/"  # what file names of a package start with: the folder that the program lies in
_WRITTEN = {"floats": torch.float32, "ints": torch.int32, "bools": torch.bool, "longInts": torch.int64, "doubles": torch.float64}


class Values:
    """Reads constants. `folder`: what the program lies in. Weight files are opened when the first value is asked of them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, dict[str, WeightFile]()

    def read(self, said: Any, what: str) -> torch.Tensor | str:
        """The value in a Value message. `what`: its name, for messages.

        Raises:
            BundleError: it is of a form that is not read here, or its weight file is missing or damaged.
        """
        kind = type_of(said.type, what)
        if kind is None:
            return self._text(said, what)
        if kind.shape is None or None in kind.shape:
            raise BundleError(f"{what} is a constant of {kind}: the sizes of a constant have to be known.")
        shape = [size for size in kind.shape if size is not None]
        count = math.prod(shape)
        if said.WhichOneof("value") == "blobFileValue":
            blob = said.blobFileValue
            return self._file(blob.fileName, what).read(blob.offset, kind.kind, count, what).reshape(shape)
        return _written(said, kind, count, what).reshape(shape)

    def _text(self, said: Any, what: str) -> str:
        written = said.immediateValue.tensor.strings.values
        if len(written) != 1:
            raise BundleError(f"{what} holds {len(written)} texts; one is read here.")
        return str(written[0])

    def _file(self, name: str, what: str) -> WeightFile:
        if name not in self._files:
            try:
                path = (self._folder / name.removeprefix(_PLACE)).resolve()
            except (OSError, ValueError) as error:
                raise BundleError(f"{what} lies in the file {name!r}, which is no name of a file ({error}).") from error
            if not path.is_relative_to(self._folder.resolve()):
                raise BundleError(f"{what} lies in the file {name!r}, which is outside the package: do not trust this package.")
            if not path.is_file():
                raise BundleError(
                    f"{what} lies in the file {name!r}, which the package does not have. Copy the whole package again."
                )
            self._files[name] = WeightFile(path)
        return self._files[name]


def _written(said: Any, kind: TensorType, count: int, what: str) -> torch.Tensor:
    tensor = said.immediateValue.tensor
    form = tensor.WhichOneof("value")
    if form == "bytes":
        data = bytearray(tensor.bytes.values)
        if len(data) != -(-count * kind.kind.bits // 8):
            raise BundleError(f"{what} is {kind}, and is written in {len(data)} bytes: the package is damaged.")
        if not data:
            return torch.empty(0, dtype=kind.kind.held)
        if kind.kind.packed:
            return unpacked(torch.frombuffer(data, dtype=torch.uint8), kind.kind, count)
        return torch.frombuffer(data, dtype=kind.kind.stored).to(kind.kind.held)
    if form not in _WRITTEN:
        raise BundleError(f"{what} is written as {form or 'nothing'}, which is not one of {', '.join(_WRITTEN)}, bytes.")
    found = torch.tensor(list(getattr(tensor, form).values), dtype=_WRITTEN[form])
    if found.numel() != count:
        raise BundleError(f"{what} is {kind}, and {found.numel()} values are written: the package is damaged.")
    return found.to(kind.kind.held)
