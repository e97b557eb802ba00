"""The weights of a package: a file of blobs, mapped into memory and read where a value is asked for.

A file starts with a header of 64 bytes (how many blobs, and version 2). A blob is told by the offset of its own 64 bytes: a mark,
the number of its type, how many bytes its elements take, and where they lie.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import torch

from ....core.errors import BundleError
from .kinds import Kind, unpacked

HEADER = 64
MARK = 0xDEADBEEF
VERSION = 2


class WeightFile:
    """Raises BundleError: it is missing, cut short, or not a weight file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                # Copied on write: torch takes no memory that it could not change. Nothing here writes.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise BundleError(f"The weight file {path} cannot be read ({error}). Copy the whole package again.") from error
        self.bytes = len(self._map)
        if self.bytes < HEADER:
            raise BundleError(f"The weight file {path} has {self.bytes} bytes, less than its header. Copy the whole package again.")
        _, version = struct.unpack_from("<II", self._map, 0)
        if version != VERSION:
            raise BundleError(f"The weight file {path} is of version {version}; only version {VERSION} is read here.")

    def read(self, offset: int, kind: Kind, count: int, what: str) -> torch.Tensor:
        """`count` elements of the blob at `offset`, flat, without a copy unless they are packed. `what`: the value, for messages.

        Raises:
            BundleError: there is no such blob, it is of another type or size, or it ends after the file.
        """
        where = f"the blob at offset {offset} of {self.path.name}"
        if offset % HEADER or offset < HEADER or offset + HEADER > self.bytes:
            raise BundleError(f"{what} lies in {where}, which is no place of a blob in a file of {self.bytes} bytes.")
        mark, number, size, start = struct.unpack_from("<IIQQ", self._map, offset)
        if mark != MARK:
            raise BundleError(f"{what} lies in {where}, which does not begin with the mark of a blob: the package is damaged.")
        if number != kind.blob:
            raise BundleError(
                f"{what} is {kind.name}, and {where} says that it holds type number {number}: the package is damaged."
            )
        wanted = -(-count * kind.bits // 8)
        if size != wanted:
            raise BundleError(f"{what} needs {wanted} bytes, and {where} says {size}: the package is damaged.")
        if start + size > self.bytes:
            raise BundleError(f"{what} lies in {where}, which ends after the file of {self.bytes} bytes: the file is cut short.")
        if count == 0:
            return torch.empty(0, dtype=kind.held)
        if kind.packed:
            return unpacked(torch.frombuffer(self._map, dtype=torch.uint8, count=size, offset=start), kind, count)
        return torch.frombuffer(self._map, dtype=kind.stored, count=count, offset=start).to(kind.held)
