"""Messages: 16 bytes of lengths, a header in JSON, tensors one behind the other."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EchoEdgeError

Array = NDArray[Any]
MAGIC: Final = b"EEP1"
LENGTHS = struct.Struct("<4sIQ")
MOST_HEADER, MOST_BODY = 1 << 20, (1 << 31) - 1  # bytes; the second is what an array of bytes holds in most languages
DTYPES = ("float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_PIECE = 4 << 20  # bytes that are asked for at once: a length is not believed before they came
_MOST_DIMENSIONS = 16
_MOST_TOLD = 200  # characters of a value that a sentence quotes


class ProtocolError(EchoEdgeError):
    """A message that is none. `fatal`: where the next one begins is not known any more."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class Source(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class Sink(Protocol):
    def write(self, data: Any, /) -> int | None: ...


@dataclass(frozen=True)
class Raw:
    """A message whose bytes are here and not yet understood."""

    header: bytes
    body: bytearray


def receive(source: Source) -> Raw | None:
    """The next message; None at the end of the input.

    Raises:
        ProtocolError, fatal: the bytes are no message, or it ends early.
    """
    start = _exactly(source, LENGTHS.size, "The lengths of a message", may_end=True)
    if not start:
        return None
    magic, header, body = LENGTHS.unpack(start)
    if magic != MAGIC:
        raise ProtocolError(f"A message begins with {bytes(magic)!r}; it has to begin with {MAGIC!r}.", fatal=True)
    for name, size, most in (("header", header, MOST_HEADER), ("body", body, MOST_BODY)):
        if size > most:
            raise ProtocolError(f"A message has a {name} of {size:,} bytes; at most {most:,} are read.", fatal=True)
    return Raw(bytes(_exactly(source, header, "A header")), _exactly(source, body, "A body"))


def _exactly(source: Source, count: int, what: str, may_end: bool = False) -> bytearray:
    data = bytearray()
    while len(data) < count:
        piece = source.read(min(count - len(data), _PIECE))
        if not piece:
            if may_end and not data:
                break
            raise ProtocolError(f"{what} ends after {len(data):,} of {count:,} bytes.", fatal=True)
        data += piece
    return data


def header_of(raw: Raw) -> dict[str, Any]:
    """The header as an object.

    Raises:
        ProtocolError: it is no JSON object of finite numbers.
    """
    try:
        content = json.loads(raw.header.decode(), parse_constant=_never, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The header is no JSON ({_quoted(error)}).") from error
    if not isinstance(content, dict):
        raise ProtocolError(f"The header is {_quoted(content)}; it has to be an object.")
    return content


def tensors_of(header: Mapping[str, Any], body: bytearray) -> dict[str, Array]:
    """The tensors that the header lists, by name; they lie in the body.

    Raises:
        ProtocolError: one is listed wrongly or twice, or they take other bytes than the body has.
    """
    listed = header.get("tensors", [])
    if not isinstance(listed, list):
        raise ProtocolError(f"tensors is {_quoted(listed)}; it has to be a list.")
    found: dict[str, Array] = {}
    place = 0
    for each in listed:
        name, dtype, shape = _listed(each)
        if name in found:
            raise ProtocolError(f"The tensor {_quoted(name)} is there twice.")
        count = math.prod(shape)
        end = place + count * dtype.itemsize
        if end > len(body):
            raise ProtocolError(f"The tensors up to {_quoted(name)} take {end:,} bytes; the body has {len(body):,}.")
        array = np.frombuffer(body, dtype, count, place) if count else np.empty(0, dtype)
        if dtype == np.bool_ and count and int(array.view(np.uint8).max()) > 1:
            raise ProtocolError(f"The tensor {_quoted(name)} is bool and has bytes other than 0 and 1.")
        found[name] = np.require(array, requirements="A").reshape(shape)
        place = end
    if place != len(body):
        raise ProtocolError(f"The tensors take {place:,} bytes; the body has {len(body):,}.")
    return found


def send(sink: Sink, header: Mapping[str, Any], tensors: Mapping[str, Array] | None = None) -> None:
    """Writes a message.

    Raises:
        ProtocolError: a tensor has a type that no message has, or they are larger than a body may be.
        OSError: nobody reads any more.
    """
    arrays = {name: np.asarray(array) for name, array in (tensors or {}).items()}
    listed = []
    for name, array in arrays.items():
        if str(array.dtype) not in DTYPES:
            raise ProtocolError(f"The tensor {name} is {array.dtype}; messages have {', '.join(DTYPES)}.")
        listed.append({"name": name, "dtype": str(array.dtype), "shape": list(array.shape)})
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BODY:
        raise ProtocolError(f"The tensors take {size:,} bytes; a message has at most {MOST_BODY:,}.")
    told = json.dumps({**header, "tensors": listed} if listed else dict(header), allow_nan=False).encode()
    if len(told) > MOST_HEADER:
        raise ProtocolError(f"A header has {len(told):,} bytes; at most {MOST_HEADER:,} are written.")
    _write(sink, LENGTHS.pack(MAGIC, len(told), size) + told)
    for array in arrays.values():
        if array.size:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            _write(sink, np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def _write(sink: Sink, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left.nbytes:
        left = left[sink.write(left) or 0 :]


def _listed(each: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Name, type and shape of an entry of `tensors`."""
    fields = {"name": str, "dtype": str, "shape": list}
    if not isinstance(each, dict) or any(not isinstance(each.get(name), kind) for name, kind in fields.items()):
        raise ProtocolError(f"A tensor is listed as {_quoted(each)}; it needs a name, a dtype and a shape.")
    if each["dtype"] not in DTYPES:
        raise ProtocolError(f"The tensor {_quoted(each['name'])} is {_quoted(each['dtype'])}; messages have {', '.join(DTYPES)}.")
    shape = each["shape"]
    if len(shape) > _MOST_DIMENSIONS or not all(type(size) is int and 0 <= size <= MOST_BODY for size in shape):
        raise ProtocolError(f"The tensor {_quoted(each['name'])} has the shape {_quoted(shape)}; it has to be a list of sizes.")
    return each["name"], np.dtype(each["dtype"]), tuple(shape)


def _never(token: str) -> Any:
    raise ValueError(f"{token} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond all numbers")
    return value


def _quoted(value: Any) -> str:
    told = str(value) if isinstance(value, Exception) else repr(value)
    return told if len(told) <= _MOST_TOLD else told[:_MOST_TOLD] + "…"
