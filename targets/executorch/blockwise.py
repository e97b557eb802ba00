"""The transformer's programs, block by block: made on a machine that cannot hold the model in full precision.

1. parts     a block, the embedding, the head; a block's keys and values of a modality; the tokens before them (`targets/parts.py`)
2. prepare   one block at a time is read, made portable and quantised, and its full-precision copy freed
3. program   the parts in a row: `DenoiseOfParts` is the denoising step, `KeysValuesOfParts` a modality's keys and values
4. lower     stamped: one block per scheme is lowered, the others take its payload (`stamp.py`); or plain: all of it in one go

Both ways give the same numbers. Stamping leans on private layout; where its assertions fail it says so and the plain way is taken.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...core.config import ClipSpec
from ...core.errors import ExportError
from ...core.model.attention import CrossAttention, Modality
from ...core.model.conditions import Conditions
from ...core.model.transformer import Block, DiT, Head
from ...core.weights.source import Unit
from ...quantize.recipes import WeightRecipe
from ...quantize.weights import quantise
from ..base import Calls, Lowered
from ..parts import KeysValues, StepBlock, StepEmbed, StepHead, Tokens, blocks_of
from ..rewrites.hoist import NoisePatches, strip_block
from ..rewrites.portable import make_portable
from .backends import Backend
from .half_products import Products, products_in
from .lower import gelu_for
from .retraces import quick
from .stamp import Call, StampError, Template, call, lower_whole, scheme
from .storage import stored_weight

Way = Literal["auto", "stamped", "plain"]
Warn = Callable[[str], None]
_Parts = Iterator[tuple[str, nn.Module, nn.Module]]  # prefix of its layers' names, as it was read, and prepared
_SEED = 20250612  # of a template's random weights


# ---- 2. Preparing one part at a time --------------------------------------------------------------------------------------------


@dataclass
class Prepare:
    """Makes parts portable and quantises them, as `recipe` says for `program`; counts what it did."""

    program: str
    recipe: WeightRecipe
    layers: Counter[str] = field(default_factory=Counter)

    def __call__(self, part: nn.Module, prefix: str, samples: Sequence[Sequence[Any]] = ()) -> nn.Module:
        portable = make_portable(part, gelu=gelu_for(self.recipe, self.program, part, prefix))
        self.layers.update(quantise(portable, self.program, self.recipe, store=stored_weight, prefix=prefix, samples=samples))
        return portable

    def template(self, part: nn.Module, prefix: str) -> nn.Module:
        """As a part of this prefix is stored, with random weights that no other tensor shares by chance."""
        rules = tuple(rule.model_copy(update={"rounding": "nearest"}) for rule in self.recipe.rules)
        portable = make_portable(copy.deepcopy(part), gelu=gelu_for(self.recipe, self.program, part, prefix))
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            for parameter in portable.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        quantise(portable, self.program, self.recipe.model_copy(update={"rules": rules}), store=stored_weight, prefix=prefix)
        return portable


# ---- 3. Programs ----------------------------------------------------------------------------------------------------------------


class DenoiseOfParts(nn.Module):
    """The denoising step of its parts, modules or delegates; inputs and outputs as `core.model.programs.Denoise`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, embed: nn.Module, blocks: Iterable[nn.Module], head: nn.Module, rope: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = embed, nn.ModuleList(blocks), head
        self.register_buffer("cos", rope[0], persistent=False)
        self.register_buffer("sin", rope[1], persistent=False)

    def forward(
        self, latents: Tensor, time: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor
    ) -> tuple[Tensor, ...]:
        given = Conditions(*conditions)
        (before,) = self.embed(latents, given.patch_bias)
        x = before
        for index, block in enumerate(self.blocks):
            layer = given.layer(index)
            parts = (getattr(layer, f.name) for f in fields(layer))
            (x,) = block(x, modulation, self.cos, self.sin, modality_weights, given.audio_mask, *parts)
        return self.head(before, x, time)


