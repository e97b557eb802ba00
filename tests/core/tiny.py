"""Tiny models with seeded random weights, for tests that need a model but not a good one."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from echoedge.core.config import AudioConfig, ClipSpec, ModelConfig, VAEConfig, Variant
from echoedge.core.model.transformer import DiT
from echoedge.core.model.vae import VAE

TINY_CLIP = ClipSpec(height=32, width=48, frames=9)  # 3 latent frames of 4x6, 6 tokens each

M = TypeVar("M", bound=nn.Module)


def tiny_config(variant: Variant = "flash", **changes: Any) -> ModelConfig:
    """2 layers of width 48, the first one coupled, and a VAE of width 4."""
    audio = AudioConfig(layers=1, channels=6, tokens=17)
    if variant == "flash":
        audio = AudioConfig(layers=2, channels=6, hidden=10, tokens=3)
    options: dict[str, Any] = {
        "name": "tiny", "variant": variant, "dim": 48, "heads": 2, "layers": 2, "ffn_dim": 80, "text_dim": 20, "text_len": 12,
        "image_dim": 12, "image_tokens": 16, "audio": audio, "freq_dim": 16, "coupled_layers": 1,
        "vae": VAEConfig(dim=4, res_blocks=1),
    }  # fmt: skip
    return ModelConfig(**options | changes)


def randomised(module: M, seed: int = 0) -> M:
    """The module in inference mode, each parameter moved by seeded noise: one that stayed 0 or 1 would hide what reads it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.add_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
    return module.eval()


def tiny_dit(config: ModelConfig, seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    return randomised(DiT(config), seed)


def tiny_vae(config: VAEConfig, seed: int = 0) -> VAE:
    """Most of what it decodes lies within -1 … 1, so that clamping hides nothing."""
    torch.manual_seed(seed)
    vae = randomised(VAE(config), seed)
    with torch.no_grad():
        vae.decoder.head[2].weight.mul_(0.2)
    return vae


def tiny_inputs(
    config: ModelConfig, clip: ClipSpec = TINY_CLIP, batch: int = 1, text_rows: int | None = None, seed: int = 1
) -> dict[str, Tensor]:
    """Random arguments of `DiT.encode_conditions` by name, and `latents`."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    latent = (clip.latent_frames, clip.latent_height, clip.latent_width)
    if config.variant == "flash":
        audio = random(clip.frames, 5, config.audio.layers, config.audio.channels)
    else:
        audio = random(2 * clip.frames, config.audio.channels)
    return {
        "latents": random(config.latent_channels, *latent),
        "y": random(config.mask_channels + config.latent_channels, *latent),
        "text": random(text_rows or config.text_len, config.text_dim),
        "image": random(config.image_tokens, config.image_dim),
        "audio": audio,
    }
