"""What core/sampling/inputs.py computes on arrays, for tests that hold tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from echoedge.core.sampling import inputs


def byte_ids(prompt: str, text_len: int) -> tuple[Tensor, int]:
    ids, length = inputs.byte_ids(prompt, text_len)
    return torch.from_numpy(ids), length


def pad_text(embeddings: Sequence[Tensor], text_len: int) -> Tensor:
    return torch.from_numpy(inputs.pad_text([embedding.detach().numpy() for embedding in embeddings], text_len))


def collapse_padding(embedding: Tensor, text_len: int, rows: int) -> tuple[Tensor, Tensor]:
    text, bias = inputs.collapse_padding(embedding.detach().numpy(), text_len, rows)
    return torch.from_numpy(text), torch.from_numpy(bias)
