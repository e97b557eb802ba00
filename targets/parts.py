"""Parts of the transformer's programs that are compiled one at a time, each with flat inputs: a block, the embedding, the head; a
block's keys and values of a modality; the tokens before them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from ..core.config import ClipSpec
from ..core.model.attention import PROJECTIONS, CrossAttention, LayerConditions, Modality
from ..core.model.transformer import Block, DiT, unpatchify


class StepEmbed(nn.Module):
    """latents [1, 16, F, h, w] and patch bias [1, N, D] -> tokens [1, N, D]."""

    def __init__(self, patches: nn.Module, channels: int) -> None:
        super().__init__()
        self.patches, self.channels = patches, channels

    def forward(self, latents: Tensor, patch_bias: Tensor) -> tuple[Tensor, ...]:
        return (self.patches(latents, 0, self.channels) + patch_bias,)


class StepBlock(nn.Module):
    """A block whose inputs are tensors alone: tokens, modulation, rotary tables, what it attends to, modality weights, mask."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, x: Tensor, modulation: Tensor, cos: Tensor, sin: Tensor, modality_weights: Tensor, audio_mask: Tensor, *layer: Tensor
    ) -> tuple[Tensor, ...]:
        b, _, f = modality_weights.shape
        text, image, audio = (modality_weights[:, i : i + 1].reshape(b, f, 1, 1) for i in range(3))
        weights = (text, image, audio * audio_mask.view(b, 1, -1, 1))
        return (self.block(x, modulation, (cos, sin), LayerConditions(*layer), weights),)


class StepHead(nn.Module):
    """Tokens before and after the blocks, time [1, D] -> velocity [1, 16, F, h, w], and what the blocks added where it is kept."""

    def __init__(self, head: nn.Module, clip: ClipSpec, keep_residual: bool) -> None:
        super().__init__()
        self.head, self.keep_residual = head, keep_residual
        self.shape = (clip.latent_frames, clip.latent_height, clip.latent_width)

    def forward(self, before: Tensor, after: Tensor, time: Tensor) -> tuple[Tensor, ...]:
        velocity = unpatchify(self.head(after, time), *self.shape)
        return (velocity, after - before) if self.keep_residual else (velocity,)


class KeysValues(nn.Module):
    """A block's keys and values of one modality alone, under the names that they have in its cross-attention."""

    def __init__(self, attention: CrossAttention, modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        for name in PROJECTIONS[modality]:
            setattr(self, name, getattr(attention, name))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return CrossAttention.keys_values(cast(CrossAttention, self), self.modality, tokens)


class Tokens(nn.Module):
    """What the model gives of one modality [, and which rows of it are there] -> tokens; the embedding has the model's name."""

    EMBEDDINGS: dict[Modality, tuple[str, ...]] = {
        "text": ("text_embedding",), "image": ("img_emb",), "audio": ("audio_injection", "audio2token"),
    }  # fmt: skip

    def __init__(self, dit: DiT, modality: Modality, latent_frames: int) -> None:
        super().__init__()
        self.name = next(name for name in self.EMBEDDINGS[modality] if hasattr(dit, name))
        setattr(self, self.name, getattr(dit, self.name))
        self.latent_frames = latent_frames

    def forward(self, given: Tensor, *present: Tensor) -> tuple[Tensor, ...]:
        embed = getattr(self, self.name)
        return (embed(given, self.latent_frames, *present) if self.name == "audio2token" else embed(given),)


def blocks_of(dit: DiT) -> Iterator[Block]:
    """The blocks one at a time; a streamed transformer's are freed when the next one is asked for."""
    return (cast(Block, block) for block in dit.blocks)
