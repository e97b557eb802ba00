"""targets/rewrites/causal_convolution.py: convolutions over time, frames in pairs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.core.model.vae import CausalConv3d, Stream
from echoedge.targets.rewrites.causal_convolution import PortableConv3d

from .common import off


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 4])
@torch.no_grad()
def test_causal_convolution(kernel: tuple[int, int], with_past: bool, frames: int) -> None:
    conv = CausalConv3d(3, 5, kernel)
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.bias)
    x = torch.randn(2, frames, 3, 4, 6)
    past = torch.randn(2, 2, 3, 4, 6) if with_past and conv.taps > 1 else None
    ours, theirs = PortableConv3d(conv)(x, past), conv(x, past)
    assert off(ours, theirs) < 5e-5  # measured: 9.5e-6 of 31
    if conv.taps > 1:
        assert off(PortableConv3d(conv)(x, None if with_past else torch.randn(2, 2, 3, 4, 6)), theirs) > 0.1


@pytest.mark.parametrize("frames", [3, 4, 5, 6, 9])
@torch.no_grad()
def test_strided_causal_convolution(frames: int) -> None:
    conv = CausalConv3d(4, 4, (3, 1), frame_stride=2)
    nn.init.normal_(conv.weight)
    x = torch.randn(2, frames, 4, 3, 5)
    ours = PortableConv3d(conv)(x)
    assert off(ours, conv(x)) < 5e-5  # measured: 9.5e-7 of 13
    conv.weight.copy_(conv.weight.flip(2))
    assert off(ours, conv(x)) > 0.1


@pytest.mark.parametrize("chunks", [[1, 1, 1], [1, 2, 4], [4, 1, 2]])
@torch.no_grad()
def test_causal_convolution_streams(chunks: list[int]) -> None:
    conv = CausalConv3d(3, 5, (3, 3))
    nn.init.normal_(conv.weight)
    rewritten, video = PortableConv3d(conv), torch.randn(1, sum(chunks), 3, 4, 4)
    past, results = None, []
    for chunk in video.split(chunks, 1):
        stream = Stream(past)
        results.append(rewritten.step(chunk, stream))
        past = stream.kept
    assert off(torch.cat(results, 1), conv(video)) < 5e-5  # measured: 7.6e-6 of 31


@pytest.mark.parametrize("frames", [2, 3, 4, 5])
@torch.no_grad()
def test_frames_are_convolved_in_pairs(frames: int) -> None:
    conv = CausalConv3d(3, 5, (3, 3)).double()
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.bias)
    x, past = torch.randn(2, frames, 3, 4, 6).double(), torch.randn(2, 2, 3, 4, 6).double()
    ours = PortableConv3d(conv)
    ran: list[int] = []
    for module in ours.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, args, __: ran.append(len(args[0]) // 2))
    assert off(ours(x, past), conv(x, past)) < 1e-12  # measured: 1.4e-14 of 36
    assert sum(ran) == frames // 2 * 4 + frames % 2 * 3  # pictures convolved; 3 a frame without pairs
    ours.difference.weight.neg_()
    assert off(ours(x, past), conv(x, past)) > 0.1
