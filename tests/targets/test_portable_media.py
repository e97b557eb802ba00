"""targets/portable_media.py: each rewrite computes what it replaces but for rounding, and a wrong one is far off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from echoedge.core.vae import CausalConv3d, ChannelNorm, NearestDouble, Stream
from echoedge.targets.portable_media import PortableChannelNorm, PortableConv3d, PortableUpsampling

from ..core.tiny import randomised


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


# ---- autoencoders ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma_dims", [2, 3])
@torch.no_grad()
def test_channel_norm(gamma_dims: int) -> None:
    norm = randomised(ChannelNorm(6, gamma_dims))
    x = torch.randn(2, 3, 6, 4, 5)
    x[0, 0, :, 0, 0] = 0
    ours = PortableChannelNorm(norm)(x)
    assert off(ours, norm(x)) < 5e-6  # measured: 4.8e-7 of 5
    assert not ours[0, 0, :, 0, 0].any()
    assert off(ours / 6**0.5, norm(x)) > 0.1


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
    assert off(ours, theirs) < 5e-5  # measured: equal, values to 5
    if conv.taps > 1:
        assert off(PortableConv3d(conv)(x, None if with_past else torch.randn(2, 2, 3, 4, 6)), theirs) > 0.1


@pytest.mark.parametrize("frames", [3, 4, 5, 6, 9])
@torch.no_grad()
def test_strided_causal_convolution(frames: int) -> None:
    conv = CausalConv3d(4, 4, (3, 1), frame_stride=2)
    nn.init.normal_(conv.weight)
    x = torch.randn(2, frames, 4, 3, 5)
    ours = PortableConv3d(conv)(x)
    assert off(ours, conv(x)) < 5e-5  # measured: equal, values to 10
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
    assert off(torch.cat(results, 1), conv(video)) < 5e-5  # measured: 3.8e-6 of 21


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@torch.no_grad()
def test_upsampling_is_nearest_doubling_and_its_convolution(size: tuple[int, int]) -> None:
    conv = nn.Conv2d(6, 3, 3, padding=1)
    nn.init.normal_(conv.weight)
    x = torch.randn(2, 6, *size)
    theirs = conv(NearestDouble()(x))
    ours = PortableUpsampling(conv)
    assert off(ours(x), theirs) < 5e-5  # measured: 5.7e-6 of 31
    assert off(ours(x).transpose(2, 3), theirs.transpose(2, 3).flip(-1)) > 0.1
    ours.conv.weight.copy_(ours.conv.weight.flip(3))  # parities swapped
    assert off(ours(x), theirs) > 0.1
