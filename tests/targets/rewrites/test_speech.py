"""targets/rewrites/speech.py: wav2vec2 of 2D convolutions hears the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.config import Variant
from echoedge.core.model.pretrained_speech import SpeechEncoder
from echoedge.core.model.programs import EntryPoint, audio_encoder_program
from echoedge.core.sampling.hearing import lengthened, moments, normalised, present
from echoedge.targets.rewrites.portable import make_portable
from echoedge.targets.rewrites.speech import PortableGivenNorm, PortableSequenceConv, stretch_matrix

from ...core.tiny import randomised
from .common import CLIP, SPEECH, relative


@pytest.mark.parametrize(("size", "target"), [(17, 9), (49, 25), (5, 13), (4, 4), (3, 1)])
def test_stretching_is_a_matrix(size: int, target: int) -> None:
    x = torch.randn(2, 6, size)
    theirs = F.interpolate(x, size=target, mode="linear", align_corners=True)
    assert relative(x @ stretch_matrix(size, target).T, theirs) < 1e-5  # measured: 2e-7
    if size != target:
        assert relative(x @ stretch_matrix(size, target).T, F.interpolate(x, size=target, mode="linear")) > 0.05


@pytest.mark.parametrize(("kernel", "stride", "padding", "groups"), [(10, 5, 0, 1), (2, 2, 0, 2), (8, 1, 4, 4)])
@torch.no_grad()
def test_a_convolution_over_a_sequence(kernel: int, stride: int, padding: int, groups: int) -> None:
    conv = randomised(nn.Conv1d(8, 12, kernel, stride, padding, groups=groups, bias=groups != 1))
    x = torch.randn(2, 8, 40)
    ours = PortableSequenceConv(conv)(x[:, :, None])
    assert relative(ours[:, :, 0], conv(x)) < 1e-5  # measured: equal
    assert relative(PortableSequenceConv(conv)(x.flip(2)[:, :, None])[:, :, 0].flip(2), conv(x)) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_over_time_whose_statistics_are_given(bias: bool) -> None:
    conv, norm = randomised(nn.Conv1d(1, 6, 10, 5, bias=bias)), randomised(nn.GroupNorm(6, 6))
    sound = torch.randn(640).cumsum(0)
    expected, given = norm(conv(sound[None, None])), torch.from_numpy(moments(sound.numpy(), 10, 5))
    ours = PortableGivenNorm(conv, norm)(conv(sound[None, None])[:, :, None], given)[:, :, 0]
    assert relative(ours, expected) < 1e-4  # measured: 2e-6
    part = PortableGivenNorm(conv, norm)(conv(sound[None, None, 200:300])[:, :, None], given)[:, :, 0]
    assert relative(part, expected[:, :, 40:59]) < 1e-4
    assert relative(norm(conv(sound[None, None, 200:300])), expected[:, :, 40:59]) > 0.1  # a part normalised by itself


def heard(encoder: SpeechEncoder, variant: Variant, frames: int = 7) -> tuple[EntryPoint, list[Tensor]]:
    """The program, and a reading of which the voice fills `frames` frames."""
    method = audio_encoder_program(encoder, CLIP, variant, context_frames=1)["forward"]
    reach, per_frame = CLIP.frames + 2, 1 if variant == "flash" else 2
    voice = normalised(lengthened(method.inputs["waveform"][0, : frames * 640].numpy() + 0.3, reach * 640), frames * 640)
    statistics = moments(voice[: frames * 640], 10, 5)
    return method, [torch.from_numpy(value) for value in (voice[None], statistics, present(frames, reach, per_frame))]


@pytest.mark.parametrize("variant", ["flash", "preview"])
@torch.no_grad()
def test_speech_becomes_the_same_features(variant: Variant) -> None:
    method, inputs = heard(randomised(SpeechEncoder(SPEECH)), variant)
    (theirs,), ours = method.run(*inputs), make_portable(method.module)
    assert relative(ours(*inputs), theirs) < 1e-5  # measured: 1e-6
    everything = [*inputs[:2], torch.ones_like(inputs[2])]
    assert relative(ours(*everything), theirs) > 1e-3
    ours.positions.conv.weight = nn.Parameter(ours.positions.conv.weight.flip(3))
    assert relative(ours(*inputs), theirs) > 1e-3
