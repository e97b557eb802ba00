"""What does not change in a denoising step leaves it, as named rewrites that are each exact on their own.

The naive step is `DiT.forward`: at every timestep it reads prompt, portrait and speech again. A rewrite takes one part of that out
and says where it goes: to once per guidance branch (condition programs), to once per plan (at export), or into the step program as
constants. The mathematics are the reference's; this file only decides when they run.

1. rewrites     names, and what each moves
2. parameters   which of the model's parameters the step then leaves unread, and the model without them
3. step         the model with any choice of rewrites: `prepare` is what left, the call is what stayed
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import ClipSpec, ModelConfig
from ...core.errors import ConfigError, ExportError
from ...core.model.architecture import skeleton
from ...core.model.attention import Riflex
from ...core.model.conditions import Conditions
from ...core.model.transformer import Block, DiT, PatchEmbedding, patchify
from ...core.plan import check_count
from ...core.sampling.inputs import check_prompt, padding_bias

Per = Literal["branch", "plan", "program"]


# ---- 1. Rewrites ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rewrite:
    """One part that leaves the step: its name, what moves where, and how often it is then computed: once per guidance branch (of
    one window), once per plan, or once per step program."""

    name: str
    moves: str
    per: Per


KEYS_VALUES = Rewrite(
    "keys-values",
    "Keys and values of text, image and audio in every block, and the embeddings before them, move to condition programs: once per "
    "guidance branch, those of audio once per window of it.",
    "branch",
)
PATCH_BIAS = Rewrite(
    "patch-bias",
    "The patch embedding of mask and masked latents, with its bias, moves to a condition program; the step adds it to that of the "
    "noisy latents.",
    "branch",
)
STEP_TABLES = Rewrite(
    "step-tables",
    "The timestep MLP and its projection to modulation vectors move to export: they are run on the plan's timesteps, and the step "
    "reads a row.",
    "plan",
)
ROTARY_TABLES = Rewrite(
    "rotary-tables",
    "Cosines and sines of every token's position become constants of the step program, whose shape is fixed.",
    "program",
)
TEXT_PADDING = Rewrite(
    "text-padding",
    "The m equal rows of text padding become one row whose logit is raised by log m, when the prompt is read.",
    "branch",
)
DEAD_PARAMETERS = Rewrite(
    "dead-parameters",
    "The parameters that the other rewrites leave unread stay out of the step program.",
    "program",
)
REWRITES = (KEYS_VALUES, PATCH_BIAS, STEP_TABLES, ROTARY_TABLES, TEXT_PADDING, DEAD_PARAMETERS)


# ---- 2. Parameters --------------------------------------------------------------------------------------------------------------

_ENCODERS = ("text_embedding", "img_emb", "audio_injection", "audio2token")
_KEYS_VALUES = ("k", "v", "norm_k", "k_img", "v_img", "norm_k_img", "k_audio", "v_audio", "norm_k_audio")
_TIMESTEP = ("time_embedding", "time_projection")


def _layers(dit: DiT, rewrite: Rewrite) -> list[str]:
    """Names of the layers that the step leaves unread after `rewrite`."""
    if rewrite == STEP_TABLES:
        return list(_TIMESTEP)
    if rewrite == KEYS_VALUES:
        blocks = range(len(dit.blocks))
        return [name for name in _ENCODERS if hasattr(dit, name)] + [
            f"blocks.{index}.cross_attn.{name}" for index in blocks for name in _KEYS_VALUES
        ]
    return []


def accounting(config: ModelConfig) -> dict[str, int]:
    """The model's parameters by where they go: how many the step reads ("step"), and how many a rewrite leaves unread, by its name.

    They add up to all that the model has; `q_audio` of the published flash file is not among them, for nothing ever reads it.
    """
    dit = skeleton(DiT, config)
    counts = {
        rewrite.name: sum(parameter.numel() for name in _layers(dit, rewrite) for parameter in dit.get_submodule(name).parameters())
        for rewrite in (KEYS_VALUES, STEP_TABLES)
    }
    patch = dit.patch_embedding
    counts[PATCH_BIAS.name] = patch.weight[:, config.latent_channels :].numel() + patch.bias.numel()
    total = sum(parameter.numel() for parameter in dit.parameters())
    return {"step": total - sum(counts.values())} | {r.name: counts[r.name] for r in REWRITES if r.name in counts}


class Gone(nn.Module):
    """Stands where a layer was that has left the step."""

    def __init__(self, name: str, rewrite: Rewrite) -> None:
        super().__init__()
        self.name, self.rewrite = name, rewrite

    def forward(self, *_: object) -> Tensor:
        raise ExportError(f"{self.name} is not in this step: {self.rewrite.name} took it out. Run it with the whole model.")

    __getitem__ = forward


class NoisePatches(nn.Module):
    """The patch embedding of the noisy latents alone; mask and masked latents come embedded, with the bias."""

    bias = 0.0

    def __init__(self, patch: PatchEmbedding, noise_channels: int) -> None:
        super().__init__()
        weight = patch.weight.detach()[:, :noise_channels].flatten(1)
        self.channels = noise_channels
        self.noise = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")  # the weight follows: none is drawn
        self.noise.weight = nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """As `PatchEmbedding.forward`, of the noisy latents or of no channels at all.

        Raises:
            ExportError: channels are asked for that are embedded before the step.
        """
        if first == last:
            return F.linear(patchify(x), self.noise.weight[:, :0])
        if (first, last) != (0, self.channels):
            raise ExportError(
                f"Channels {first} to {last - 1} of the patch embedding are not in this step: it has 0 to {self.channels - 1}, and "
                f"{PATCH_BIAS.name} took the others out. Embed them with the whole model."
            )
        return self.noise(patchify(x))


def strip_block(block: Block) -> Block:
    """A block without the parameters that a step without keys and values leaves unread; what stays is shared with `block`."""
    step = copy.deepcopy(block, {id(parameter): parameter for parameter in block.parameters()})
    for name in _KEYS_VALUES:
        step.set_submodule(f"cross_attn.{name}", Gone(f"cross_attn.{name}", KEYS_VALUES))
    return step


def strip(dit: DiT, rewrites: Collection[Rewrite] = REWRITES) -> DiT:
    """`dit` without the parameters that a step with `rewrites` leaves unread. What stays is shared with `dit`, but for the patch
    embedding; what went raises an ExportError where it is called."""
    step = copy.deepcopy(dit, {id(parameter): parameter for parameter in dit.parameters()})
    for rewrite in REWRITES:
        for name in _layers(dit, rewrite) if rewrite in rewrites else ():
            step.set_submodule(name, Gone(name, rewrite))
    if PATCH_BIAS in rewrites:
        step.set_submodule("patch_embedding", NoisePatches(dit.patch_embedding, dit.config.latent_channels))
    return step


# ---- 3. The step ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BranchInputs:
    """What one guidance branch is given, as encoders leave it: y [1, 20, F, h, w], prompt [L, text_dim] without padding, image [1,
    image_tokens, image_dim], audio as `DiT.encode_conditions` takes it, audio_mask [1, S]."""

    y: Tensor
    prompt: Tensor
    image: Tensor
    audio: Tensor
    audio_mask: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """One branch's part of what left the step; None: it is computed in the step, from `y`, `text` and the rest."""

    inputs: BranchInputs
    text: Tensor  # [1, rows, text_dim]
    text_bias: Tensor | None  # [1, rows]
    keys_values: Conditions | None
    patch_bias: Tensor | None


