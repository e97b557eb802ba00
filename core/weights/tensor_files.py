"""Files of tensors as they are published: names, shapes and types without reading the data, and the data memory-mapped.

safetensors, alone or in shards with an index, and what `torch.save` writes; which of them a file is, its first bytes say, not its
name. A pickle is read by the restricted unpickler of `torch.load(weights_only=True)`, which knows tensors and containers and runs
no code; a file that needs more is refused. A mapping is private: a tensor that is changed in memory leaves the file as it is.
"""

from __future__ import annotations

import json
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import human_bytes
from .wrappings import Words, choose_set, sets_of_tensors

SHORT_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
INDEX_SUFFIX = ".safetensors.index.json"
_SAFETENSORS_TYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BOOL": torch.bool,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "U8": torch.uint8, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes of a safetensors file's header that its library reads
_START = 512  # bytes that tell what a file is
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class TensorInfo:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Elements."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class TensorFile:
    """One file: what it holds, by name, and a way to map it.

    Dictionaries around the tensors are taken off; `notes` say so, a sentence each. `mapped`: the data stays in the file until it is
    touched; a `.pth` from before torch 1.6 has to be read whole.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    bytes: int
    mapped: bool
    _open: Callable[[], Mapping[str, Tensor]]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)  # words beside the tensors, which safetensors files may have

    def open(self) -> Mapping[str, Tensor]:
        """The tensors by name, in a mapping of their own, which lives as long as one of them does.

        Raises:
            CheckpointError: the file has changed or vanished since it was looked at.
        """
        return self._open()


def read_tensor_file(path: str | Path) -> TensorFile:
    """What a file of tensors holds, whatever its name ends in.

    Raises:
        CheckpointError: it is missing, locked, damaged, something else than a file of tensors, or a pickle that would have to run
            code; the message names it, says why and what to do.
    """
    path = Path(path)
    size, start = _beginning(path)
    named, is_pickle = path.suffix == ".safetensors", _is_pickle(start, path)
    file = _read_pickle(path, size, start) if is_pickle else _read_safetensors(path, size, start)
    if named != is_pickle:
        return file
    return replace(file, notes=(f"{path.name} is read as {'a file of torch.save' if is_pickle else 'safetensors'}, which it is.",))


def _is_pickle(start: bytes, path: Path) -> bool:
    """As the first bytes say; where they say nothing, as the name does."""
    return not _is_safetensors(start) and (start.startswith((_ZIP, b"\x80")) or path.suffix != ".safetensors")


def _is_safetensors(start: bytes) -> bool:
    """A header's length below 4 GB in eight bytes, and the header's first letter."""
    return start[4:9] == b"\0\0\0\0{"


def _beginning(path: Path) -> tuple[int, bytes]:
    """Size and first bytes of a file that may be weights.

    Raises:
        CheckpointError: it cannot be read, or is known to be something else.
    """
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path} is a link to {os.readlink(path)}, which is not there. Bring that file back, or copy the weights here."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_START)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read by you ({error.strerror}). Allow it: chmod u+r {path}.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}). Give the file of weights itself.") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty. Download it again.")
    what = _something_else(start)
    if what is not None:
        raise CheckpointError(f"{path} is {what}")
    return size, start


def _something_else(start: bytes) -> str | None:
    """What a file is instead of weights, and what to do, by its first bytes."""
    if _is_safetensors(start):
        return None
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the weights. Fetch them: git lfs pull."
    if text[:1] == b"<":
        return "a saved web page, not the weights. Download the file itself: on its page, the link that says download."
    if start.startswith(b"GGUF"):
        return "a GGUF file, which holds quantised weights. Take the file in bf16, fp16 or fp32; `export` quantises it."
    if not start.strip(b"\0"):
        return "full of zeros where it should begin: a download that did not finish. Download it again."
    try:
        words = start.decode("ascii")
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter in "\r\n\t" for letter in words):
        return None
    return f"text ({words.strip()[:40]!r}), not weights. Download the file itself."


def read_shards(index: str | Path) -> list[TensorFile]:
    """The shards that a `*.safetensors.index.json` names.

    Raises:
        CheckpointError: the index is damaged, or a shard is missing, damaged or lacks a tensor that the index promises.
    """
    index = Path(index)
    try:
        text = index.read_text()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error}). Download it again.") from error
    try:
        places = {str(name): str(shard) for name, shard in json.loads(text)["weight_map"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = _something_else(text[:_START].encode()) if isinstance(error, json.JSONDecodeError) else None
        reason = f"is {what}" if what else f"is no index of shards ({type(error).__name__}: {error}). Download it again."
        raise CheckpointError(f"{index} {reason}") from error
    if not places:
        raise CheckpointError(f"{index} names no shards. Download it again.")
    files = []
    for shard in dict.fromkeys(places.values()):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names the shard {shard!r}, which lies outside its folder.")
        if not (index.parent / shard).is_file() and not (index.parent / shard).is_symlink():
            raise CheckpointError(f"{index} names the shard {shard}, which is not there. Download it too.")
        file = read_tensor_file(index.parent / shard)
        lost = [name for name, place in places.items() if place == shard and name not in file.tensors]
        if lost:
            raise CheckpointError(f"{file.path} lacks {len(lost)} tensors of its index, such as {lost[0]}. Download it again.")
        files.append(file)
    return files


# -- safetensors -----------------------------------------------------------------------------------------------------------------


class _Handle(Mapping[str, Tensor]):
    """The tensors of an open safetensors file; each is made when it is asked for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getitem__(self, name: str) -> Tensor:
        return self._handle.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handle.keys())

    def __len__(self) -> int:
        return len(self._handle.keys())


