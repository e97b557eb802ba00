"""Programs whose clip's shape is that of their inputs: what the reference keeps as constants of one shape is cut out of tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.config import PATCH
from ...core.model.attention import rope_angles
from ...core.model.conditions import Conditions
from ...core.model.programs import Denoise, DenoiseReusing
from ...core.model.transformer import DiT
from ..rewrites.whole import picture_of

POSITIONS = 1024  # of frames, rows and columns of tokens: clips of 4,093 frames and 16,384 pixels


class AnyRope(nn.Module):
    """Rotary tables of a clip of any shape, cosines and sines, float32 [N, d/2]: one table for each axis, as the reference has."""

    def __init__(self, head_dim: int, positions: int = POSITIONS) -> None:
        super().__init__()
        corner = rope_angles(head_dim, 2, 2, 2).view(2, 2, 2, -1)
        moving = (corner[1, 0, 0] != 0, corner[0, 1, 0] != 0, corner[0, 0, 1] != 0)  # the columns of each axis, in their order
        for axis, columns in enumerate(moving):
            sizes = [positions if other == axis else 1 for other in range(3)]
            angles = rope_angles(head_dim, sizes[0], sizes[1], sizes[2])[:, columns]
            self.register_buffer(f"cos_{axis}", angles.cos().float())
            self.register_buffer(f"sin_{axis}", angles.sin().float())

    def _apply(self, fn: Any, recurse: bool = True) -> AnyRope:
        return self  # float32, whatever the model around it is made

    def forward(self, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        shape = (frames, rows, columns)

        def table(kind: str) -> Tensor:
            parts = []
            for axis, size in enumerate(shape):
                part: Tensor = getattr(self, f"{kind}_{axis}")
                ones = [size if other == axis else 1 for other in range(3)]
                parts.append(part[:size].reshape(*ones, part.shape[1]).expand(*shape, part.shape[1]))
            return torch.cat(parts, -1).reshape(frames * rows * columns, -1)

        return table("cos"), table("sin")


class AnyDenoise(nn.Module):
    """`core.model.programs.Denoise` for clips of any shape; inputs and outputs are the same."""

    def __init__(self, dit: DiT, keep_residual: bool) -> None:
        super().__init__()
        self.dit, self.keep_residual = dit, keep_residual
        self.rope = AnyRope(dit.config.head_dim)

    def forward(
        self, latents: Tensor, time: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        given = Conditions(*conditions)
        _, channels, frames, height, width = latents.shape
        rows, columns = height // PATCH, width // PATCH
        torch._check(given.patch_bias.shape[1] == frames * rows * columns)
        torch._check(given.audio_mask.shape[1] == rows * columns)
        x = self.dit.patch_embedding(latents, 0, channels) + given.patch_bias
        y = self.dit.run_blocks(x, modulation, modality_weights, given, self.rope(frames, rows, columns))
        velocity = picture_of(self.dit.head(y, time), frames, rows, columns)
        return (velocity, y - x) if self.keep_residual else velocity


class AnyReusing(nn.Module):
    """`core.model.programs.DenoiseReusing` for clips of any shape."""

    def __init__(self, program: DenoiseReusing) -> None:
        super().__init__()
        self.patch_embedding, self.head, self.channels = program.patch_embedding, program.head, program.channels

    def forward(self, latents: Tensor, time: Tensor, residual: Tensor, patch_bias: Tensor) -> Tensor:
        frames, rows, columns = latents.shape[2], latents.shape[3] // PATCH, latents.shape[4] // PATCH
        torch._check(patch_bias.shape[1] == frames * rows * columns)
        torch._check(residual.shape[1] == frames * rows * columns)
        x = self.patch_embedding(latents, 0, self.channels) + patch_bias + residual
        return picture_of(self.head(x, time), frames, rows, columns)


def any_shape(module: Any) -> nn.Module:
    """What stands in for a program's module so that it takes clips of any shape; itself, where it does already."""
    if isinstance(module, Denoise):
        return AnyDenoise(module.dit, module.keep_residual)
    if isinstance(module, DenoiseReusing):
        return AnyReusing(module)
    found: nn.Module = module
    return found
