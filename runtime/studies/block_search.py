"""Sensitivity of a released checkpoint, a block at a time: for models that no mouth metric judges and no small machine holds.

Each block is read from its file, given the full-precision tokens of the block before, and run with one of its layers quantised. The
error is that of the tokens behind the block, of the guided mixture of its branches and of their guided direction, relative to the
tokens' own energy: what a block adds to the residual stream, later blocks pass on. Beside it stands what rounding depends on: how
large the layers' inputs are, and how much larger their largest channels.

Inputs are noise latents at several of the plan's timesteps under drawn conditions. Half of the timesteps calibrate GPTQ, the other
half measure it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.bundle import Hearing
from ...core.config import ClipSpec, ModelConfig
from ...core.errors import ConfigError
from ...core.files import file_sha256
from ...core.metrics.guidance import guidance_error
from ...core.model.architecture import TransformerLayout
from ...core.model.attention import PROJECTIONS, CrossAttention, LayerConditions
from ...core.model.programs import given_examples
from ...core.model.transformer import Block, DiT
from ...core.plan import SamplingPlan, noise
from ...core.weights.checkpoints import Checkpoint
from ...core.weights.streamed import stream_transformer
from ...quantize.recipes import HIGH, Rule, WeightRecipe
from ...quantize.roundings.gptq import WIDEST
from ...quantize.search import Journal, recipe_of, smallest_within
from ...quantize.weights import input_moments, linear_layers, quantise_layer
from ...targets.executorch.storage import stored_weight
from ...targets.rewrites.portable import make_portable
from .recipe_search import SEARCHED, Goal, best_of_size, options_of, predicted, rounding_of, schemes_of
from .sensitivity import decibels

TEXT_ROWS = 64
CONDITIONS = ("k", "v", "k_img", "v_img", "k_audio", "v_audio")  # layers of a block that run once per clip

Progress = Callable[[int, int], None]


class BlockWithConditions(nn.Module):
    """A block with the keys and values that it attends to: tokens [B, N, D] -> [B, N, D]."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, x: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor], tokens: Sequence[Tensor], weights: tuple[Tensor, ...]
    ) -> Tensor:
        attention = cast(CrossAttention, self.block.cross_attn)
        text, image, audio = (attention.keys_values(modality, rows) for modality, rows in zip(PROJECTIONS, tokens, strict=True))
        layer = LayerConditions(*text, text[0].new_zeros(text[0].shape[:2]), *image, *audio)
        return self.block(x, modulation, rope, layer, weights)


