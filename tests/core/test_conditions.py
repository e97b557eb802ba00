"""core/model/conditions.py: audio windows and token slices, the exact collapse of text padding, and their errors."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echoedge.core.config import AudioConfig
from echoedge.core.errors import ConfigError
from echoedge.core.model.attention import CrossAttention
from echoedge.core.model.conditions import AudioInjection, AudioToTokens, Conditions, face_mask, token_slices
from echoedge.core.model.masks import Box
from echoedge.core.sampling.inputs import frame_windows

from ..upstream.checks_conditions import injected_rows
from .tensors import collapse_padding, pad_text
from .test_attention import FRAMES, X, cross_attention, layer_conditions, noise, ones_but
from .tiny import tiny_config, tiny_dit, tiny_inputs

# ---- text ------------------------------------------------------------------------------------------------------------------------


def test_prompts_are_padded_with_zero_rows() -> None:
    prompts = [torch.randn(rows, 3) for rows in (2, 0, 5)]
    padded = pad_text(prompts, 5)
    assert padded.shape == (3, 5, 3)
    for prompt, row in zip(prompts, padded, strict=True):
        assert torch.equal(row[: len(prompt)], prompt)
        assert not row[len(prompt) :].any()


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"A prompt has 6 tokens; this model reads 5\. Shorten it\."):
        pad_text([torch.zeros(2, 3), torch.zeros(6, 3)], 5)


TEXT_DIM = 20


def attended(layer: CrossAttention, embed: nn.Module, rows: Tensor, bias: Tensor) -> Tensor:
    """Cross-attention to one prompt's rows and a fixed portrait and sound, float64."""
    with torch.no_grad():
        tokens = embed(rows).expand(len(X), -1, -1)
        conditions = layer_conditions()
        k, v = layer.keys_values("text", tokens)
        return layer(X, replace(conditions, text_k=k, text_v=v, text_bias=bias.expand(len(X), -1)), ones_but())


def text_embedding() -> nn.Module:
    """The text MLP, which turns zero rows into equal rows that are not zero."""
    return tiny_dit(tiny_config(text_dim=TEXT_DIM)).text_embedding.double()


PROMPTS = [(0, 512, 40), (1, 512, 40), (39, 512, 40), (40, 41, 41), (9, 9, 9), (9, 9, 12)]  # length, text_len, rows


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize(("length", "text_len", "rows"), PROMPTS)
def test_collapsed_padding_attends_like_all_of_it(coupled: bool, length: int, text_len: int, rows: int) -> None:
    layer, embed = cross_attention(coupled), text_embedding()
    prompt = noise(length, TEXT_DIM, seed=5)
    full = attended(layer, embed, pad_text([prompt], text_len), torch.zeros(1, text_len, dtype=torch.float64))
    collapsed, bias = collapse_padding(prompt, text_len, rows)
    assert collapsed.shape == (rows, TEXT_DIM)
    torch.testing.assert_close(attended(layer, embed, collapsed, bias), full, rtol=0, atol=1e-12)  # measured: 1.3e-14


@pytest.mark.parametrize("coupled", [False, True])
def test_collapsed_padding_needs_its_bias(coupled: bool) -> None:
    layer, embed = cross_attention(coupled), text_embedding()
    prompt = noise(9, TEXT_DIM, seed=5)
    full = attended(layer, embed, pad_text([prompt], 512), torch.zeros(1, 512, dtype=torch.float64))
    collapsed, bias = collapse_padding(prompt, 512, 40)
    unmasked = bias.clamp_min(0)
    uncounted = bias.masked_fill(bias > 0, 0.0)
    for wrong in (torch.zeros_like(bias), unmasked, uncounted):
        assert (attended(layer, embed, collapsed, wrong) - full).abs().max() > 1e-3


