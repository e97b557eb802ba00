"""The transformer's programs from blocks that come one at a time, in files that phones take.

A block is read, rewritten, rounded and packed before the next one comes. The denoising step is cut between blocks where a file
would be too large: its parts hand on `tokens`, and the first one also `embedded` where a plan keeps what the blocks add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ...core.model.attention import CrossAttention, Modality
from ...core.model.conditions import Conditions
from ...core.model.programs import EntryPoint
from ...core.model.transformer import DiT
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ...quantize.weights import quantise
from ..base import Calls, Fitting, Precision
from ..parts import KeysValues, StepBlock, StepEmbed, StepHead, Tokens, blocks_of
from ..rewrites.fused import make_fused
from ..rewrites.hoist import NoisePatches, strip_block
from ..stored_weight import stored_weight
from .asset import Part, in_type
from .storage import held_by, settle

TOKENS, EMBEDDED = "tokens", "embedded"
_ALWAYS = ("modulation", "modality_weights", *(name for name in Conditions.names() if name != "patch_bias"))  # what blocks read


class StepPart(nn.Module):
    """Some blocks of the step in a row, the `first` of them counted from 0; the embedding before them and the head behind them,
    where they are the first and the last ones. Inputs have the names `takes`, outputs `gives`."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        rope: tuple[Tensor, Tensor],
        first: int,
        blocks: Sequence[nn.Module],
        embed: nn.Module | None,
        head: StepHead | None,
        keep: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("cos", rope[0], persistent=False)
        self.register_buffer("sin", rope[1], persistent=False)
        self.first, self.blocks, self.embed, self.head = first, nn.ModuleList(blocks), embed, head
        before = (EMBEDDED,) if head is not None and embed is None and keep else ()
        entry = ("latents", "patch_bias") if embed is not None else (TOKENS, *before)
        self.takes = (*entry, *(("time",) if head is not None else ()), *_ALWAYS)
        if head is not None:
            self.gives: tuple[str, ...] = ("velocity", "residual") if keep else ("velocity",)
        else:
            self.gives = (TOKENS, EMBEDDED) if embed is not None and keep else (TOKENS,)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.takes, tensors, strict=True))
        if self.embed is not None:
            (x,) = self.embed(given["latents"], given["patch_bias"])
            before = x
        else:
            x = given[TOKENS]
            before = given.get(EMBEDDED, x)
        conditions = Conditions(**{name: given.get(name, x) for name in Conditions.names()})
        for index, block in enumerate(self.blocks, self.first):
            layer = conditions.layer(index)
            (x,) = block(x, given["modulation"], self.cos, self.sin, given["modality_weights"], given["audio_mask"], *_flat(layer))
        if self.head is not None:
            return self.head(before, x, given["time"])
        return (x, before) if EMBEDDED in self.gives else (x,)


def _flat(layer: object) -> tuple[Tensor, ...]:
    return tuple(vars(layer).values())


class KeysValuesPart(nn.Module):
    """Keys and values of one modality in every block; inputs and outputs as the modules of `core.model.programs`."""

    def __init__(self, tokens: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tokens, self.blocks = tokens, nn.ModuleList(blocks)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        (tokens,) = self.tokens(*given)
        return tuple(torch.stack(column) for column in zip(*(block(tokens) for block in self.blocks), strict=True))


@dataclass(frozen=True)
class Streamed:
    """What a unit whose transformer streams is compiled of. `layers` counts what got which weights, as parts are asked for;
    `most`: bytes of a file's weights, where it can be cut."""

    unit: Unit
    recipe: WeightRecipe
    precision: Precision
    fitting: Fitting
    layers: Counter[str]
    most: int

    @property
    def dit(self) -> DiT:
        assert self.unit.blocks is not None
        return self.unit.blocks

    @property
    def entry(self) -> EntryPoint:
        return self.unit.methods["forward"]

    def parts(self) -> Iterator[Part]:
        """One at a time; what the last one held is free when the next one is asked for."""
        return self._step() if self.unit.role == "denoise" else self._keys_values()

    def _packed(self, part: nn.Module, prefix: str, samples: Calls = ()) -> nn.Module:
        fused = make_fused(part)
        self.layers.update(quantise(fused, self.unit.role, self.recipe, store=stored_weight, prefix=prefix, samples=samples))
        return in_type(settle(fused), self.precision)

    def _step(self) -> Iterator[Part]:
        clip, config = self.unit.made_for, self.dit.config
        channels, keep = config.latent_channels, "residual" in self.entry.outputs
        patches = self._packed(NoisePatches(self.dit.patch_embedding, channels), "dit.patch_embedding.")
        embed: nn.Module | None = StepEmbed(patches, channels)
        head = StepHead(self._packed(self.dit.head, "dit.head."), clip, keep)
        rope = self.dit.rope(torch.empty(1, channels, clip.latent_frames, clip.latent_height, clip.latent_width))
        first, held, size = 0, list[nn.Module](), 0
        for index, block in enumerate(blocks_of(self.dit)):
            prefix = f"dit.blocks.{index}."
            made = StepBlock(self._packed(strip_block(block), prefix, self.fitting.of_block(index)))
            bytes_of = held_by(made).bytes
            if held and size + bytes_of > self.most:
                yield self._part(StepPart(rope, first, held, embed, None, keep))
                first, held, size, embed = index, [], 0, None
            held.append(made)
            size += bytes_of
        yield self._part(StepPart(rope, first, held, embed, head, keep))

    def _part(self, module: StepPart) -> Part:
        shape = (1, self.unit.made_for.tokens, self.dit.config.dim)
        made = {name: torch.zeros(shape) for name in (TOKENS, EMBEDDED)}  # not the same one: torch would take it for one input
        known = {**made, **self.entry.inputs}
        return Part(module, {name: known[name] for name in module.takes}, module.gives)

    def _keys_values(self) -> Iterator[Part]:
        modality = cast(Modality, self.unit.role.removesuffix("_conditions"))
        tokens = self._packed(Tokens(self.dit, modality, self.unit.made_for.latent_frames), "dit.")
        blocks = [
            self._packed(KeysValues(cast(CrossAttention, block.cross_attn), modality), f"dit.blocks.{index}.cross_attn.")
            for index, block in enumerate(blocks_of(self.dit))
        ]
        yield Part(KeysValuesPart(tokens, blocks), self.entry.inputs, self.entry.outputs)
