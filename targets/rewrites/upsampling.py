"""Nearest doubling and the convolution behind it as one transposed convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.model.tiny_vae import Grow, TinyVAE
from .tensors import frozen


class PortableUpsampling(nn.Module):
    """Nearest doubling and the 3×3 convolution behind it as one transposed convolution, [N, C, H, W] -> [N, out, 2H, 2W].

    A pixel of the doubled image sees two of the three low-resolution rows and columns around it, one of them with the sum of two
    taps. A transposed convolution of stride 2 and size 4 has just these: 4/9 of the products, and the doubled image never exists.
    """

    def __init__(self, conv: Any) -> None:
        super().__init__()
        # folds[p][k]: whether row k of the kernel is part of row p of the transposed one; output row 2i + a reads input row i + d
        # through p = a + 1 - 2d
        folds = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]).to(conv.weight)
        out, channels = conv.weight.shape[:2]
        self.conv = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1, bias=conv.bias is not None, device="meta")
        self.conv.weight = frozen(torch.einsum("pk,ockl,ql->copq", folds, conv.weight.detach(), folds).contiguous())
        if conv.bias is not None:
            self.conv.bias = frozen(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PortableGrow(nn.Module):
    """The tiny decoder's growth and the 3×3 convolution behind it: the doubling is folded as in `PortableUpsampling`."""

    def __init__(self, grow: Grow, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.frames, self.upsample = grow.stride, grow.conv, PortableUpsampling(conv)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.upsample(self.frames(x).reshape(n * self.stride, c, h, w))


def fold_growths(vae: TinyVAE) -> TinyVAE:
    """The tiny autoencoder with each growth and the convolution behind it as one module; in place. Layers keep their numbers."""
    layers: list[Any] = list(vae.decoder)
    for index, layer in enumerate(layers[:-1]):
        if isinstance(layer, Grow):
            vae.decoder[index] = PortableGrow(layer, layers[index + 1])
            vae.decoder[index + 1] = nn.Identity()
    return vae
