"""What each rewrite of `hoist` saves of a clip, in closed form: FLOPs of products, parameters, bytes that are kept instead."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...core.bundle import Hearing, Saving
from ...core.config import AUDIO_RADIUS, PATCH, ClipSpec, ModelConfig
from ...core.plan import SamplingPlan
from .hoist import (
    DEAD_PARAMETERS,
    KEYS_VALUES,
    PATCH_BIAS,
    REWRITES,
    ROTARY_TABLES,
    STEP_TABLES,
    TEXT_PADDING,
    Per,
    Rewrite,
    accounting,
    checked_rows,
)

FLOAT_BYTES = 4  # conditions, step tables and rotary tables are float32


@dataclass(frozen=True)
class Work:
    """FLOPs of one evaluation of the model by part: matrix products, two FLOPs per multiplication and addition. Norms, softmax,
    activations, rotary embedding and its tables have none."""

    latents: int  # patch embedding of the noisy latents
    blocks: int
    head: int
    patch_bias: int
    timestep: int
    keys_values: int


def step_work(config: ModelConfig, clip: ClipSpec, text_rows: int) -> Work:
    """What one evaluation on a clip takes, with a prompt of `text_rows` rows."""
    d, n, frames = config.dim, clip.tokens, clip.latent_frames
    heard = frames * config.audio.tokens  # audio tokens of the clip; a token of the picture attends to its own frame's
    attended = n + text_rows + config.image_tokens + config.audio.tokens
    linears = 6 * d * d + 2 * d * config.ffn_dim  # q, k, v, o; q, o; feed-forward
    block = 2 * n * linears + 4 * n * attended * d  # logits and weighted values
    text = text_rows * (config.text_dim + d) * d
    image = config.image_tokens * (config.image_dim + d) * config.image_dim
    projections = config.layers * 2 * d * d * (text_rows + config.image_tokens + heard)
    return Work(
        latents=2 * n * PATCH**2 * config.latent_channels * d,
        blocks=config.layers * block,
        head=2 * n * d * PATCH**2 * config.latent_channels,
        patch_bias=2 * n * PATCH**2 * (config.mask_channels + config.latent_channels) * d,
        timestep=2 * d * (config.freq_dim + d + 6 * d),
        keys_values=2 * (text + image + _audio_products(config, clip) + projections),
    )


def _audio_products(config: ModelConfig, clip: ClipSpec) -> int:
    """Multiplications from speech features to tokens."""
    audio, frames = config.audio, clip.latent_frames
    if not config.audio_path.per_frame:
        return Hearing.of(config).rows_per_frame * clip.frames * audio.channels * config.dim
    row = audio.layers * audio.channels
    window = (2 * AUDIO_RADIUS + 1) * row * audio.hidden + (frames - 1) * 8 * row * audio.hidden
    return window + frames * audio.hidden * (audio.hidden + audio.tokens * config.dim)


def clip_flops(
    config: ModelConfig, clip: ClipSpec, plan: SamplingPlan, rewrites: Collection[Rewrite] = (), text_rows: int | None = None
) -> int:
    """FLOPs of the transformer for one window of `clip`'s length under `plan`, with `rewrites` applied; see `Work` for what counts.

    Evaluations that reuse features run no block; what left the step is counted once per branch, or not at all where it left for
    good. `text_rows` are those of a collapsed prompt, by default as many as the model's text length, which saves nothing.

    Raises:
        ConfigError: `text_rows` is out of range.
    """
    rows = checked_rows(config, text_rows)
    work = step_work(config, clip, rows if TEXT_PADDING in rewrites else config.text_len)
    branches, run = len(plan.branches), plan.evaluations
    evaluations = sum(len(plan.evaluated(step)) for step in range(plan.steps))
    return (
        evaluations * (work.latents + work.head)
        + run * work.blocks
        + (branches if KEYS_VALUES in rewrites else run) * work.keys_values
        + (branches if PATCH_BIAS in rewrites else evaluations) * work.patch_bias
        + (0 if STEP_TABLES in rewrites else evaluations) * work.timestep
    )


def savings(config: ModelConfig, clip: ClipSpec, plan: SamplingPlan, text_rows: int | None = None) -> tuple[Saving, ...]:
    """What each rewrite saves, in the order of REWRITES, and at the end all of them together ("all"; its bytes are those per
    branch). FLOPs as `clip_flops` counts them. The rows' FLOPs do not add up: collapsed padding needs fewer keys and values.

    Raises:
        ConfigError: `text_rows` is out of range.
    """
    rows, places = checked_rows(config, text_rows), accounting(config)
    dead = sum(count for place, count in places.items() if place != "step")

    def saving(name: str, rewrites: Collection[Rewrite], parameters: int, kept_bytes: int, per: Per) -> Saving:
        without, left = (clip_flops(config, clip, plan, chosen, rows) for chosen in ((), rewrites))
        return Saving(name=name, flops_without=without, flops_with=left, parameters=parameters, kept_bytes=kept_bytes, per=per)

    alone, together = _kept_bytes(config, clip, plan, config.text_len, rows), _kept_bytes(config, clip, plan, rows, rows)
    parameters = places | {DEAD_PARAMETERS.name: dead}
    every = [saving(r.name, {r}, parameters.get(r.name, 0), alone[r], r.per) for r in REWRITES]
    per_branch = sum(together[rewrite] for rewrite in REWRITES if rewrite.per == "branch")
    return (*every, saving("all", REWRITES, dead, per_branch, "branch"))


def _kept_bytes(config: ModelConfig, clip: ClipSpec, plan: SamplingPlan, text_keys: int, text_rows: int) -> dict[Rewrite, int]:
    """Of each rewrite, with so many text keys, and so many rows that the bias of a collapsed prompt has."""
    keys = text_keys + config.image_tokens + clip.latent_frames * config.audio.tokens
    numbers = {
        KEYS_VALUES: 2 * config.layers * keys * config.dim,
        PATCH_BIAS: clip.tokens * config.dim,
        STEP_TABLES: plan.steps * 7 * config.dim,
        ROTARY_TABLES: clip.tokens * config.head_dim,
        TEXT_PADDING: text_rows,
        DEAD_PARAMETERS: 0,
    }
    return {rewrite: FLOAT_BYTES * count for rewrite, count in numbers.items()}
