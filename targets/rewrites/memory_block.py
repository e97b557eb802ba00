"""The tiny autoencoder's memory block, which does not convolve the zeros before a clip."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ConfigError
from ...core.model.tiny_vae import MemoryBlock
from ...core.model.vae import Stream
from .tensors import conv2d_of


class PortableMemoryBlock(MemoryBlock):
    """The tiny autoencoder's memory block for one clip, its first convolution split into what reads a frame and what reads the one
    before: frames that have none before them are not convolved with zeros. x: [T, C, H, W]."""

    def __init__(self, block: MemoryBlock) -> None:
        nn.Module.__init__(self)
        layers: list[Any] = list(block.conv)
        first, *later = layers
        channels = first.weight.shape[0]
        weight = first.weight.detach()
        self.present = conv2d_of(weight[:, :channels].contiguous(), first.bias, 1)
        self.before = conv2d_of(weight[:, channels:].contiguous(), None, 1)
        self.later = nn.Sequential(*later)

    def forward(self, x: Tensor, batch: int, stream: Stream) -> Tensor:
        if batch != 1:
            raise ConfigError(f"{batch} clips at once; a compiled autoencoder draws one.")
        count, past = x.shape[0], stream.take()
        last = x if count == 1 else x[count - 1 :]
        stream.kept.append(last)
        y = self.present(x)
        if past is not None:
            y = y + self.before(past if count == 1 else torch.cat([past, x[: count - 1]]))
        elif count > 1:
            y = torch.cat([y[:1], y[1:] + self.before(x[: count - 1])])
        return F.relu(self.later(y) + x)
