"""targets/rewrites/whole.py: attention, rotary embedding and norms in one piece, for clips of every shape."""

from __future__ import annotations

import copy

import pytest
import torch

from echoedge.core.config import AudioConfig, ClipSpec
from echoedge.core.model.attention import SelfAttention, rope_tables
from echoedge.core.model.conditions import AudioToTokens, token_slices
from echoedge.core.model.programs import denoise_program, denoise_reusing_program
from echoedge.core.model.transformer import patchify, unpatchify
from echoedge.core.model.vae import FrameAttention, Stream
from echoedge.targets.onnx.dynamic import AnyRope, any_shape
from echoedge.targets.rewrites.whole import (
    AnyAudioToTokens,
    WholeCrossAttention,
    WholeFrameAttention,
    WholeHeads,
    WholeSelfAttention,
    make_whole,
    patches_of,
    picture_of,
)

from ...core.tiny import TINY_CLIP, randomised, tiny_config, tiny_dit
from .common import B, off, require_same_streams
from .test_cross_attention import cross_attention

pytestmark = pytest.mark.usefixtures("double_precision")
SHAPES = (TINY_CLIP, ClipSpec(16, 48, 5), ClipSpec(64, 32, 17))


@pytest.mark.parametrize("coupled", [False, True])
@torch.no_grad()
def test_cross_attention(coupled: bool) -> None:
    attention, *arguments = cross_attention(coupled)
    expected = attention(*arguments)
    ours = WholeCrossAttention(copy.deepcopy(attention))
    assert off(ours(*arguments), expected) < 1e-10  # measured: 4e-15 of 3
    ours.coupled = not coupled
    assert off(ours(*arguments), expected) > 1e-3


@torch.no_grad()
def test_self_attention() -> None:
    config = tiny_config()
    attention = randomised(SelfAttention(config)).double()
    cos, sin = (table.double() for table in rope_tables(config.head_dim, 3, 2, 3))
    x = torch.randn(B, 18, config.dim)
    expected = attention(x, cos, sin)
    single = copy.deepcopy(attention).float()
    ours = WholeSelfAttention(single)
    found = torch.cat([ours(row[None].float(), cos.float(), sin.float()) for row in x])
    assert off(found, expected) < 1e-5  # turned in float32; measured: 6e-7 of 2
    turned = torch.cat([ours(row[None].float(), sin.float(), cos.float()) for row in x])
    assert off(turned, expected) > 1e-2


@torch.no_grad()
def test_rotary_tables_of_any_shape_have_the_references_numbers() -> None:
    rope = AnyRope(24, positions=16)
    for shape in ((3, 2, 5), (2, 1, 1), (7, 16, 9)):
        for found, expected in zip(rope(*shape), rope_tables(24, *shape), strict=True):
            assert torch.equal(found.float(), expected)
    assert not torch.equal(rope(3, 2, 5)[0].float(), rope_tables(24, 3, 5, 2)[0])


@torch.no_grad()
def test_patches_and_pictures() -> None:
    x = torch.randn(1, 5, 3, 4, 6)
    assert torch.equal(patches_of(x), patchify(x))
    tokens = torch.randn(1, 18, 20)
    assert torch.equal(picture_of(tokens, 3, 2, 3), unpatchify(tokens, 3, 4, 6))
    assert not torch.equal(picture_of(tokens, 3, 3, 2).flatten(), unpatchify(tokens, 3, 4, 6).flatten())


@pytest.mark.parametrize("frames", range(2, 9))
@torch.no_grad()
def test_audio_tokens_of_any_number_of_frames(frames: int) -> None:
    audio = AudioToTokens(AudioConfig(layers=1, channels=12, tokens=17), 24)
    features, present = torch.randn(1, 8 * frames, 12), torch.ones(1, 8 * frames)
    present[0, -3:] = 0
    assert torch.equal(AnyAudioToTokens(audio)(features, frames, present), audio(features, frames, present))
    rows = token_slices(8 * frames, frames)
    assert [len(row) for row in rows] == [AnyAudioToTokens.WIDE] * frames


@torch.no_grad()
def test_attention_of_the_vae_and_of_libraries() -> None:
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPAttention

    frame = randomised(FrameAttention(8))
    x = torch.randn(1, 2, 8, 3, 5)
    assert off(WholeFrameAttention(copy.deepcopy(frame))(x), frame(x, Stream())) < 1e-10
    library = CLIPVisionConfig(hidden_size=24, num_attention_heads=3, attn_implementation="eager")
    heads, tokens = randomised(CLIPAttention(library)), torch.randn(1, 7, 24)
    bias = torch.zeros(1, 1, 7)
    bias[..., -2:] = -1e9
    expected = heads(tokens, attention_mask=bias.expand(1, 1, 7, 7))[0]
    ours = WholeHeads(heads, 2)
    assert off(ours(tokens, bias)[0], expected) < 1e-6  # the library takes softmax in float32
    assert off(ours(tokens)[0], expected) > 1e-3


@pytest.mark.parametrize("clip", SHAPES, ids=str)
@torch.no_grad()
def test_a_step_of_any_shape_is_the_step_of_each(clip: ClipSpec) -> None:
    dit = tiny_dit(tiny_config()).float()
    for program in (denoise_program(dit, clip, 12, reuse=True), denoise_reusing_program(dit, clip)):
        entry = program["forward"]
        ours = make_whole(any_shape(entry.module))
        given = [x.float() for x in entry.drawn(3).values()]
        found = ours(*given)
        for ours_, expected in zip(found if isinstance(found, tuple) else (found,), entry.run(*given), strict=True):
            assert off(ours_, expected) < 1e-4  # float32; measured: 4e-6 of 3


@torch.no_grad()
def test_the_vae_frame_by_frame() -> None:
    require_same_streams(make_whole)
