"""CLIP ViT-H/14's visual tower, the released encoder of portraits: picture [B, 3, H, W] in [-1, 1] -> tokens [B, 257, 1280]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .pretrained import EncoderConfig, Shapes, assign, require_counts, weight_and_bias

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PICTURE_BLOCK = {  # released name -> the library's
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}


@dataclass(frozen=True)
class PictureEncoderConfig(EncoderConfig):
    """CLIP's visual tower, ViT-H/14 by default. `layers` counts those of the released file; the last one is never executed."""

    image_size: int = 224
    patch: int = 14
    dim: int = 1280
    heads: int = 16
    layers: int = 32
    mlp_dim: int = 5120
    eps: float = 1e-5

    title = "picture encoder (CLIP)"

    def __post_init__(self) -> None:
        require_counts(self, "image_size", "patch", "dim", "heads", "layers", "mlp_dim")
        if self.dim % self.heads:
            raise ConfigError(f"dim {self.dim} does not divide into {self.heads} heads.")
        if self.image_size < self.patch:
            raise ConfigError(f"image_size {self.image_size} is smaller than one patch of {self.patch}.")

    @property
    def tokens(self) -> int:
        """One for the class and one for each patch."""
        return 1 + (self.image_size // self.patch) ** 2

    def tensors(self) -> Shapes:
        dim = self.dim
        block = (
            weight_and_bias("norm1", dim)
            | weight_and_bias("attn.to_qkv", 3 * dim, dim)
            | weight_and_bias("attn.proj", dim, dim)
            | weight_and_bias("norm2", dim)
            | weight_and_bias("mlp.0", self.mlp_dim, dim)
            | weight_and_bias("mlp.2", dim, self.mlp_dim)
        )
        shapes: Shapes = {
            "visual.cls_embedding": (1, 1, dim),
            "visual.pos_embedding": (1, self.tokens, dim),
            "visual.patch_embedding.weight": (dim, 3, self.patch, self.patch),
        } | weight_and_bias("visual.pre_norm", dim)
        for index in range(self.layers - 1):
            shapes |= {f"visual.transformer.{index}.{name}": shape for name, shape in block.items()}
        return shapes

    def ignored(self, name: str) -> str | None:
        if name == "log_scale" or name.startswith("textual."):
            return "it belongs to the text tower, which is not used"
        if name.startswith((f"visual.transformer.{self.layers - 1}.", "visual.post_norm.")) or name == "visual.head":
            return "it lies behind the tokens, which are taken before the last block"
        return None

    def build(self, tensors: Mapping[str, Tensor]) -> PictureEncoder:
        self.require_exactly(tensors)
        state = {}
        for name, tensor in tensors.items():
            name = name.removeprefix("visual.")
            if not name.startswith("transformer."):
                state[name] = tensor
                continue
            _, index, rest = name.split(".", 2)
            layer, kind = rest.rsplit(".", 1)
            if layer == "attn.to_qkv":
                for part, view in zip(("q_proj", "k_proj", "v_proj"), tensor.chunk(3), strict=True):
                    state[f"blocks.{index}.self_attn.{part}.{kind}"] = view
            else:
                state[f"blocks.{index}.{_PICTURE_BLOCK[layer]}.{kind}"] = tensor
        return assign(PictureEncoder, self, state)


CLIP_VIT_H = PictureEncoderConfig()


class PictureEncoder(nn.Module):
    def __init__(self, config: PictureEncoderConfig) -> None:
        from transformers import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPEncoderLayer

        super().__init__()
        library = CLIPVisionConfig(
            hidden_size=config.dim, intermediate_size=config.mlp_dim, num_attention_heads=config.heads, hidden_act="gelu",
            layer_norm_eps=config.eps, attention_dropout=0.0, attn_implementation="sdpa",
        )  # fmt: skip
        self.image_size = config.image_size
        self.patch_embedding = nn.Conv2d(3, config.dim, config.patch, config.patch, bias=False)
        self.cls_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.pre_norm = nn.LayerNorm(config.dim, config.eps)
        self.blocks = nn.ModuleList(CLIPEncoderLayer(library) for _ in range(config.layers - 1))

    def preprocess(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, 3, image_size, image_size], float32, of CLIP's mean and deviation.

        Resized bicubically without antialiasing, whatever the aspect, as in training.
        """
        x = F.interpolate(picture.float(), size=(self.image_size, self.image_size), mode="bicubic", align_corners=False)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return (x * 0.5 + 0.5 - mean) / std

    def forward(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> [B, 1 + patches, dim], neither normalised nor projected."""
        x = self.patch_embedding(self.preprocess(picture).to(self.patch_embedding.weight.dtype))
        x = x.flatten(2).transpose(1, 2)  # [B, patches, dim]
        x = self.pre_norm(torch.cat([self.cls_embedding.expand(x.shape[0], 1, -1), x], 1) + self.pos_embedding)
        for block in self.blocks:
            x = block(x, attention_mask=None, causal_attention_mask=None)[0]
        return x
