"""targets/rewrites/fused.py: attention as one operator, rotary embedding by halves, for clips of one shape."""

from __future__ import annotations

import copy

import pytest
import torch

from echoedge.core.model.attention import SelfAttention, rope_tables
from echoedge.core.model.pretrained_image import PictureEncoder
from echoedge.core.model.pretrained_speech import SpeechEncoder
from echoedge.core.model.programs import audio_encoder_program, denoise_program
from echoedge.core.model.vae import FrameAttention, Stream
from echoedge.targets.rewrites.fused import fused_attention, halve_pairs, make_fused
from echoedge.targets.rewrites.whole import WholeCrossAttention, WholeFrameAttention, WholeHeads

from ...core.tiny import TINY_CLIP, randomised, tiny_config, tiny_dit
from .common import CLIP, PICTURE, SPEECH, B, off, relative, require_same_streams
from .test_cross_attention import cross_attention


@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_cross_attention() -> None:
    attention, *arguments = cross_attention(False)
    expected = attention(*arguments)
    ours = WholeCrossAttention(copy.deepcopy(attention), fused_attention)
    assert off(ours(*arguments), expected) < 1e-10  # measured: 3e-15 of 3
    x, conditions, (text, image, audio) = arguments
    assert off(ours(x, conditions, (image, text, audio)), expected) > 1e-3
    conditions.text_bias.zero_()  # a masked row is heard
    assert off(ours(x, conditions, (text, image, audio)), expected) > 1e-3


@torch.no_grad()
def test_the_coupled_form_stays() -> None:
    attention, *arguments = cross_attention(True)
    ours = make_fused(attention)
    assert not isinstance(ours, WholeCrossAttention) and torch.equal(ours(*arguments), attention(*arguments))


@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_self_attention_by_halves() -> None:
    config = tiny_config()
    attention = randomised(SelfAttention(config))
    cos, sin = (table.double() for table in rope_tables(config.head_dim, 3, 2, 3))
    x = torch.randn(B, 18, config.dim)
    expected, ours = attention(x, cos, sin), copy.deepcopy(attention)
    halve_pairs(ours)
    assert off(ours(x, cos, sin), expected) < 1e-10  # measured: 2e-15 of 3
    halve_pairs(ours)  # once is enough
    assert off(ours(x, cos, sin), expected) < 1e-10
    ours.rotary = attention.rotary
    assert off(ours(x, cos, sin), expected) > 1e-2


@torch.no_grad()
def test_pairs_are_turned_in_the_type_of_the_tables() -> None:
    config = tiny_config()
    ours = randomised(SelfAttention(config)).bfloat16()
    cos, sin = rope_tables(config.head_dim, 3, 2, 3)
    x = torch.randn(1, 18, config.heads, config.head_dim).bfloat16()
    halve_pairs(ours)
    turned = ours.rotary(x, cos, sin)
    assert turned.dtype == torch.bfloat16
    exact = ours.rotary(x.float(), cos, sin)
    assert torch.equal(turned, exact.bfloat16())  # rounded once
    assert not torch.equal(ours.rotary(x, cos.bfloat16(), sin.bfloat16()), turned)


@pytest.mark.parametrize("kind", ["CLIP", "wav2vec2"])
@torch.no_grad()
def test_attention_of_the_librarys_layers(kind: str) -> None:
    if kind == "CLIP":
        attention, results = PictureEncoder(PICTURE).blocks[0].self_attn, 2
    else:
        attention, results = SpeechEncoder(SPEECH).encoder.layers[0].attention, 3
    randomised(attention)
    x, bias = torch.randn(1, 7, 24), torch.zeros(1, 1, 7)
    bias[..., -2:] = -1e9
    expected = attention(hidden_states=x, attention_mask=bias[None].expand(1, 1, 7, 7))[0]
    ours = WholeHeads(copy.deepcopy(attention), results, fused_attention)
    assert len(ours(x, bias)) == results
    assert relative(ours(x, bias)[0], expected) < 1e-5  # measured: 2e-7
    assert relative(ours(x)[0], expected) > 1e-3


@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_attention_of_the_vae() -> None:
    frame, x = randomised(FrameAttention(8)), torch.randn(1, 2, 8, 3, 5)
    expected, ours = frame(x, Stream()), WholeFrameAttention(copy.deepcopy(frame), fused_attention)
    assert off(ours(x), expected) < 1e-10
    assert off(ours(x.flip(4)), expected) > 1e-3


@torch.no_grad()
def test_whole_programs() -> None:
    programs = {
        "step": denoise_program(tiny_dit(tiny_config()), TINY_CLIP, 12, reuse=True),
        "ear": audio_encoder_program(randomised(SpeechEncoder(SPEECH)).eval(), CLIP, context_frames=2),
    }
    for program in programs.values():
        entry = program["forward"]
        given = entry.drawn(3)
        if "present" in given:
            given["present"] = torch.ones_like(given["present"])
            given["present"][:, -2:] = 0
        found, expected = make_fused(entry.module)(*given.values()), entry.run(*given.values())
        for ours, theirs in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
            assert relative(ours, theirs) < 1e-4  # measured: 2e-6 and 7e-6


@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_the_vae_frame_by_frame() -> None:
    require_same_streams(make_fused)