class KeysValuesOfParts(nn.Module):
    """Keys and values of one modality, of its parts; inputs and outputs as the modules of `core.model.programs`."""

    def __init__(self, tokens: nn.Module, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.tokens, self.blocks = tokens, nn.ModuleList(blocks)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        (tokens,) = self.tokens(*given)
        per_block = [block(tokens) for block in self.blocks]
        return tuple(torch.cat([tensor.view(1, *tensor.shape) for tensor in column]) for column in zip(*per_block, strict=True))


# ---- 4. Lowering ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransformerParts:
    """A unit whose transformer streams, and how it is compiled. `samples`: calls of each block, for roundings that look at data:
    index -> argument lists of `Block.forward`. `external`: the data file that is to hold the weights. `products`: the type of
    products between activations (see `half_products`)."""

    unit: Unit
    recipe: WeightRecipe
    backend: Backend
    way: Way = "auto"
    external: str | None = None
    samples: Callable[[int], Calls] = lambda _: ()
    warn: Warn = warnings.warn
    products: Products = "fp32"

    @property
    def dit(self) -> DiT:
        assert self.unit.blocks is not None
        return self.unit.blocks

    @property
    def clip(self) -> ClipSpec:
        assert self.unit.clip is not None
        return self.unit.clip

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Examples by name."""
        return self.unit.methods["forward"].inputs


@quick()
def lower_unit(work: TransformerParts) -> Lowered:
    """The denoising step, or keys and values of a modality.

    Raises:
        ExportError: the backend refuses, or, stamped, takes a part in more than one piece.
    """
    if work.unit.role == "denoise":
        return _either(work, _denoise)
    modality = cast(Modality, work.unit.role.removesuffix("_conditions"))
    return _either(work, partial(_keys_values, modality=modality))


def _either(work: TransformerParts, lower: Callable[[TransformerParts, bool], Lowered]) -> Lowered:
    with products_in(work.products):
        if work.way == "plain":
            return lower(work, False)
        try:
            return lower(work, True)
        except StampError as error:
            if work.way == "stamped":
                raise
            work.warn(f"The quick way to compile does not work here: {error} The slow one is taken, which gives the same program.")
            return lower(work, False)


def quantised_step(work: TransformerParts) -> DenoiseOfParts:
    """The denoising step as it is compiled, portable and quantised, in PyTorch: what the compiled file is the same numbers as."""
    embed, blocks, head, rope = _step_parts(work, Prepare("denoise", work.recipe))
    return DenoiseOfParts(embed, [module for _, _, module in blocks], head, rope)


def _step_parts(work: TransformerParts, prepare: Prepare) -> tuple[nn.Module, _Parts, nn.Module, tuple[Tensor, Tensor]]:
    """Embedding, blocks (each made when it is asked for), head, and the rotary tables."""
    dit, clip, channels = work.dit, work.clip, work.dit.config.latent_channels
    embed = StepEmbed(prepare(NoisePatches(dit.patch_embedding, channels), "dit.patch_embedding."), channels)
    keeps = "residual" in work.unit.methods["forward"].outputs
    head = StepHead(prepare(cast(Head, dit.head), "dit.head."), clip, keeps)

    def blocks() -> _Parts:
        for index, block in enumerate(blocks_of(dit)):
            light, prefix = strip_block(block), f"dit.blocks.{index}."
            yield prefix, light, StepBlock(prepare(light, prefix, work.samples(index)))

    rope = dit.rope(torch.empty(1, channels, clip.latent_frames, clip.latent_height, clip.latent_width))
    return embed, blocks(), head, rope


def _denoise(work: TransformerParts, stamped: bool) -> Lowered:
    prepare, inputs, dim = Prepare("denoise", work.recipe), work.inputs, work.dit.config.dim
    embed, blocks, head, rope = _step_parts(work, prepare)
    if stamped:
        partitioner, x = work.backend.partitioner(), torch.zeros(1, work.clip.tokens, dim)
        layer = [inputs[name] for name in Conditions.names() if name not in ("patch_bias", "audio_mask")]
        one = [tensor if tensor.dim() == 2 else tensor[0] for tensor in layer]  # keys and values are stacked over blocks
        example = (x, inputs["modulation"], *rope, inputs["modality_weights"], inputs["audio_mask"], *one)
        parts: list[nn.Module] = [*_stamps(blocks, example, prepare, work, StepBlock)]
        embed = call(lower_whole(embed, (inputs["latents"], x), partitioner), work.external)
        head = call(lower_whole(head, (x, x, inputs["time"]), partitioner), work.external)
    else:
        parts = [module for _, _, module in blocks]
    return _finish(DenoiseOfParts(embed, parts, head, rope), prepare, work, stamped)


def _keys_values(work: TransformerParts, stamped: bool, modality: Modality) -> Lowered:
    prepare, inputs = Prepare(work.unit.role, work.recipe), [*work.inputs.values()]
    clip = work.unit.clip
    tokens = prepare(Tokens(work.dit, modality, clip.latent_frames if clip else 0), "dit.")

    def parts() -> _Parts:
        for index, block in enumerate(blocks_of(work.dit)):
            light, prefix = KeysValues(cast(CrossAttention, block.cross_attn), modality), f"dit.blocks.{index}.cross_attn."
            yield prefix, light, prepare(light, prefix)

    if not stamped:
        return _finish(KeysValuesOfParts(tokens, [module for _, _, module in parts()]), prepare, work, stamped)
    rows = work.unit.methods["forward"].output_specs()[0].shape[2]  # of [layers, 1, rows, D]
    blocks = _stamps(parts(), [torch.zeros(1, rows, work.dit.config.dim)], prepare, work, lambda part: part)
    tokens = call(lower_whole(tokens, inputs, work.backend.partitioner()), work.external)
    return _finish(KeysValuesOfParts(tokens, blocks), prepare, work, stamped)


def _stamps(
    parts: _Parts,
    example: Sequence[Tensor],
    prepare: Prepare,
    work: TransformerParts,
    wrap: Callable[[nn.Module], nn.Module],
) -> list[Call]:
    """Every part as a delegate: a template for each scheme and kind of block, stamped with each part's weights."""
    templates: dict[Any, Template] = {}
    calls = []
    for prefix, light, wrapped in parts:
        key = (_kind(light), scheme(wrapped))
        if key not in templates:
            templates[key] = Template(wrap(prepare.template(light, prefix)), example, work.backend.partitioner())
        calls.append(templates[key].stamp(wrapped, work.external))
    return calls


def _kind(block: nn.Module) -> bool:
    """What a block's graph depends on beside its tensors: whether its modalities are coupled."""
    return isinstance(block, Block) and bool(cast(CrossAttention, block.cross_attn).coupled)


def _finish(whole: nn.Module, prepare: Prepare, work: TransformerParts, stamped: bool) -> Lowered:
    from executorch.exir import EdgeCompileConfig, to_edge, to_edge_transform_and_lower

    config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(whole, tuple(work.inputs.values()), strict=False)
            if stamped:
                edge = to_edge(exported, compile_config=config)
            else:
                edge = to_edge_transform_and_lower(exported, partitioner=[work.backend.partitioner()], compile_config=config)
        except Exception as error:
            raise ExportError(f"{work.unit.role} could not be lowered to {work.backend.title}: {error}") from error
    program = edge.exported_program()
    return Lowered(work.unit.role, {"forward": program}, dict(prepare.layers))