@dataclass(frozen=True)
class Inputs:
    """Everything but the blocks themselves, for a batch of (step, branch) in the plan's order."""

    places: tuple[tuple[int, int], ...]
    x: Tensor  # tokens before the first block [B, N, D]
    modulation: Tensor
    rope: tuple[Tensor, Tensor]
    tokens: tuple[Tensor, ...]  # of text, image, audio
    weights: tuple[Tensor, Tensor, Tensor]

    def arguments(self, x: Tensor, rows: Sequence[int]) -> tuple[Any, ...]:
        """Of `BlockWithConditions`, for some of the batch."""
        index = torch.tensor(list(rows))

        def some(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(tensor[index] for tensor in tensors)

        return x[index], self.modulation[index], self.rope, some(self.tokens), some(self.weights)


@torch.no_grad()
def drawn_inputs(dit: DiT, plan: SamplingPlan, clip: ClipSpec, steps: Sequence[int]) -> Inputs:
    """Noise latents of these steps under conditions of normal values, one clip, every branch of the plan."""
    config = dit.config
    given = given_examples(config, clip, TEXT_ROWS)
    text, image, audio = (given[name] for name in ("text", "image", "audio"))
    first, patch_bias = config.latent_channels, dit.patch_bias(given["y"])
    by_branch = []
    for branch in plan.branches:
        sound = torch.from_numpy(branch.hear(audio.numpy(), rows_per_frame=Hearing.of(config).rows_per_frame))
        heard = dit.audio_tokens(sound, clip.latent_frames)
        by_branch.append((dit.text_embedding(text * branch.text_scale), dit.img_emb(image * float(branch.image)), heard))
    _, modulation = dit.step_tables(torch.tensor(plan.timesteps, dtype=torch.float64))
    places = tuple((step, branch) for step in steps for branch in plan.evaluated(step))
    shape = (first, clip.latent_frames, clip.latent_height, clip.latent_width)
    latents = {step: torch.from_numpy(noise(step, shape))[None] for step in steps}
    x = torch.cat([dit.patch_embedding(latents[step], 0, first) + patch_bias for step, _ in places])
    count = len(places)
    tokens = tuple(torch.cat(column) for column in zip(*(by_branch[branch] for _, branch in places), strict=True))
    modality = torch.stack([torch.from_numpy(plan.modality(step, clip.latent_frames)) for step, _ in places])  # [B, 3, F]
    mix = tuple(modality[:, kind].view(count, -1, 1, 1) for kind in range(3))
    rows = torch.stack([modulation[step] for step, _ in places])
    return Inputs(places, x, rows, dit.rope(latents[steps[0]]), tokens, cast(tuple[Tensor, Tensor, Tensor], mix))


def layer_name(index: int, name: str) -> str:
    """A block's layer as rules know it: `program/module`."""
    parent, _, last = name.rpartition(".")
    program = "encode_conditions" if parent == "cross_attn" and last in CONDITIONS else "denoise"
    return f"{program}/dit.blocks.{index}.{name}"


def statistics(x: Tensor) -> dict[str, float]:
    """Of a layer's inputs [..., channels]: root mean square, largest magnitude over it, strongest channel over the median one."""
    flat = x.reshape(-1, x.shape[-1])
    channels = flat.square().mean(0).sqrt()
    rms = float(flat.square().mean().sqrt())
    return {
        "input_rms": rms,
        "input_peak": float(flat.abs().max()) / max(rms, 1e-12),
        "channel_spread": float(channels.max()) / max(float(channels.median()), 1e-12),
    }


def memory_needed(config: ModelConfig, clip: ClipSpec) -> int:
    """Bytes at the most, float32: what lies outside the blocks, a block and its rounded copies, moments of its inputs, and the
    activations of the batch."""
    count = {name: math.prod(shape) for name, shape in TransformerLayout(config).tensors().items()}
    outside = sum(size for name, size in count.items() if not name.startswith("blocks."))
    block = sum(size for name, size in count.items() if name.startswith("blocks.0."))
    moments = sum(min(width, WIDEST) * width for width in (config.ffn_dim, *[config.dim] * 13))
    batch = 8 * clip.tokens * (6 * config.dim + 3 * config.ffn_dim)
    return 4 * (outside + 3 * block + 3 * moments + batch)


def checkpoint_basis(checkpoint: Checkpoint, plan: SamplingPlan, clip: ClipSpec, group: int, config: ModelConfig) -> dict[str, Any]:
    """What measurements of a checkpoint depend on."""
    files = {file.path for source in checkpoint.sources("transformer", TransformerLayout(config)) for file in source.files}
    return {
        "model": sorted(file_sha256(path) for path in files), "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "clip": asdict(clip), "group": group, "schemes": list(SEARCHED),
    }  # fmt: skip


def wanted_blocks(config: ModelConfig, blocks: Sequence[int] | None) -> list[int]:
    """The blocks asked for, in order; None: all.

    Raises:
        ConfigError: there is no such block.
    """
    wanted = sorted(set(range(config.layers) if blocks is None else blocks))
    if not wanted or not 0 <= wanted[0] <= wanted[-1] < config.layers:
        raise ConfigError(f"--blocks is {wanted}; the model has blocks 0 to {config.layers - 1}.")
    return wanted


@torch.no_grad()
def measure_blocks(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: SamplingPlan,
    clip: ClipSpec,
    journal: Journal,
    group: int,
    blocks: Sequence[int] | None = None,
    progress: Progress = lambda *_: None,
) -> None:
    """Fills the journal with the layers of `blocks` (all by default); what it has is not measured again.

    Blocks are run in turn up to the last one asked for, a block of the file in memory at a time.

    Raises:
        ConfigError: there is no such block.
    """
    wanted = wanted_blocks(config, blocks)
    dit = stream_transformer(checkpoint, config)
    steps = range(0, plan.steps, max(1, plan.steps // 4))  # four of them, alternately measuring and calibrating
    inputs = drawn_inputs(dit, plan, clip, list(steps))
    measuring = [row for row, (step, _) in enumerate(inputs.places) if list(steps).index(step) % 2 == 0]
    calibrating = [row for row in range(len(inputs.places)) if row not in measuring] or measuring
    x = inputs.x
    for index, block in enumerate(dit.blocks):
        if index > wanted[-1]:
            break
        whole = cast(BlockWithConditions, make_portable(BlockWithConditions(cast(Block, block))))
        everything = range(len(inputs.places))
        if index in wanted:
            _measure_block(whole, index, x, inputs, measuring, calibrating, plan, journal, group)
            progress(wanted.index(index) + 1, len(wanted))
        x = whole(*inputs.arguments(x, everything))


def _measure_block(
    whole: BlockWithConditions,
    index: int,
    x: Tensor,
    inputs: Inputs,
    measuring: Sequence[int],
    calibrating: Sequence[int],
    plan: SamplingPlan,
    journal: Journal,
    group: int,
) -> None:
    layers = {name.removeprefix("block."): layer for name, layer in linear_layers(whole).items()}
    names = {name: layer_name(index, name) for name in layers}
    missing = {
        name: [weights for weights in schemes_of(layer.in_features, group) if f"{names[name]} {weights}" not in journal]
        for name, layer in layers.items()
    }
    if not any(missing.values()):
        return
    arguments = inputs.arguments(x, measuring)
    places = [inputs.places[row] for row in measuring]
    seen: dict[str, dict[str, float]] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, statistics(args[0])))
        for name, layer in layers.items()
    ]
    full = whole(*arguments)
    for handle in handles:
        handle.remove()
    moments = input_moments(whole, layers, [inputs.arguments(x, calibrating)])
    rows = [plan.guidance[step] for step in sorted({step for step, _ in places})]

    def by_step(tokens: Tensor) -> list[dict[int, Any]]:
        steps: dict[int, dict[int, Any]] = {}
        for (step, branch), values in zip(places, tokens, strict=True):
            steps.setdefault(step, {})[branch] = values.numpy()
        return [steps[step] for step in sorted(steps)]

    reference = by_step(full)
    for name, layer in layers.items():
        weight = layer.weight
        for weights in missing[name]:
            rule = Rule(weights=weights, group=group, rounding=rounding_of(names[name], weights))
            quantise_layer(layer, rule, stored_weight, moments[name])
            error = guidance_error(rows, reference, by_step(whole(*arguments)))
            layer.weight = weight
            size = {"outputs": layer.out_features, "inputs": layer.in_features}
            journal.add(f"{names[name]} {weights}", asdict(error) | size | seen[name])