def _read_safetensors(path: Path, size: int, start: bytes) -> TensorFile:
    _require_all_bytes(path, size, start)
    handle = _safetensors_handle(path)
    infos = {}
    for name in handle.offset_keys():
        part = handle.get_slice(name)
        kind = part.get_dtype()
        if kind not in _SAFETENSORS_TYPES:
            raise CheckpointError(
                f"{path} holds {name} as {kind}; that type of number is not read here. Take the file in bf16, fp16 or fp32."
            )
        infos[name] = TensorInfo(tuple(part.get_shape()), _SAFETENSORS_TYPES[kind])
    if not infos:
        raise CheckpointError(f"{path} holds no tensors. Download it again.")
    return TensorFile(path, infos, size, True, lambda: _Handle(_safetensors_handle(path)), metadata=dict(handle.metadata() or {}))


def _require_all_bytes(path: Path, size: int, start: bytes) -> None:
    """Check a file's size against what its header says; a header that cannot be read is left to the library.

    Raises:
        CheckpointError: the file is cut, or something lies behind its last tensor.
    """
    if size < 8:
        raise CheckpointError(f"{path} is damaged: it has {size} bytes. Download it again.")
    length = struct.unpack("<Q", start[:8])[0]
    if not _is_safetensors(start):
        return
    if 8 + length > size:
        raise CheckpointError(f"{path} is damaged: it ends after {size:,} bytes, within its header. Download it again.")
    if length > _LONGEST_HEADER:
        return
    try:
        with path.open("rb") as file:
            file.seek(8)
            header = json.loads(file.read(length))
        whole = 8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    if size < whole:
        raise CheckpointError(f"{path} is damaged: it ends after {size:,} of {whole:,} bytes. Download it again.")
    if size > whole:
        raise CheckpointError(f"{path} is damaged: {size - whole:,} bytes lie behind its last tensor. Download it again.")


def _safetensors_handle(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}). Download it again.") from error


# -- torch.save ------------------------------------------------------------------------------------------------------------------


def _read_pickle(path: Path, size: int, start: bytes) -> TensorFile:
    whole = zipfile.is_zipfile(path)
    mapped = whole and path.suffix != ".safetensors"
    if start.startswith(_ZIP) and not whole:
        raise CheckpointError(f"{path} is damaged: it was cut; of its bytes only the first {size:,} are there. Download it again.")
    content = _load_pickle(path, mapped)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name. Save the module's state_dict().")
    sets = sets_of_tensors(content)
    if not sets:
        found = ", ".join(str(key) for key, value in list(content.items())[:5] if value != {}) or "nothing"
        raise CheckpointError(f"{path} holds no tensors by name; it holds {found}. Save the module's state_dict().")
    keys = choose_set(sets, path)
    tensors = _plain(path, sets[keys])
    infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    left = [other for other, named in sets.items() if other != keys and any(tensor.dim() for tensor in named.values())]
    notes = [f"The tensors of {path.name} are {_place(keys)}{_left_aside(left)}."] if keys or left else []
    return TensorFile(path, infos, size, mapped, lambda: _tensors_at(path, mapped, keys), tuple(notes))


def _place(keys: Words) -> str:
    return f"those of {'.'.join(keys)!r}" if keys else "those outside all dictionaries"


def _left_aside(sets: list[Words]) -> str:
    return f"; {', '.join(map(_place, sets))} are left aside" if sets else ""


def _tensors_at(path: Path, mapped: bool, keys: Words) -> dict[str, Tensor]:
    sets = sets_of_tensors(_load_pickle(path, mapped))
    if keys not in sets:
        raise CheckpointError(f"{path} has changed since it was looked at. Start again.")
    return _plain(path, sets[keys])


def _load_pickle(path: Path, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".safetensors":  # which torch would believe
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail anywhere in the unpickler
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise CheckpointError(
                f"{path} is a pickle that needs {blocked[1]}; only tensors are read, and nothing in a file is run. "
                "Save its tensors as .safetensors with the program that made it."
            ) from error
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path} is a TorchScript program, not a file of tensors. Take the checkpoint itself.") from error
        raise CheckpointError(
            f"{path} is damaged, incomplete or no file of torch.save ({_first_line(error)}, {human_bytes(path.stat().st_size)}). "
            "Download it again."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Weights only load failed")]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]


def _plain(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"{path} holds {name} as a sparse or quantised tensor; the full-precision file is needed. Take that one."
            )
    return tensors
