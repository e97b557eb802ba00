"""What an export will need of memory and disk, before anything is begun.

The figures are counted from shapes, with factors that were measured on full-size exports (docs/FIGURES.md) and rounded up.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from ...core.bundle import DECODE_PROGRAMS
from ...core.config import ClipSpec, ModelConfig
from ...core.memory import Need
from ...core.model.architecture import Architecture, skeleton
from ...core.model.attention import PROJECTIONS, Modality
from ...core.model.encoders import NanoEncoders
from ...core.model.pretrained import EncoderConfig
from ...core.model.programs import condition_shapes
from ...core.model.transformer import Block, DiT
from ...core.model.vae import VAE
from ...core.weights.source import CheckpointSource
from ...quantize.recipes import WeightRecipe
from ...quantize.schemes import PALETTES
from ...quantize.weights import RELIEF_BYTES
from ...targets.parts import KeysValues, Tokens
from ...targets.rewrites.attention import query_chunk
from ...targets.rewrites.hoist import strip_block
from .record import CALIBRATION_STEPS
from .request import ExportRequest

PROCESS = 550_000_000  # a process with torch, torchao and executorch loaded
FLOAT = 4
LOWERED_CONVOLUTIONS = 5  # copies of a VAE's weights while it is lowered: two methods, each rewritten, traced and encoded
PROGRAM_BYTES = 4_000_000  # of a program and its goldens, besides its weights
COPIES_HELD = 4  # of a model's weights in a job: its own, rewritten, traced, encoded
_NOT_COMPILING = ("reference", "data", "proof")  # first words of jobs' names
STATES_HELD = 4  # of a streaming program's states in its proof: recorded and computed, in and out
ENCODERS_HELD = 3  # of an encoder's stored weights while it is lowered
_MODALITIES: dict[str, Modality] = {f"{modality}_conditions": modality for modality in PROJECTIONS}
STATE_PER_PIXEL = {"vae_encode": 1404, "vae_decode": 2366, "tiny_decode": 84}  # elements at full width


def bits_of(recipe: WeightRecipe, program: str, module: str) -> float:
    """What a weight of this layer takes: 4-bit groups have a 16-bit scale each; the tables of palettes are less than a bit."""
    rule = recipe.rule_for(program, module)
    if rule is None or rule.weights == "fp32":
        return 32
    if rule.weights in PALETTES:
        return PALETTES[rule.weights] + 1
    return 8 if rule.weights == "int8" else 4 + 16 / rule.group


def _elements(*modules: object) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())  # type: ignore[attr-defined]


def step_bytes(sizes: Architecture, recipe: WeightRecipe) -> int:
    """Of the denoising step's weights as they are stored."""
    dit = skeleton(DiT, sizes.transformer)
    blocks = [strip_block(block) for block in dit.blocks if isinstance(block, Block)]
    stored = sum(_stored(block, recipe, "denoise", f"dit.blocks.{index}.") for index, block in enumerate(blocks))
    return stored + FLOAT * _elements(dit.head)


def condition_weights(sizes: Architecture, recipe: WeightRecipe, modality: Modality) -> int:
    """Of the weights behind a modality's keys and values as they are stored."""
    dit, role = skeleton(DiT, sizes.transformer), f"{modality}_conditions"
    blocks = [block for block in dit.blocks if isinstance(block, Block)]
    return _stored(Tokens(dit, modality, 1), recipe, role, "dit.") + sum(
        _stored(KeysValues(block.cross_attn, modality), recipe, role, f"dit.blocks.{index}.cross_attn.")
        for index, block in enumerate(blocks)
    )


def program_weights(sizes: Architecture, recipe: WeightRecipe, roles: Iterable[str], built_in: bool = False) -> dict[str, int]:
    """Bytes of each program's weights as they are stored. `built_in`: of nano, whose encoders are small; else of a checkpoint."""
    config, found = sizes.transformer, {}
    coders: dict[str, Callable[[], nn.Module]] = {
        "vae_encode": lambda: _VAEPart(skeleton(VAE, config.vae), "encoder", "conv1"),
        "vae_decode": lambda: _VAEPart(skeleton(VAE, config.vae), "decoder", "conv2"),
    }
    for role in roles:
        if role == "denoise":
            found[role] = step_bytes(sizes, recipe)
        elif role in _MODALITIES:
            found[role] = condition_weights(sizes, recipe, _MODALITIES[role])
        elif role in ("patch_conditions", "denoise_reusing"):
            dit = skeleton(DiT, config)
            found[role] = FLOAT * _elements(dit.patch_embedding, *((dit.head,) if role == "denoise_reusing" else ()))
        elif role in coders:
            found[role] = _stored_coder(coders[role](), recipe, role)
        elif role == "tiny_decode":
            found[role] = FLOAT * _count(sizes.tiny_vae)
        elif built_in:
            encoders = skeleton(NanoEncoders, config)
            part = {"audio_encoder": encoders.audio, "image_encoder": encoders.image, "text_encoder": encoders.text}[role]
            linear = sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Linear))
            constants = sum(buffer.numel() for buffer in part.buffers())
            found[role] = FLOAT * (_elements(part) - linear + constants) + _stored(part, recipe, role, "")
        else:
            found[role] = _stored_encoder(sizes.wav2vec2 if role == "audio_encoder" else sizes.clip, recipe, role)
    return found


