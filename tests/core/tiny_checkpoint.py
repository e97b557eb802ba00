"""A tiny checkpoint in upstream's layout, written by the libraries that upstream's files were written with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.config import AudioConfig, VAEConfig, Variant
from echoedge.core.model.architecture import Architecture, TextTowerConfig
from echoedge.core.model.pretrained import EncoderConfig
from echoedge.core.model.pretrained_image import PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoderConfig
from echoedge.core.model.pretrained_text import PromptEncoderConfig
from echoedge.core.model.tiny_vae import TinyVAEConfig
from echoedge.core.weights.accounts import BASE_FOLDER
from echoedge.core.weights.checkpoints import SPEECH_FILES

from .tiny import tiny_config, tiny_dit, tiny_vae

MODEL = "diffusion_pytorch_model"


def tiny_sizes(variant: Variant = "flash") -> Architecture:
    return Architecture(
        transformer=tiny_config(variant),
        text_encoder=PromptEncoderConfig(vocab=400, dim=16, attention_dim=24, ffn_dim=20, heads=2, layers=2, buckets=8),
        clip=PictureEncoderConfig(image_size=28, dim=16, heads=2, layers=3, mlp_dim=24),
        clip_text=TextTowerConfig(vocab=50, dim=8, layers=2, mlp_dim=12, positions=9, out_dim=8),
        wav2vec2=SpeechEncoderConfig(
            dim=12, layers=2, heads=2, ffn_dim=20, conv_dims=(8, 8), conv_kernels=(10, 3), conv_strides=(5, 2), position_kernel=4,
            position_groups=2,
        ),
        tiny_vae=TinyVAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8), blocks=1),
    )  # fmt: skip


def playable_sizes(variant: Variant) -> Architecture:
    """Every part at toy width, each output fitting the transformer's input, so that a clip can be played."""
    audio = (
        AudioConfig(layers=2, channels=12, hidden=10, tokens=3)
        if variant == "flash"
        else AudioConfig(layers=1, channels=12, tokens=17)
    )
    return Architecture(
        transformer=tiny_config(
            variant, heads=1, audio=audio, coupled_layers=0, vae=VAEConfig(dim=4, res_blocks=1), image_tokens=17
        ),
        text_encoder=PromptEncoderConfig(vocab=400, dim=20, attention_dim=16, ffn_dim=24, heads=4, layers=1),
        clip=PictureEncoderConfig(image_size=8, patch=2, dim=12, layers=2, heads=2, mlp_dim=16),
        clip_text=TextTowerConfig(vocab=40, dim=8, layers=1, mlp_dim=8, positions=9, out_dim=8),
        wav2vec2=SpeechEncoderConfig(
            dim=12, layers=2, heads=2, ffn_dim=16, conv_dims=(6,) * 7, position_kernel=8, position_groups=2
        ),
        tiny_vae=TinyVAEConfig(encoder_width=8, decoder_widths=(8, 8, 8, 8), blocks=1),
    )  # fmt: skip


def transformer_tensors(variant: Variant = "flash", seed: int = 0) -> dict[str, Tensor]:
    """What upstream's file holds: the module's tensors and, of flash, the dead `q_audio`."""
    config = tiny_config(variant)
    tensors = dict(tiny_dit(config, seed).state_dict())
    if variant == "flash":
        for index in range(config.layers):
            tensors[f"blocks.{index}.cross_attn.q_audio.weight"] = torch.randn(config.dim, config.dim)
            tensors[f"blocks.{index}.cross_attn.q_audio.bias"] = torch.randn(config.dim)
    return tensors


def base_tensors(variant: Variant = "flash", seed: int = 7) -> dict[str, Tensor]:
    """Wan's own transformer: other values, and no audio part."""
    return {name: tensor for name, tensor in transformer_tensors(variant, seed).items() if "audio" not in name}


def encoder_tensors(config: EncoderConfig) -> dict[str, Tensor]:
    return {name: torch.randn(shape) * 0.3 for name, shape in config.tensors().items()}


def stored(tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}


def write_checkpoint(folder: Path, variant: Variant = "flash", dtype: torch.dtype = torch.float32) -> Path:
    """`folder` with every component but the tokenizer."""
    sizes = tiny_sizes(variant)
    wan, speech, own = folder / BASE_FOLDER, (folder / SPEECH_FILES[variant]).parent, folder / "transformer"
    for path in (wan, speech, own):
        path.mkdir(parents=True)
    save_file(stored(base_tensors(variant), dtype), wan / f"{MODEL}.safetensors")
    save_file(stored(transformer_tensors(variant), dtype), own / f"{MODEL}.safetensors")
    torch.save(tiny_vae(sizes.transformer.vae).state_dict(), wan / "Wan2.1_VAE.pth")
    torch.save(encoder_tensors(sizes.text_encoder), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = encoder_tensors(sizes.clip) | {"log_scale": torch.ones([]), "textual.norm.weight": torch.ones(8)}
    torch.save(clip, wan / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    heard = {f"wav2vec2.{name}": tensor for name, tensor in encoder_tensors(sizes.wav2vec2).items()}
    torch.save(heard | {"lm_head.weight": torch.ones(3, 12)}, speech / "pytorch_model.bin")
    torch.save(encoder_tensors(sizes.tiny_vae), folder / "taew2_1.pth")
    config = sizes.transformer
    (wan / "config.json").write_text(json.dumps({"num_heads": config.heads, "eps": config.eps, "text_len": config.text_len}))
    return folder
