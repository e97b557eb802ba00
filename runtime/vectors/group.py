"""Cases of one group: what is given and what comes out, as JSON, with arrays in one file of raw little-endian numbers beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EchoEdgeError
from ...core.plan import noise

FORMAT = "echoedge.vectors/1"
DTYPES = ("uint8", "int16", "int32", "uint32", "int64", "uint64", "float32", "float64")
ALIGNMENT = 8  # bytes that every array begins at a multiple of

Float32 = NDArray[np.float32]


class Group:
    """Cases that are written as NAME.json, their arrays as NAME.bin, and files that are given whole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self._arrays = bytearray()
        self._places: dict[tuple[str, tuple[int, ...], bytes], int] = {}  # equal arrays are there once

    def case(
        self,
        kind: str,
        name: str,
        given: Mapping[str, Any],
        expected: Mapping[str, Any],
        *,
        within: Mapping[str, float] | None = None,
        trap: str | None = None,
        optional: bool = False,
    ) -> None:
        """What comes out of what is given; arrays are those of numpy. `within`: bounds of fields that need not be equal."""
        self._add(kind, name, given, {"expected": self._told(expected), "within": within, "trap": trap, "optional": optional})

    def refused(
        self, kind: str, name: str, given: Mapping[str, Any], call: Callable[[], object], *, must: bool = True, hide: str = ""
    ) -> None:
        """What `call` refuses. `must`: whether every player has to; `hide`: a folder that its sentence does not name."""
        try:
            call()
        except EchoEdgeError as error:
            told = str(error).replace(hide, "") if hide else str(error)
            kind_of = type(error).__name__.removesuffix("Error").lower()
            self._add(kind, name, given, {"error": {"kind": kind_of, "message": told, "must": must}})
        else:
            raise AssertionError(f"{self.name}: {name} is not refused")

    def file(self, name: str, data: bytes) -> dict[str, str]:
        """A file that is given whole."""
        if self.files.setdefault(name, data) != data:
            raise AssertionError(f"{self.name}: two files are called {name}")
        return {"file": name}

    def written(self) -> dict[str, bytes]:
        """Every file of the group."""
        content = {"group": self.name, "cases": self.cases}
        files = {f"{self.name}.json": _json(content), **self.files}
        return files | ({f"{self.name}.bin": bytes(self._arrays)} if self._arrays else {})

    def _add(self, kind: str, name: str, given: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        case: dict[str, Any] = {"name": f"{self.name}/{kind}/{name}", "kind": kind, "given": self._told(given)}
        if case["name"] in (other["name"] for other in self.cases):
            raise AssertionError(f"two cases are called {case['name']}")
        self.cases.append(case | {key: value for key, value in outcome.items() if value or key == "expected"})

    def _told(self, value: Any) -> Any:
        """The value with references in the place of arrays."""
        if isinstance(value, Mapping):
            return {key: self._told(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._told(inner) for inner in value]
        return self._array(value) if isinstance(value, np.ndarray) else value

    def _array(self, array: NDArray[Any]) -> dict[str, Any]:
        dtype = str(array.dtype)
        if dtype not in DTYPES:
            raise AssertionError(f"{self.name}: an array is {dtype}; players read {', '.join(DTYPES)}")
        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        key = (dtype, array.shape, data)
        if key not in self._places:
            self._arrays += bytes(-len(self._arrays) % ALIGNMENT)
            self._places[key] = len(self._arrays)
            self._arrays += data
        return {"dtype": dtype, "shape": list(array.shape), "file": f"{self.name}.bin", "offset": self._places[key]}


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def index(groups: list[Group], files: Mapping[str, bytes], sha256: Callable[[bytes], str]) -> bytes:
    """index.json of these groups and all their files."""
    told = {group.name: {"file": f"{group.name}.json", "cases": len(group.cases)} for group in groups}
    entries = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in sorted(files.items())}
    return _json({"format": FORMAT, "groups": told, "files": entries})


def numbers(seed: int, *shape: int) -> Float32:
    """Standard normal numbers of a shape, of the generator that is itself among the vectors."""
    flat = noise(seed, (1, 1, 1, int(np.prod(shape))))
    return flat.reshape(shape)


def levels(seed: int, *shape: int) -> NDArray[np.uint8]:
    """Pixels of every level, as evenly spread as the generator's bits."""
    from ...core.plan import philox

    count = int(np.prod(shape))
    counter = np.zeros((4, -(-count // 4)), np.uint64)
    counter[0] = np.arange(counter.shape[1])
    return (philox(counter, (seed, 0)).T.reshape(-1)[:count] >> 24).astype(np.uint8).reshape(shape)


def smooth(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture [height, width, 3] that changes slowly, as photographs do: corners of any colour, straight lines between them."""
    corners = levels(seed, 2, 2, 3).astype(np.float64)
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    top, bottom = corners[0, 0] * (1 - across) + corners[0, 1] * across, corners[1, 0] * (1 - across) + corners[1, 1] * across
    return np.rint(top * (1 - down) + bottom * down).astype(np.uint8)


def saved(folder: Path, name: str, data: bytes) -> Path:
    """A file with these bytes, for what reads files."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