def _stored_encoder(layout: EncoderConfig, recipe: WeightRecipe, role: str) -> int:
    """Of an encoder, by the shapes of its tensors: matrices are layers; convolutions, norms and positions stay as they are."""
    bits = {True: bits_of(recipe, role, "blocks"), False: 8 * FLOAT}
    return sum(int(math.prod(shape) * bits[len(shape) == 2]) // 8 for shape in layout.tensors().values())


class _VAEPart(nn.Module):
    """One way through a VAE, its layers named as in a program."""

    def __init__(self, vae: VAE, *names: str) -> None:
        super().__init__()
        self.vae = nn.ModuleDict({name: getattr(vae, name) for name in names})


def _stored_coder(module: nn.Module, recipe: WeightRecipe, role: str) -> int:
    """Of a VAE's way, whose convolutions have rules of their own. Its two methods share what both use."""
    total = 0
    for name, layer in module.named_modules():
        own = FLOAT * sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        rule = recipe.rule_for(role, name, "convolution") if isinstance(getattr(layer, "weight", None), Tensor) else None
        total += own // 4 if rule is not None and rule.weights == "int8" else own
    return total


def _stored(module: nn.Module, recipe: WeightRecipe, program: str, prefix: str) -> int:
    """Bytes of a module's linear layers as a recipe stores them."""
    return sum(
        int(layer.weight.numel() * bits_of(recipe, program, prefix + name)) // 8
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    )


def condition_bytes(config: ModelConfig, clip: ClipSpec, text_rows: int) -> int:
    """Of one branch's conditions."""
    return sum(FLOAT * math.prod(shape) for shape in condition_shapes(config, clip, text_rows).values())


def step_activations(model: ModelConfig, clip: ClipSpec) -> int:
    """Of the widest moments of a block: the feed-forward's hidden layer twice, and a chunk of attention logits twice."""
    n = clip.tokens
    hidden = 2 * n * model.ffn_dim + 8 * n * model.dim
    logits = 2 * model.heads * query_chunk(model.heads, n, n) * n
    return FLOAT * (hidden + logits)


def picture_bytes(model: ModelConfig, clip: ClipSpec) -> int:
    """Of four frames of the VAE's widest layers."""
    return FLOAT * 8 * model.vae.dim * clip.height * clip.width


def state_bytes(model: ModelConfig, clip: ClipSpec, role: str) -> int:
    """Of what a streaming program hands to its next call, of the released VAE's shape."""
    return FLOAT * STATE_PER_PIXEL[role] * clip.height * clip.width * model.vae.dim // 96


def needs(request: ExportRequest, shape: int) -> dict[str, Need]:
    """Of each job of an export, for the clip shape of that index: by its unit's role, "data of " and "proof of " it, and of the
    references."""
    clip = request.clips[shape]
    if isinstance(request.source, CheckpointSource):
        decoders = [DECODE_PROGRAMS[name] for name in request.decoders]
        return checkpoint_needs(request.source.sizes, clip, request.recipe, request.text_rows, decoders)
    return defaultdict(lambda: _held_need(request))


def _held_need(request: ExportRequest) -> Need:
    """Of any job of a model that is in memory: it, its copy, and the compiler's."""
    return Need({"the process": PROCESS, "weights": COPIES_HELD * _held_bytes(request)})


def _held_bytes(request: ExportRequest) -> int:
    model = request.source.held
    assert model is not None
    parts = [part for part in (model.dit, model.vae, model.encoders) if part is not None]
    return FLOAT * _elements(*parts)


def disk_needed(request: ExportRequest) -> int:
    """Bytes of the work folder and of the bundle beside it, when both are whole."""
    if isinstance(request.source, CheckpointSource):
        decoders = [DECODE_PROGRAMS[name] for name in request.decoders]
        return checkpoint_disk(request.source.sizes, request.clips, request.recipe, request.text_rows, decoders, request.external)
    return 2 * _held_bytes(request) + PROGRAM_BYTES * len(request.roles)


def checkpoint_needs(
    sizes: Architecture, clip: ClipSpec, recipe: WeightRecipe, text_rows: int, decoders: Sequence[str]
) -> dict[str, Need]:
    """As `needs`, of a checkpoint."""
    config = sizes.transformer
    dit = skeleton(DiT, config)
    blocks = [block for block in dit.blocks if isinstance(block, Block)]
    block = FLOAT * _elements(blocks[0])
    outer = FLOAT * (_elements(dit) - _elements(*blocks))
    conditions, activations = condition_bytes(config, clip, text_rows), step_activations(config, clip)
    picture = picture_bytes(config, clip)
    states = {name: state_bytes(config, clip, name) for name in ("vae_encode", *decoders)}
    vae = skeleton(VAE, config.vae)
    weights = {
        "audio_encoder": FLOAT * _count(sizes.wav2vec2), "image_encoder": FLOAT * _count(sizes.clip),
        "vae_encode": FLOAT * _elements(vae.encoder, vae.conv1), "vae_decode": FLOAT * _elements(vae.decoder, vae.conv2),
        "tiny_decode": FLOAT * _count(sizes.tiny_vae),
    }  # fmt: skip
    smaller = "compile with coarser --weights, int8 or int4."
    shorter = "compile for a smaller --size or fewer --frames."
    remedies = {
        "weights": smaller,
        "conditions": shorter,
        "activations": shorter,
        "state": "leave the full decoder out (--decoders tiny), or compile for a smaller --size.",
    }

    def need(**terms: int) -> Need:
        return Need({"the process": PROCESS, **{name.replace("_", " "): size for name, size in terms.items()}}, remedies)

    found = {
        "reference of the encoders": need(
            weights=max(weights["audio_encoder"], weights["image_encoder"], weights["vae_encode"]), activations=picture
        ),
        "reference of the step": need(embeddings=outer, blocks=2 * block, conditions=3 * conditions, activations=activations),
        "reference of the decoders": need(
            weights=max(weights[name] for name in decoders),
            state=STATES_HELD * max(states[name] for name in decoders),
            activations=2 * picture,
        ),
    }
    coders = ("audio_encoder", "image_encoder", "vae_encode", *decoders)
    held = program_weights(sizes, recipe, ("denoise", *_MODALITIES, *coders))
    step = held["denoise"]
    found["denoise"], found["data of denoise"] = need(embeddings=outer, weights=step, blocks=4 * block), need(weights=step)
    found["proof of denoise"] = need(weights=step, conditions=conditions, activations=activations)
    for modality in PROJECTIONS:
        role = f"{modality}_conditions"
        stored = held[role]
        found[role], found[f"data of {role}"] = need(embeddings=2 * outer, weights=stored, blocks=block), need(weights=stored)
        found[f"proof of {role}"] = need(weights=stored, conditions=2 * conditions)
    for role in ("patch_conditions", "denoise_reusing"):
        found[role] = need(embeddings=2 * outer, activations=conditions)
        found[f"data of {role}"] = found[f"proof of {role}"] = need(weights=outer, activations=conditions)
    for name in coders:
        linear = name in ("audio_encoder", "image_encoder")  # the others are convolutions, which the compiler holds unrounded
        stored = held[name]
        lowered = ENCODERS_HELD * stored if linear else LOWERED_CONVOLUTIONS * weights[name]
        found[name] = need(mapped_weights=RELIEF_BYTES, weights=lowered)
        found[f"data of {name}"] = need(weights=stored)
        found[f"proof of {name}"] = need(
            weights=2 * stored, state=STATES_HELD * states.get(name, 0), activations=picture if name in states else 0
        )
    found["programs"] = Need(
        {
            "the process": PROCESS,
            "weights": sum(need.terms.get("weights", 0) for name, need in found.items() if name.split()[0] not in _NOT_COMPILING),
        },
        {"weights": "compile each program to a file of its own (--layout separate)."},
    )
    return found


def checkpoint_disk(
    sizes: Architecture, clips: Sequence[ClipSpec], recipe: WeightRecipe, text_rows: int, decoders: Sequence[str], external: bool
) -> int:
    """Of a checkpoint's work folder and its bundle together: programs compiled for each shape, merged where weights lie outside
    (`external`), and copied; recorded conditions, and what is recorded for roundings that look at data."""
    config = sizes.transformer
    need = checkpoint_needs(sizes, clips[0], recipe, text_rows, decoders)
    names = [name for name in need if name.startswith("data of ")]
    weights = sum(need[name].terms.get("weights", 0) for name in names)
    copies = len(clips) + (2 if external else 1)  # of each shape's compilation, of the merged data, and in the bundle
    conditions = sum(condition_bytes(config, clip, text_rows) for clip in clips)
    samples = CALIBRATION_STEPS * config.layers * clips[0].tokens * config.dim * FLOAT if recipe.needs_samples else 0
    return copies * (weights + PROGRAM_BYTES * len(names)) + 2 * conditions + samples


def _count(layout: EncoderConfig) -> int:
    """Elements of a component's tensors."""
    return sum(math.prod(shape) for shape in layout.tensors().values())
