"""core/model/pretrained_speech.py: the speech encoder computes what the library's wav2vec2 does, whatever the file's layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.errors import CheckpointError, InputError
from echoedge.core.model.pretrained_speech import WAV2VEC2_BASE, SpeechEncoderConfig, fold_weight_norm

from .test_pretrained import POSITION_CONV, SPEECH, outputs, random_tensors


def wav2vec2_model(tensors: dict[str, Tensor], config: SpeechEncoderConfig) -> Any:
    """The library's model with its own weight norm; it reads weight_g and weight_v."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    model = Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim, conv_dim=config.conv_dims, num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups, conv_bias=config.conv_bias, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    result = model.load_state_dict(tensors, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["masked_spec_embed"], [])
    return model


def normalised(waveform: Tensor) -> Tensor:
    return torch.stack([(x - x.mean()) / (x.var(correction=0) + 1e-7).sqrt() for x in waveform])


@pytest.mark.parametrize("conv_bias", [False, True])
@torch.no_grad()
def test_per_token_is_the_librarys_last_layer(conv_bias: bool) -> None:
    config = replace(SPEECH, conv_bias=conv_bias)
    tensors, waveform = random_tensors(config), 0.1 * torch.randn(2, 3000) + 0.05
    ours, library = config.build(tensors).per_token(waveform), wav2vec2_model(tensors, config)
    assert ours.shape == (2, config.rows(3000), 24)
    theirs = library(normalised(waveform)).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # measured: 9.5e-7 of 3.5


@torch.no_grad()
def test_per_frame_stretches_the_features_before_the_transformer() -> None:
    tensors, waveform = random_tensors(SPEECH), torch.randn(2, 3200)
    ours, library = SPEECH.build(tensors).per_frame(waveform, 5), wav2vec2_model(tensors, SPEECH)
    assert ours.shape == (2, 5, 3, 24)
    features = library.feature_extractor(normalised(waveform)).mT  # [B, 9, C]: every second row is a frame's
    assert features.shape[1] == 9

    def transformed(rows: Tensor) -> Tensor:
        hidden = library.encoder(library.feature_projection(rows)[0], output_hidden_states=True).hidden_states
        return torch.stack(hidden[1:], 2)

    torch.testing.assert_close(ours, transformed(features[:, ::2]), rtol=0, atol=2e-5)  # measured: 7.2e-7 of 3.5
    assert (ours - transformed(features)[:, ::2]).abs().max() > 0.01


@torch.no_grad()
def test_loudness_and_offset_do_not_matter() -> None:
    """The first group norm takes most of both away; it is quiet sounds that show whether the waveform was normalised."""
    tensors, waveform = random_tensors(SPEECH), torch.randn(1, 3200)
    module, quiet = SPEECH.build(tensors), 3e-3 * waveform + 1e-3
    torch.testing.assert_close(module.per_token(quiet), module.per_token(waveform), rtol=0, atol=2e-5)  # measured: 6.0e-7 of 2.3
    library = wav2vec2_model(tensors, SPEECH)
    assert (module.per_token(quiet) - library(quiet).last_hidden_state).abs().max() > 0.02  # measured: 0.086


def test_rows_count_what_the_convolutions_make() -> None:
    assert [WAV2VEC2_BASE.rows(samples) for samples in (0, 9, 399, 400, 719, 720, 16000)] == [0, 0, 0, 1, 1, 2, 49]
    assert [WAV2VEC2_BASE.rows(640 * frames) for frames in (9, 13, 81)] == [17, 25, 161]  # 2T - 1


def test_a_sound_without_a_feature_is_refused() -> None:
    module = SPEECH.build(random_tensors(SPEECH))
    for encode in (module.per_token, lambda waveform: module.per_frame(waveform, 5)):
        with pytest.raises(InputError, match="The sound has 399 samples"):
            encode(torch.zeros(1, 399))
    with pytest.raises(InputError, match="frames is 0"):
        module.per_frame(torch.zeros(1, 3200), 0)
    assert torch.isfinite(module.per_token(torch.zeros(1, 400))).all()  # silence


def test_the_weight_norm_is_torchs() -> None:
    tensors = random_tensors(SPEECH)
    length, direction = (tensors[f"{POSITION_CONV}.{name}"] for name in ("weight_g", "weight_v"))
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(24, 24, 16, groups=4), dim=2)
    conv.load_state_dict({"weight_g": length, "weight_v": direction}, strict=False)
    folded = fold_weight_norm(length, direction)
    torch.testing.assert_close(folded, conv.weight.detach(), rtol=1e-6, atol=1e-7)  # measured: 7.5e-9 of 0.08
    assert torch.equal(folded, SPEECH.build(tensors).encoder.pos_conv_embed.conv.weight)
    assert (length * F.normalize(direction, dim=0) - folded).abs().max() > 0.01
    half = fold_weight_norm(length.bfloat16(), direction.bfloat16())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
@pytest.mark.parametrize(
    "names", [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
)
def test_every_layout_makes_the_same_encoder(prefix: str, names: tuple[str, str]) -> None:
    tensors = random_tensors(SPEECH)
    spelling = {
        f"{POSITION_CONV}.weight_g": f"{POSITION_CONV}.{names[0]}",
        f"{POSITION_CONV}.weight_v": f"{POSITION_CONV}.{names[1]}",
    }
    file = {prefix + spelling.get(name, name): tensor for name, tensor in tensors.items()}
    kept, left = SPEECH.select(file | {"lm_head.bias": torch.zeros(32)})
    assert list(left) == ["lm_head.bias"]
    assert torch.equal(outputs(SPEECH, SPEECH.build(kept)), outputs(SPEECH, SPEECH.build(tensors)))
    if prefix or names[0] != "weight_g":
        with pytest.raises(CheckpointError, match="missing"):
            SPEECH.build(file)