class HoistedStep:
    """The model at the plan's timesteps on clips of one shape, with `rewrites` applied and all else as in `DiT.forward`.

    `prepare` computes what leaves the step per branch, the constructor what leaves it for good. `text_rows`: of a collapsed prompt,
    by default as many as the model's text length.

    Raises:
        ConfigError: there are no timesteps, or `text_rows` is out of range.
    """

    def __init__(
        self,
        dit: DiT,
        clip: ClipSpec,
        timesteps: Sequence[float],
        rewrites: Collection[Rewrite] = REWRITES,
        text_rows: int | None = None,
        riflex: Riflex | None = None,
    ) -> None:
        if not timesteps:
            raise ConfigError("There are no timesteps; give those of a plan.")
        device = dit.patch_embedding.weight.device
        self.whole, self.rewrites, self.riflex = dit, frozenset(rewrites), riflex
        self.text_rows = checked_rows(dit.config, text_rows)
        self.shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
        self.timesteps = torch.tensor(timesteps, dtype=torch.float64, device=device)
        self.dit = strip(dit, self.rewrites) if DEAD_PARAMETERS in self.rewrites else dit
        self.tables = dit.step_tables(self.timesteps) if STEP_TABLES in self.rewrites else None
        self.rope = dit.rope(torch.empty(self.shape, device=device), riflex) if ROTARY_TABLES in self.rewrites else None

    def prepare(self, inputs: BranchInputs) -> Prepared:
        """Once per window and guidance branch."""
        prompt, rows, bias = inputs.prompt, self.whole.config.text_len, None
        if TEXT_PADDING in self.rewrites:
            bias = torch.from_numpy(padding_bias(len(prompt), rows, self.text_rows))[None].to(prompt)
            rows = self.text_rows
        check_prompt(len(prompt), rows)
        text = F.pad(prompt, (0, 0, 0, rows - len(prompt)))[None]
        prepared = Prepared(inputs, text, bias, None, None)
        if KEYS_VALUES in self.rewrites:
            prepared = replace(prepared, keys_values=_keys_values(self.whole, prepared))
        if PATCH_BIAS in self.rewrites:
            prepared = replace(prepared, patch_bias=_patch_bias(self.whole, inputs.y))
        return prepared

    def __call__(self, latents: Tensor, index: int, prepared: Prepared, modality_weights: Tensor | None = None) -> Tensor:
        """Step `index` of the plan: latents [1, 16, F, h, w] -> velocity of that shape. modality_weights [1, 3, F], 1 by default.

        Raises:
            ConfigError: the latents have another shape, or the plan has no such step.
        """
        time, modulation = self._step_tables(latents, index)
        keys_values = prepared.keys_values or _keys_values(self.dit, prepared)
        conditions = replace(keys_values, patch_bias=self._embedded(prepared))
        if modality_weights is None:
            modality_weights = latents.new_ones(latents.shape[0], 3, latents.shape[2])
        rope = self.rope or self.dit.rope(latents, self.riflex)
        return self.dit.denoise(latents, time, modulation, modality_weights, conditions, rope)

    def reusing(self, latents: Tensor, index: int, residual: Tensor, prepared: Prepared) -> Tensor:
        """Step `index` by feature reuse: residual [1, N, D] stands in for the blocks. Errors as above."""
        time, _ = self._step_tables(latents, index)
        return self.dit.denoise_reusing(latents, time, residual, self._embedded(prepared))

    def _step_tables(self, latents: Tensor, index: int) -> tuple[Tensor, Tensor]:
        if tuple(latents.shape) != self.shape:
            raise ConfigError(f"The latents are {list(latents.shape)}; this step is for {list(self.shape)}.")
        if not 0 <= index < len(self.timesteps):
            raise ConfigError(f"There is no step {index}; the plan has {len(self.timesteps)}, counted from 0.")
        if self.tables is None:
            return self.dit.step_tables(self.timesteps[index : index + 1])
        time, modulation = self.tables
        return time[index : index + 1], modulation[index : index + 1]

    def _embedded(self, prepared: Prepared) -> Tensor:
        return _patch_bias(self.dit, prepared.inputs.y) if prepared.patch_bias is None else prepared.patch_bias


def _keys_values(dit: DiT, prepared: Prepared) -> Conditions:
    """The conditions of a branch whose patch bias is yet to come: of `y`, no channel is embedded."""
    inputs = prepared.inputs
    nothing = inputs.y[:, :0]
    return dit.encode_conditions(nothing, prepared.text, inputs.image, inputs.audio, None, prepared.text_bias, inputs.audio_mask)


def _patch_bias(dit: DiT, y: Tensor) -> Tensor:
    first = dit.config.latent_channels
    return dit.patch_embedding(y, first, first + y.shape[1]) + dit.patch_embedding.bias


def checked_rows(config: ModelConfig, text_rows: int | None) -> int:
    """`text_rows`, checked; all of the model's where there is none."""
    rows = config.text_len if text_rows is None else text_rows
    check_count("text_rows", rows, 1, config.text_len)
    return rows
