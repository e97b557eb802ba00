"""A transformer whose blocks stay in their file: each is read when it is run, in float32, and freed behind itself.

The full-precision flash transformer is 7.2 GB; streamed, one block of 0.2 GB is in memory at a time beside the embeddings. It
computes what `load_transformer`'s does, slower by the reading: the baseline for programs that are compiled on a small machine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

from torch import nn

from ..config import ModelConfig
from ..model.architecture import TransformerLayout, skeleton
from ..model.transformer import Block, DiT
from .checkpoints import Checkpoint, TensorReader, assigned


class StreamedBlocks(nn.ModuleList):
    """The blocks of a transformer, read in turn. They cannot be held together: take one, run it, let it go.

    `only`: prefixes of the tensors that are read of each; the others have a shape and no data. All are read by default.
    """

    def __init__(self, empty: nn.ModuleList, read: TensorReader, only: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._empty = tuple(cast(Block, block) for block in empty)  # hidden from nn.Module: these have no data
        self._read, self._only = read, only

    def __len__(self) -> int:
        return len(self._empty)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.block(index) for index in range(len(self)))

    def block(self, index: int) -> Block:
        """Block `index` with its weights, float32, a module of its own.

        Raises:
            CheckpointError: the file has changed or vanished since it was opened.
        """
        block = copy.deepcopy(self._empty[index])
        prefix = f"blocks.{index}."
        names = [name for name in block.state_dict() if not self._only or name.startswith(self._only)]
        tensors = {name.removeprefix(prefix): tensor for name, tensor in self._read(f"{prefix}{name}" for name in names).items()}
        if not self._only:
            return assigned(block, tensors)
        block.load_state_dict(tensors, strict=False, assign=True)
        return block.requires_grad_(False).eval()


def stream_transformer(checkpoint: Checkpoint, config: ModelConfig | None = None, only: tuple[str, ...] = ()) -> DiT:
    """The transformer in inference mode and float32, its blocks left in the file. `only`: see `StreamedBlocks`.

    Raises:
        CheckpointError: see `Checkpoint.tensors`.
    """
    layout = TransformerLayout(config or checkpoint.config())
    read = checkpoint.reader("transformer", layout)
    dit = skeleton(DiT, layout.config)
    dit.blocks = StreamedBlocks(dit.blocks, read, only)
    return assigned(dit, read(dit.state_dict()))
