"""CLIP's visual tower, whose resizing is two products with constant matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.model.pretrained_image import CLIP_MEAN, CLIP_STD
from ...core.model.programs import PortraitEncoder


def resize_matrix(size: int, target: int) -> Tensor:
    """The [target, size] matrix that resizes one axis bicubically as torch does in float32, without antialiasing."""
    return F.interpolate(torch.eye(size)[None, None], size=(target, size), mode="bicubic", align_corners=False)[0, 0]


class PortablePortrait(nn.Module):
    """CLIP's visual tower for portraits of one size: resized by one matrix for the columns and one for the rows."""

    columns: Tensor
    rows: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, portrait: PortraitEncoder) -> None:
        super().__init__()
        encoder = portrait.encoder
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        constants = {
            "columns": resize_matrix(portrait.width, encoder.image_size),
            "rows": resize_matrix(portrait.height, encoder.image_size),
            "scale": 0.5 / std,
            "shift": (0.5 - mean) / std,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.patch_embedding, self.pre_norm, self.blocks = encoder.patch_embedding, encoder.pre_norm, encoder.blocks
        self.cls_embedding, self.pos_embedding = encoder.cls_embedding, encoder.pos_embedding

    def forward(self, portrait: Tensor) -> Tensor:
        """[1, 3, H, W] in [-1, 1] -> [1, 1 + patches, dim]."""
        x = F.linear(portrait, self.columns).transpose(2, 3)  # [1, 3, W', H]
        x = F.linear(x, self.rows).transpose(2, 3) * self.scale + self.shift
        x = self.patch_embedding(x)  # [1, dim, h, w]
        x = x.view(1, x.shape[1], x.shape[2] * x.shape[3]).transpose(1, 2)
        x = self.pre_norm(torch.cat([self.cls_embedding, x], 1) + self.pos_embedding)
        for block in self.blocks:
            x = block(x, attention_mask=None, causal_attention_mask=None)[0]
        return x
