"""The sizes of everything in a checkpoint, and which tensors its files hold for them.

A layout is an `EncoderConfig`: names and shapes, and which other names are known and dropped. Those of transformer and VAE are read
off the modules themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import FLASH, ModelConfig, VAEConfig
from .pretrained import EncoderConfig, Shapes, weight_and_bias
from .pretrained_image import CLIP_VIT_H, PictureEncoderConfig
from .pretrained_speech import WAV2VEC2_BASE, SpeechEncoderConfig
from .pretrained_text import UMT5_XXL, PromptEncoderConfig
from .tiny_vae import TAEW, TinyVAEConfig
from .transformer import DiT
from .vae import VAE

ComponentName = Literal["transformer", "vae", "clip", "wav2vec2", "text_encoder", "tokenizer", "tiny_vae"]
M = TypeVar("M", bound=nn.Module)


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what only sets values: on the meta device, which has none, it would still load torch's compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.div, Tensor.mul_):
            return args[0]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def skeleton(kind: Callable[[Any], M], config: Any) -> M:
    """A module of this configuration whose tensors take no memory."""
    with torch.device("meta"), _NoInitialisation():
        return kind(config)


class TransformerLayout(EncoderConfig):
    """The transformer's tensors, as the module names them; the released flash's `q_audio` pairs are known and dropped."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.title = f"{config.variant} transformer"

    @cached_property
    def _shapes(self) -> Shapes:
        return {name: tuple(tensor.shape) for name, tensor in skeleton(DiT, self.config).state_dict().items()}

    @cached_property
    def dead(self) -> Shapes:
        """Tensors of the released file that are never used."""
        if not self.config.audio_path.dead_queries:
            return {}
        dim = self.config.dim
        shapes: Shapes = {}
        for index in range(self.config.layers):
            shapes[f"blocks.{index}.cross_attn.q_audio.weight"] = (dim, dim)
            shapes[f"blocks.{index}.cross_attn.q_audio.bias"] = (dim,)
        return shapes

    def tensors(self) -> Shapes:
        return self._shapes

    def ignored(self, name: str) -> str | None:
        return "q_audio is dead weight: upstream computes and discards it" if name in self.dead else None


class VAELayout(EncoderConfig):
    title = "VAE"

    def __init__(self, config: VAEConfig) -> None:
        self.config = config

    @cached_property
    def _shapes(self) -> Shapes:
        return {name: tuple(tensor.shape) for name, tensor in skeleton(VAE, self.config).state_dict().items()}

    def tensors(self) -> Shapes:
        return self._shapes


@dataclass(frozen=True)
class TextTowerConfig:
    """CLIP's text tower, XLM-RoBERTa large by default: in the released file, and never used."""

    vocab: int = 250002
    dim: int = 1024
    layers: int = 24
    mlp_dim: int = 4096
    positions: int = 514
    out_dim: int = 1024

    def tensors(self) -> Shapes:
        dim, middle = self.dim, (self.dim + self.out_dim) // 2
        shapes: Shapes = {
            "token_embedding.weight": (self.vocab, dim), "type_embedding.weight": (1, dim),
            "pos_embedding.weight": (self.positions, dim),
        } | weight_and_bias("norm", dim)  # fmt: skip
        for index in range(self.layers):
            for part in ("q", "k", "v", "o"):
                shapes |= weight_and_bias(f"blocks.{index}.attn.{part}", dim, dim)
            shapes |= weight_and_bias(f"blocks.{index}.norm1", dim) | weight_and_bias(f"blocks.{index}.norm2", dim)
            shapes |= weight_and_bias(f"blocks.{index}.ffn.0", self.mlp_dim, dim)
            shapes |= weight_and_bias(f"blocks.{index}.ffn.2", dim, self.mlp_dim)
        return shapes | {"head.0.weight": (middle, dim), "head.2.weight": (self.out_dim, middle)}


@dataclass(frozen=True)
class Architecture:
    """The sizes of everything in a checkpoint."""

    transformer: ModelConfig = FLASH
    text_encoder: PromptEncoderConfig = UMT5_XXL
    clip: PictureEncoderConfig = CLIP_VIT_H
    clip_text: TextTowerConfig = TextTowerConfig()
    wav2vec2: SpeechEncoderConfig = WAV2VEC2_BASE
    tiny_vae: TinyVAEConfig = TAEW

    def layout(self, name: ComponentName) -> EncoderConfig | None:
        """What a component's files hold; None for the tokenizer, which is no tensors."""
        layouts: dict[ComponentName, EncoderConfig] = {
            "transformer": TransformerLayout(self.transformer), "vae": VAELayout(self.transformer.vae), "clip": self.clip,
            "wav2vec2": self.wav2vec2, "text_encoder": self.text_encoder, "tiny_vae": self.tiny_vae,
        }  # fmt: skip
        return layouts.get(name)
