"""The patch embedding as matrix products."""

from __future__ import annotations

from torch import Tensor, nn

from ...core.model.transformer import PatchEmbedding, patchify
from .tensors import linear_of


class PortablePatchEmbedding(nn.Module):
    """The patch embedding as two matrix products: one for the noisy latents, one for mask and masked latents."""

    def __init__(self, patch: PatchEmbedding, noise_channels: int) -> None:
        super().__init__()
        dim, channels = patch.weight.shape[:2]
        self.noise = linear_of(patch.weight[:, :noise_channels].flatten(1), None)
        self.given = linear_of(patch.weight[:, noise_channels:].flatten(1), None)
        self.bias = patch.bias

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:  # noqa: ARG002 (the reference's signature)
        return (self.noise if first == 0 else self.given)(patchify(x))
