"""A released model's weights from a seed alone, without files: bit for bit what `random_checkpoint` writes of that seed.

Two machines without the released weights so compare the same model. What they have in common is proven by `weights_sha256`, not
hoped for: the generator is NumPy's PCG64DXSM taken as raw integers, and what is done to those is exact in IEEE arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from ..model.architecture import Architecture, ComponentName
from ..model.pretrained import EncoderConfig
from ..plan import check_seed
from .accounts import NEEDED_FOR
from .checkpoints import Weights
from .random_checkpoint import RandomFile, draw, random_files, statistics

_AT_ONCE = 8  # tensors that are read together: a file is opened for each reading


@dataclass(frozen=True)
class SeededWeights:
    """All components but the text encoder and the tokenizer, drawn when they are asked for, in their released types.

    Raises:
        ConfigError: the seed is out of range.
    """

    sizes: Architecture
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def paths(self) -> Mapping[ComponentName, tuple[Path, ...]]:
        return dict.fromkeys(NEEDED_FOR, ())

    def config(self) -> ModelConfig:
        return self.sizes.transformer

    def tensors(
        self,
        name: ComponentName,
        layout: EncoderConfig,
        dtype: Callable[[str], torch.dtype],
        device: str | torch.device = "cpu",
    ) -> dict[str, Tensor]:
        """The tensors of `layout` under their canonical names, each in the type `dtype(name)`.

        Raises:
            CheckpointError: no component of that name is drawn.
        """
        file = self._file(name)
        return {key: self._drawn(file, key).to(device, dtype(key)) for key in layout.tensors()}

    def reader(self, name: ComponentName, layout: EncoderConfig) -> Callable[[Iterable[str]], dict[str, Tensor]]:
        """As `Checkpoint.reader`."""
        file = self._file(name)
        return lambda names: {key: self._drawn(file, key).float() for key in names}

    def _file(self, name: ComponentName) -> RandomFile:
        found = _files(self.sizes).get(name)
        if found is None or name == "text_encoder":
            raise CheckpointError(f"Weights of a seed have no {name}. Give a folder of weights that has it.")
        return found

    def _drawn(self, file: RandomFile, name: str) -> Tensor:
        stored = name if name in file.shapes else f"{file.component}.{name}"
        shape = file.shapes[stored]
        mean, deviation = statistics(file.component, stored, shape, self.sizes)
        pieces = draw(file.stream, stored, torch.Size(shape).numel(), mean, deviation, self.seed)
        return torch.cat([piece.to(file.dtype) for piece in pieces]).view(shape)


@cache
def _files(sizes: Architecture) -> Mapping[ComponentName, RandomFile]:
    return {file.component: file for file in random_files(sizes, None, base=False)}


def weights_sha256(weights: Weights, name: ComponentName, layout: EncoderConfig) -> str:
    """SHA-256 of a component's numbers, hex: whatever file or type holds them, the same numbers have the same one. Of each tensor,
    by name: a line `name [shape]`, then its values as little-endian float32."""
    read, keys = weights.reader(name, layout), sorted(layout.tensors())
    pieces = (read(keys[start : start + _AT_ONCE]) for start in range(0, len(keys), _AT_ONCE))
    return _sha256((key, piece[key]) for piece in pieces for key in sorted(piece))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """As `weights_sha256`, of tensors that are in memory."""
    return _sha256((key, tensors[key].detach().float().cpu()) for key in sorted(tensors))


def _sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()