def test_collapsed_padding_bias_is_the_logarithm_of_its_count() -> None:
    _, bias = collapse_padding(torch.zeros(3, 2, dtype=torch.float64), 10, 6)
    assert bias.exp().tolist() == pytest.approx([1, 1, 1, 7, 0, 0], rel=1e-15)


@pytest.mark.parametrize(("length", "rows", "readable"), [(40, 40, 39), (513, 600, 512), (50, 40, 39)])
def test_a_prompt_that_does_not_fit_its_rows_is_refused(length: int, rows: int, readable: int) -> None:
    with pytest.raises(ConfigError, match=rf"A prompt has {length} tokens; this bundle reads up to {readable}\."):
        collapse_padding(torch.zeros(length, 3), 512, rows)


# ---- audio, flash ----------------------------------------------------------------------------------------------------------------


def test_windows_of_the_ends_are_clamped() -> None:
    features = torch.arange(4.0).view(1, 4, 1, 1)
    expected = [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert frame_windows(features)[0, :, :, 0, 0].tolist() == expected


def test_window_of_a_single_frame_is_that_frame_five_times() -> None:
    features = torch.randn(2, 1, 3, 4)
    assert torch.equal(frame_windows(features), features[:, :, None].expand(2, 1, 5, 3, 4))


def test_a_later_latent_frame_reads_eight_rows_of_its_four_windows() -> None:
    slots = torch.arange(9 * 5.0).view(1, 9, 5, 1, 1)  # row 5 f + s: slot s of video frame f
    first, later = (rows.flatten().tolist() for rows in injected_rows(slots))
    assert first == [0, 1, 2, 3, 4]
    assert later == [5, 6, 7, 12, 17, 22, 23, 24, 25, 26, 27, 32, 37, 42, 43, 44]


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_audio_injection_gives_each_latent_frame_its_tokens(frames: int) -> None:
    injection = AudioInjection(AudioConfig(layers=2, channels=3, hidden=4, tokens=2), dim=6)
    assert injection(torch.randn(2, frames, 5, 2, 3)).shape == (2, ((frames - 1) // 4 + 1) * 2, 6)


# ---- audio, preview --------------------------------------------------------------------------------------------------------------


def test_missing_tokens_are_zeros_at_the_right_end() -> None:
    first, second, third = token_slices(18, 3)  # 9 tokens around 0, 8 and 16, without the first's later half; 4 more on both sides
    assert first == [*range(6), *[-1] * 11]
    assert second == [*range(14), *[-1] * 3]
    assert third == [*range(5, 18), *[-1] * 4]
    assert token_slices(18, 3, widen=0) == [[0, 1, *[-1] * 7], [*range(1, 10)], [*range(9, 18)]]


@pytest.mark.parametrize(("length", "frames", "covered"), [(18, 2, 3), (18, 4, 3), (17, 3, 2), (1, 1, 0), (0, 1, 0)])
def test_audio_of_another_length_is_refused(length: int, frames: int, covered: int) -> None:
    message = rf"{length} audio tokens cover {covered} latent frames; the clip has {frames}\. Pad or crop the audio\."
    with pytest.raises(ConfigError, match=message):
        token_slices(length, frames)


def test_padding_tokens_are_zero_after_the_norm() -> None:
    layer = AudioToTokens(AudioConfig(layers=1, channels=4, tokens=17), dim=6)
    nn.init.normal_(layer.norm.bias)
    features = torch.randn(2, 18, 4)
    tokens = layer(features, 3).view(2, 3, 17, 6)
    plain = layer.norm(layer.proj(features))
    for frame, row in enumerate(token_slices(18, 3)):
        for slot, index in enumerate(row):
            expected = plain[:, index] if index >= 0 else torch.zeros(2, 6)
            assert torch.equal(tokens[:, frame, slot], expected)


# ---- conditions ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_conditions_list_their_tensors_in_the_order_of_their_fields(variant: Any) -> None:
    dit = tiny_dit(tiny_config(variant))
    inputs = tiny_inputs(dit.config, batch=2)
    inputs.pop("latents")
    conditions = dit.encode_conditions(**inputs)
    assert Conditions.names() == [field.name for field in fields(Conditions)]
    again = Conditions(*conditions.tensors())
    assert all(getattr(again, name) is getattr(conditions, name) for name in Conditions.names())


def test_a_layer_of_the_conditions_is_that_blocks_share() -> None:
    dit = tiny_dit(tiny_config())
    inputs = tiny_inputs(dit.config, batch=2)
    inputs.pop("latents")
    conditions = dit.encode_conditions(**inputs)
    for index in range(dit.config.layers):
        layer = conditions.layer(index)
        for name in ("text_k", "text_v", "image_k", "image_v", "audio_k", "audio_v"):
            assert torch.equal(getattr(layer, name), getattr(conditions, name)[index])
        assert layer.text_bias is conditions.text_bias
    assert conditions.audio_k.shape == (2, 2, FRAMES * dit.config.audio.tokens, dit.config.dim)
    assert not torch.equal(conditions.layer(0).text_k, conditions.layer(1).text_k)


# ---- where the audio is heard ----------------------------------------------------------------------------------------------------


def heard(mask: Tensor, columns: int) -> set[tuple[int, int]]:
    return {(int(index) // columns, int(index) % columns) for index in mask.nonzero()}


def test_the_audio_is_heard_where_the_face_is() -> None:
    mask = face_mask(Box(32, 64, 16, 80), 96, 128, 96, 128)  # not resized: 6 rows and 8 columns of tokens
    assert mask.shape == (48,)
    assert mask.dtype == torch.float32
    assert heard(mask, 8) == {(row, column) for row in (2, 3) for column in (1, 2, 3, 4)}


def test_edges_are_rounded_down_after_scaling() -> None:
    box = Box(63, 130, 100, 161)
    assert heard(face_mask(box, 192, 256, 96, 128), 8) == {(row, column) for row in (1, 2, 3) for column in (3, 4)}
    assert heard(face_mask(box, 192, 256, 192, 256), 16) == {(row, column) for row in range(3, 8) for column in range(6, 10)}


def test_rows_and_columns_are_scaled_by_the_root_of_the_areas_ratio() -> None:
    """An image whose aspect the clip does not keep exactly: 0.5 by area, 0.48 and 0.52 by sides."""
    face = Box(0, 330, 0, 320)
    assert heard(face_mask(face, 400, 400, 192, 208), 13) == {(row, column) for row in range(10) for column in range(9)}


def test_what_lies_outside_the_image_is_cut_off() -> None:
    assert heard(face_mask(Box(-40, 32, 48, 500), 64, 64, 64, 64), 4) == {(0, 3), (1, 3)}
    assert face_mask(Box(-40, 500, -40, 500), 64, 64, 64, 64).all()


@pytest.mark.parametrize("box", [Box(17, 31, 0, 64), Box(0, 64, 33, 47), Box(20, 20, 20, 20), Box(64, 90, 0, 64)])
def test_a_face_within_a_row_or_column_of_tokens_leaves_none_that_hears(box: Box) -> None:
    assert not face_mask(box, 64, 64, 64, 64).any()


@pytest.mark.parametrize(
    ("box", "sizes", "words"),
    [
        (Box(9, 8, 0, 8), (64, 64, 64, 64), r"Box\(y0=9, y1=8, x0=0, x1=8\) is inside out"),
        (Box(0, 8, 9, 8), (64, 64, 64, 64), "is inside out"),
        (Box(0, 8, 0, 8), (0, 64, 64, 64), "The image is 0x64, the clip 64x64"),
        (Box(0, 8, 0, 8), (64, 64, 64, -16), "the clip 64x-16"),
    ],
)
def test_faces_that_cannot_be(box: Box, sizes: tuple[int, int, int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        face_mask(box, *sizes)
