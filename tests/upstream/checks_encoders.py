"""The released encoders against upstream's: prompt, portrait, and speech as either variant hears it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from echoedge.core.model.pretrained import EncoderConfig
from echoedge.core.model.pretrained_image import PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoderConfig
from echoedge.core.model.pretrained_text import PromptEncoderConfig

from .goldens import Comparison, Golden, check


def built(config: EncoderConfig, case: Golden) -> Any:
    """The encoder with the case's weights, less what upstream stores and never runs."""
    return config.build(config.select(case.weights())[0])


def prompt_config(case: Golden) -> PromptEncoderConfig:
    config = case.config
    return PromptEncoderConfig(
        vocab=config["vocab"], dim=config["dim"], attention_dim=config["dim_attn"], ffn_dim=config["dim_ffn"],
        heads=config["num_heads"], layers=config["num_layers"], buckets=config["num_buckets"],
        shared_positions=config["shared_pos"],
    )  # fmt: skip


def picture_config(case: Golden) -> PictureEncoderConfig:
    config = case.config
    return PictureEncoderConfig(
        image_size=config["image_size"], patch=config["patch_size"], dim=config["vision_dim"], heads=config["vision_heads"],
        layers=config["vision_layers"], mlp_dim=int(config["vision_dim"] * config["vision_mlp_ratio"]),
    )  # fmt: skip


@check("t5")
@torch.no_grad()
def prompt(case: Golden) -> Iterator[Comparison]:
    """Rows of padding included. Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.0066 of that."""
    recorded = case.tensors()
    hidden = built(prompt_config(case), case)(recorded["in/ids"], recorded["in/mask"])
    yield "out/hidden", hidden, recorded["out/hidden"]


@check("clip")
@torch.no_grad()
def portrait(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.0024 of that."""
    recorded = case.tensors()
    yield "out/tokens", built(picture_config(case), case)(recorded["in/image"][None]), recorded["out/tokens"]


@check("wav2vec2_flash")
@torch.no_grad()
def speech_per_frame(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.0068 of that."""
    recorded, config = case.tensors(), SpeechEncoderConfig.from_hugging_face(case.config)
    features = built(config, case).per_frame(recorded["in/wav"][None], case.call["video_length"])
    yield "out/embed", features[0], recorded["out/embed"]


@check("wav2vec2_preview")
@torch.no_grad()
def speech_per_token(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.014 of that."""
    recorded, config = case.tensors(), SpeechEncoderConfig.from_hugging_face(case.config)
    features = built(config, case).per_token(recorded["in/wav"][None])
    yield "rows", config.rows(len(recorded["in/wav"])), len(recorded["out/last_hidden_state"])
    yield "out/last_hidden_state", features[0], recorded["out/last_hidden_state"]
