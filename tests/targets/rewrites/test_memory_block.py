"""targets/rewrites/memory_block.py: a block's convolution, split in two."""

from __future__ import annotations

import pytest
import torch

from echoedge.core.errors import ConfigError
from echoedge.core.model.tiny_vae import MemoryBlock
from echoedge.core.model.vae import Stream
from echoedge.targets.rewrites.memory_block import PortableMemoryBlock

from ...core.tiny import randomised
from .common import relative


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("with_past", [False, True])
@torch.no_grad()
def test_memory_block(frames: int, with_past: bool) -> None:
    block, x = randomised(MemoryBlock(3)), torch.randn(frames, 3, 4, 5)
    past = [torch.randn(1, 3, 4, 5)] if with_past else None
    streams = [Stream(past), Stream(past)]
    ours, theirs = PortableMemoryBlock(block)(x, 1, streams[0]), block(x, 1, streams[1])
    assert relative(ours, theirs) < 1e-5  # measured: 3e-7
    assert torch.equal(streams[0].kept[0], streams[1].kept[0])
    other = PortableMemoryBlock(block)(x, 1, Stream([torch.ones(1, 3, 4, 5)]))
    assert relative(other, theirs) > 0.01


def test_memory_blocks_of_several_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 clips at once"):
        PortableMemoryBlock(MemoryBlock(3))(torch.zeros(4, 3, 2, 2), 2, Stream())
