"""Files of tensors as they are published: names, shapes and types without reading the data, and the data memory-mapped.

`.safetensors`, alone or in shards with an index, and what `torch.save` writes (`.pth`, `.pt`, `.bin`). A pickle is read by the
restricted unpickler of `torch.load(weights_only=True)`, which knows tensors and containers and runs no code; a file that needs more
is refused. A mapping is private: a tensor that is changed in memory leaves the file as it is.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import human_bytes

SHORT_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
INDEX_SUFFIX = ".safetensors.index.json"
_SAFETENSORS_TYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BOOL": torch.bool,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "U8": torch.uint8, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_WRAPPERS = ("state_dict", "model", "module")  # what training programs nest the tensors under
_PREFIXES = ("module.", "model.", "diffusion_model.")  # what they put before every name
_POINTER = b"version https://git-lfs"


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

    A dictionary around the tensors (`state_dict`, `model`, `module`) is taken off. `mapped`: the data stays in the file until it is
    touched; a `.pth` from before torch 1.6 has to be read whole.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    bytes: int
    mapped: bool
    _open: Callable[[], Mapping[str, Tensor]]

    def open(self) -> Mapping[str, Tensor]:
        """The tensors by name, in a mapping of their own, which lives as long as one of them does.

        Raises:
            CheckpointError: the file has changed or vanished since it was looked at.
        """
        return self._open()


def read_tensor_file(path: str | Path) -> TensorFile:
    """What a `.safetensors`, `.pth`, `.pt` or `.bin` file holds.

    Raises:
        CheckpointError: it is missing, damaged, no file of tensors, or a pickle that would have to run code.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    if start == _POINTER:
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights. Fetch them: git lfs pull.")
    if size == 0:
        raise CheckpointError(f"{path} is empty. Download it again.")
    return _read_safetensors(path, size) if path.suffix == ".safetensors" else _read_pickle(path, size)


def read_shards(index: str | Path) -> list[TensorFile]:
    """The shards that a `*.safetensors.index.json` names.

    Raises:
        CheckpointError: the index is damaged, or a shard is missing, damaged or lacks a tensor that the index promises.
    """
    index = Path(index)
    try:
        places = {str(name): str(shard) for name, shard in json.loads(index.read_text())["weight_map"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({type(error).__name__}: {error}). Download it again.") from error
    files = []
    for shard in dict.fromkeys(places.values()):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names the shard {shard!r}, which lies outside its folder.")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index} names the shard {shard}, which is not there. Download it too.")
        file = read_tensor_file(index.parent / shard)
        lost = [name for name, place in places.items() if place == shard and name not in file.tensors]
        if lost:
            raise CheckpointError(f"{file.path} lacks {len(lost)} tensors of its index, such as {lost[0]}. Download it again.")
        files.append(file)
    return files


def without_prefix(names: Iterable[str]) -> dict[str, str]:
    """Names without a prefix that all of them have (`module.`, `model.`, `diffusion_model.`) -> names as stored, in order."""
    stored = {name: name for name in names}
    while stored and (prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in stored)), None)):
        stored = {name.removeprefix(prefix): own for name, own in stored.items()}
    return stored


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


def _read_safetensors(path: Path, size: int) -> TensorFile:
    handle = _safetensors_handle(path)
    infos = {}
    for name in handle.offset_keys():
        part = handle.get_slice(name)
        kind = part.get_dtype()
        if kind not in _SAFETENSORS_TYPES:
            raise CheckpointError(f"{path} holds {name} as {kind}; that type of number is not read here.")
        infos[name] = TensorInfo(tuple(part.get_shape()), _SAFETENSORS_TYPES[kind])
    if not infos:
        raise CheckpointError(f"{path} holds no tensors.")
    return TensorFile(path, infos, size, True, lambda: _Handle(_safetensors_handle(path)))


def _safetensors_handle(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error}). Download it again.") from error


# -- torch.save ------------------------------------------------------------------------------------------------------------------


def _read_pickle(path: Path, size: int) -> TensorFile:
    mapped = zipfile.is_zipfile(path)
    tensors = _load_pickle(path, mapped)
    infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    return TensorFile(path, infos, size, mapped, lambda: _load_pickle(path, mapped))


def _load_pickle(path: Path, mapped: bool) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
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
    return _tensors_of(path, content)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Weights only load failed")]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name.")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise CheckpointError(f"{path} holds no tensors by name; it holds {found}.")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path} holds {name} as a sparse or quantised tensor; the full-precision file is needed.")
    return tensors
