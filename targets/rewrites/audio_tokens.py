"""preview's slices of audio tokens without a lookup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.model.conditions import AudioToTokens, token_slices


class PortableAudioToTokens(nn.Module):
    """preview's slices of audio tokens, cut and joined where the reference looks them up."""

    def __init__(self, audio: AudioToTokens) -> None:
        super().__init__()
        self.proj, self.norm = audio.proj, audio.norm

    def forward(self, features: Tensor, latent_frames: int, present: Tensor | None = None) -> Tensor:
        """[B, L, channels], present [B, L] -> [B, F·17, D]."""
        tokens = self.norm(self.proj(features))
        if present is not None:
            tokens = tokens * present.view(*present.shape, 1)
        parts = []
        for row in token_slices(tokens.shape[1], latent_frames):
            inside = [index for index in row if index >= 0]  # one behind the other
            parts.append(tokens[:, inside[0] : inside[-1] + 1])
            missing = len(row) - len(inside)
            if missing:
                parts.append(tokens[:, :missing] * 0.0)
        while len(parts) > 1:  # the backend joins no more than five at once
            parts = [torch.cat(parts[i : i + 4], 1) if len(parts) > i + 1 else parts[i] for i in range(0, len(parts), 4)]
        return parts[0]
