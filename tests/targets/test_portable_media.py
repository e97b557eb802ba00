"""targets/rewrites/portable_media.py: each rewrite computes what it replaces but for rounding, and a wrong one is far off."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from executorch.runtime import Runtime
from torch import Tensor, nn

from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import ConfigError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.pretrained_image import PictureEncoder, PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoder, SpeechEncoderConfig
from echoedge.core.model.programs import EntryPoint, audio_encoder_program, image_encoder_program, vae_decode_program
from echoedge.core.model.tiny_vae import Grow, MemoryBlock, TinyVAE, TinyVAEConfig
from echoedge.core.model.vae import CausalConv3d, ChannelNorm, NearestDouble, Stream
from echoedge.core.sampling.hearing import lengthened, moments, normalised, present
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.rewrites.portable import make_portable
from echoedge.targets.rewrites.portable_media import (
    PortableChannelNorm,
    PortableConv3d,
    PortableGivenNorm,
    PortableGrow,
    PortableHeads,
    PortableMemoryBlock,
    PortableSequenceConv,
    PortableUpsampling,
    resize_matrix,
    stretch_matrix,
)

from ..core.tiny import randomised

CLIP = ClipSpec(height=32, width=48, frames=9)
SPEECH = SpeechEncoderConfig(
    dim=24, layers=2, heads=3, ffn_dim=32, conv_dims=(8,) * 7, position_kernel=8, position_groups=4
)  # fmt: skip
PICTURE = PictureEncoderConfig(image_size=28, dim=24, heads=3, layers=3, mlp_dim=32)
TINY = TinyVAEConfig(encoder_width=4, decoder_widths=(10, 8, 6, 4), blocks=1)


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def relative(ours: Tensor, theirs: Tensor) -> float:
    return off(ours, theirs) / float(theirs.abs().max())


# ---- transformers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CLIP", "wav2vec2"])
@torch.no_grad()
def test_attention_of_the_librarys_layers(kind: str) -> None:
    attention, results = {
        "CLIP": lambda: (PictureEncoder(PICTURE).blocks[0].self_attn, 2),
        "wav2vec2": lambda: (SpeechEncoder(SPEECH).encoder.layers[0].attention, 3),
    }[kind]()
    randomised(attention)
    x = torch.randn(2, 7, 24)
    masks = {"attention_mask": None} | ({"causal_attention_mask": None} if kind == "CLIP" else {})
    theirs = attention(hidden_states=x, **masks)
    ours = PortableHeads(copy.deepcopy(attention), results)
    found = ours(hidden_states=x, **masks)
    assert len(found) == len(theirs) == results
    assert relative(found[0], theirs[0]) < 1e-5  # measured: 1.7e-7
    ours.heads = 1
    assert relative(ours(hidden_states=x)[0], theirs[0]) > 1e-3


# ---- portraits -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "target"), [(32, 48, 28), (16, 80, 28), (48, 16, 7), (28, 28, 28)])
def test_resizing_is_two_matrices(height: int, width: int, target: int) -> None:
    picture = torch.rand(1, 3, height, width) * 2 - 1
    theirs = F.interpolate(picture, size=(target, target), mode="bicubic", align_corners=False)
    rows, columns = resize_matrix(height, target), resize_matrix(width, target)
    assert relative(rows @ picture @ columns.T, theirs) < 1e-5  # measured: 5e-7
    assert torch.allclose(rows.sum(1), torch.ones(target), atol=1e-6)
    if (height, width) != (target, target):
        assert relative(rows @ picture @ columns.T, F.interpolate(picture, size=(target, target), mode="bilinear")) > 0.01


@pytest.mark.parametrize("size", [(32, 48), (16, 16)])
@torch.no_grad()
def test_portraits_become_the_same_tokens(size: tuple[int, int]) -> None:
    encoder = randomised(PictureEncoder(PICTURE))
    method = image_encoder_program(encoder, ClipSpec(*size, 9))["forward"]
    portrait = method.inputs["portrait"]
    ours, theirs = make_portable(method.module), encoder(portrait)
    assert relative(ours(portrait), theirs) < 1e-5  # measured: 2e-6
    ours.rows = ours.rows.flip(0)
    assert relative(ours(portrait), theirs) > 1e-2


# ---- speech ----------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_growth_and_the_convolution_behind_it(stride: int) -> None:
    grow, conv = randomised(Grow(6, stride)), randomised(nn.Conv2d(6, 4, 3, padding=1, bias=False))
    x = torch.randn(3, 6, 4, 5)
    assert relative(PortableGrow(grow, conv)(x), conv(grow(x))) < 1e-5  # measured: 2.3e-7
    assert relative(PortableGrow(grow, conv)(x.flip(3)).flip(3), conv(grow(x))) > 0.1


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


def chunks(method: EntryPoint, start: EntryPoint, latents: list[Tensor]) -> list[Tensor]:
    video, *state = start.module(latents[0])
    result = [video]
    for latent in latents[1:]:
        video, *state = method.module(latent, *state)
        result.append(video)
    return result


@torch.no_grad()
def test_the_tiny_decoder_draws_the_same_frames() -> None:
    vae = randomised(TinyVAE(TINY))
    program = vae_decode_program(vae, CLIP)
    latents = list(torch.randn(1, 16, 3, 4, 6).split(1, 2))
    theirs = chunks(program["next"], program["first"], latents)
    assert float((theirs[1].abs() < 1).float().mean()) > 0.2  # clamping does not hide everything
    ours = {name: EntryPoint(make_portable(method.module), method.inputs, method.outputs) for name, method in program.items()}
    found = chunks(ours["next"], ours["first"], latents)
    assert all(off(a, b) < 5e-5 for a, b in zip(found, theirs, strict=True))  # measured: 6e-6
    assert not [part for method in ours.values() for part in method.module.modules() if isinstance(part, (Grow, NearestDouble))]
    swapped = chunks(ours["next"], ours["first"], [latents[1], latents[0], latents[2]])
    assert off(swapped[2], theirs[2]) > 0.01


# ---- compiled --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["audio_encoder", "image_encoder", "vae_decode"])
@torch.no_grad()
def test_each_method_is_one_delegate_that_computes_the_same(part: str, tmp_path: Path) -> None:
    clip = ClipSpec(height=32, width=48, frames=5)
    program = {
        "audio_encoder": lambda: audio_encoder_program(randomised(SpeechEncoder(replace(SPEECH, layers=1))), clip),
        "image_encoder": lambda: image_encoder_program(randomised(PictureEncoder(replace(PICTURE, layers=2))), clip),
        "vae_decode": lambda: vae_decode_program(randomised(TinyVAE(TINY)), clip),
    }[part]()
    compiled = compile_program(part, program, PRESETS["fp32"], tmp_path)
    assert {name: (taken.delegate_calls, taken.other_ops) for name, taken in compiled.placement.items()} == {
        name: (1, {}) for name in program
    }
    loaded = Runtime.get().load_program(compiled.path)
    for name, method in program.items():
        inputs = list(method.drawn(seed=3).values())
        if part == "audio_encoder":
            inputs[2] = torch.from_numpy(present(3, 5, 1))
        results = loaded.load_method(name).execute(inputs)
        for ours, theirs in zip(results, method.run(*inputs), strict=True):
            assert psnr(theirs.numpy(), np.array(ours)) > 90  # measured: 119 dB or more
        others = method.run(*[*method.drawn(seed=4).values()][:1], *inputs[1:])
        assert psnr(others[0].numpy(), np.array(results[0])) < 40