# ---- choosing --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundForBlocks:
    """A recipe from sums over layers alone; nothing was run whole. `measured`: of how many layers."""

    recipe: WeightRecipe
    bytes: int
    predicted_db: float
    measured: int
    layers: int
    schemes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bytes": self.bytes, "predicted_db": round(self.predicted_db, 2), "measured_layers": self.measured,
            "layers": self.layers, "schemes": dict(self.schemes),
        }  # fmt: skip


_LAYER = re.compile(r"(?P<program>\w+)/dit\.blocks\.(?P<block>\d+)\.(?P<name>.+) (?P<weights>\w+)")


def spread(journal: Journal, layers: int) -> dict[str, dict[str, Any]]:
    """The journal's measurements for every block of a model of `layers`: blocks that were left out take the nearest one's."""
    known: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for key in journal:
        match = _LAYER.fullmatch(key)
        if match is not None:
            known.setdefault((match["program"], match["name"], match["weights"]), {})[int(match["block"])] = journal[key]
    return {
        f"{program}/dit.blocks.{block}.{name} {weights}": found[min(found, key=lambda b: (abs(b - block), b))]
        for (program, name, weights), found in known.items()
        for block in range(layers)
    }


def find_for_blocks(journal: Journal, layers: int, goal: Goal, group: int, name: str) -> FoundForBlocks:
    """Chooses from the measurements; what lies outside the blocks is stored as the presets store it.

    Raises:
        ConfigError: the target cannot be reached, or asks for a mouth.
    """
    if goal.share is not None:
        raise ConfigError("--target-share needs a model that metrics of the mouth can judge; take --target-db or --max-bytes.")
    found = spread(journal, layers)
    sizes = {key.rpartition(" ")[0]: (value["outputs"], value["inputs"]) for key, value in found.items()}
    if goal.most_bytes is not None:
        choice = best_of_size(sizes, found, group, goal.most_bytes)
    else:
        assert goal.db is not None
        choice = smallest_within(options_of(sizes, found, group, {"guided": 1.0}), 10 ** (-goal.db / 10))
    recipe = recipe_of(name, choice, group, rounding_of)
    recipe = recipe.model_copy(update={"rules": (*HIGH, *recipe.rules)})
    schemes = {weights: sum(o.weights == weights for o in choice.picks.values()) for weights in ("fp32", "int8", "int4")}
    measured = len({key.rpartition(" ")[0] for key in journal})
    return FoundForBlocks(recipe, choice.bytes, decibels(predicted(choice, found, "guided")), measured, len(choice.picks), schemes)
