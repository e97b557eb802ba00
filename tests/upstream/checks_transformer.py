"""The DiT of both variants and its rotary tables against upstream's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from echoedge.core.config import AudioConfig, ModelConfig, Variant
from echoedge.core.model.attention import Riflex, rope_angles
from echoedge.core.model.transformer import DiT

from ..core.tensors import pad_text
from .goldens import Comparison, Golden, check

PREVIEW_TOKENS = 17  # of one latent frame


def numbered(recorded: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """prefix0, prefix1, … in the order of their numbers."""
    names = [name for name in recorded if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    return [recorded[name] for name in sorted(names, key=lambda name: int(name[len(prefix) :]))]


def model_config(upstream: dict[str, Any], variant: Variant, image_tokens: int, latent_channels: int = 16) -> ModelConfig:
    """Upstream's constructor arguments as ours."""
    audio = upstream["audio"]
    if variant == "flash":
        tokens, hidden = audio["context_tokens"], audio["intermediate_dim"]
        audio_config = AudioConfig(layers=audio["blocks"], channels=audio["channels"], hidden=hidden, tokens=tokens)
    else:
        audio_config = AudioConfig(layers=1, channels=audio["channels"], tokens=PREVIEW_TOKENS)
    return ModelConfig(
        name="golden", variant=variant, dim=upstream["dim"], heads=upstream["num_heads"], layers=upstream["num_layers"],
        ffn_dim=upstream["ffn_dim"], text_dim=upstream["text_dim"], text_len=upstream["text_len"], image_dim=upstream["clip_dim"],
        image_tokens=image_tokens, audio=audio_config, freq_dim=upstream["freq_dim"], latent_channels=latent_channels,
    )  # fmt: skip


def load_dit(config: ModelConfig, weights: dict[str, Tensor]) -> DiT:
    """The model with upstream's weights; flash's `q_audio` is dead."""
    dit = DiT(config)
    dit.load_state_dict({key: value for key, value in weights.items() if ".q_audio." not in key})
    return dit.eval()


def config_of(case: Golden) -> ModelConfig:
    """The case's model; how many image tokens and latent channels there are, the inputs say."""
    recorded = case.tensors()
    variant: Variant = "flash" if "flash" in case.kind else "preview"
    return model_config(case.config, variant, recorded["in/clip_fea"].shape[1], recorded["in/x"].shape[1])


def dit_of(case: Golden) -> DiT:
    return load_dit(config_of(case), case.weights())


def arguments_of(case: Golden) -> dict[str, Any]:
    """A case's inputs as arguments of `DiT.forward`: upstream's audio scale is a modality weight, its face mask the audio mask."""
    config, recorded = config_of(case), case.tensors()
    x = recorded["in/x"]
    modality_weights = torch.ones(x.shape[0], 3, x.shape[2])
    arguments = {
        "latents": x,
        "timestep": recorded["in/t"],
        "y": recorded["in/y"],
        "text": pad_text(numbered(recorded, "in/text"), config.text_len),
        "image": recorded["in/clip_fea"],
        "audio": recorded["in/audio"],
        "modality_weights": modality_weights,
    }
    if config.variant == "preview":  # flash takes both and uses neither
        modality_weights[:, 2] = case.call.get("audio_scale", 1.0)
        mask = recorded.get("in/ip_mask")
        arguments["audio_mask"] = mask if mask is not None and len(mask) == len(x) else None  # upstream skips one of other rows
    if riflex := case.call.get("riflex"):
        scale = {"scale": riflex["L_test_scale"]} if "L_test_scale" in riflex else {}
        arguments["riflex"] = Riflex(frames=riflex["L_test"], index=riflex["k"], **scale)
    return arguments


@check("transformer_flash", "transformer_preview", "transformer_flash_riflex", "transformer_preview_riflex")
@torch.no_grad()
def velocities(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.0039 of that, 2.1e-6 of 5.8."""
    recorded, dit, arguments = case.tensors(), dit_of(case), arguments_of(case)
    yield "out/y", dit(**arguments), recorded["out/y"]
    if "out/y_without_riflex" in recorded:
        yield "out/y_without_riflex", dit(**arguments | {"riflex": None}), recorded["out/y_without_riflex"]


def rope_table(head_dim: int, positions: int) -> Tensor:
    """Upstream's complex factors, float64 [positions, d/2, 2]: those of the temporal, vertical and horizontal axis side by side."""
    sixth = head_dim // 6
    widths = [head_dim // 2 - 2 * sixth, sixth, sixth]
    axes = [
        rope_angles(head_dim, *(positions if axis == other else 1 for other in range(3))).split(widths, 1)[axis]
        for axis in range(3)
    ]
    angles = torch.cat(axes, 1)
    return torch.stack([angles.cos(), angles.sin()], -1)


@check("rope")
def rotary_tables(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-12 relative and absolute. Measured: 0.0034 of that."""
    for name, theirs in case.tensors().items():
        if name.startswith("out/freqs_d"):
            yield name, rope_table(int(name.removeprefix("out/freqs_d")), theirs.shape[0]), theirs
