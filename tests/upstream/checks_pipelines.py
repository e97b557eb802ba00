"""Whole pipelines of both variants, and feature reuse, against upstream's: from prompts, pictures and noise to latents and video.

The player plays them on the reference engine, as `echoedge animate --checkpoint` does, with every option of the original that
deviates from ours switched on (`upstream_compat`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echoedge.core.config import TEMPORAL_STRIDE, ClipSpec, ModelConfig, VAEConfig, Variant
from echoedge.core.model.masks import condition_latents
from echoedge.core.model.pretrained_text import PromptEncoderConfig
from echoedge.core.model.vae import VAE
from echoedge.core.plan import SamplingPlan, WindowRule, windows
from echoedge.core.plan.phases import PROMPT, PhaseWeights
from echoedge.core.plan.samplers import (
    AudioGuidance,
    FeatureReuse,
    Guidance,
    NoGuidance,
    PlanOptions,
    TextAudioGuidance,
    build_plan,
    upstream_reuse_decisions,
)
from echoedge.core.sampling.hearing import playing_of
from echoedge.runtime.engines.reference import ReferenceEngine
from echoedge.runtime.play.player import Player, PlayerConfig

from ..core.tensors import collapse_padding
from .checks_transformer import arguments_of, dit_of, load_dit, model_config
from .goldens import Comparison, Golden, check

NEGATIVE = "negative"
TOKENS_PER_LATENT = 2 * TEMPORAL_STRIDE  # preview: audio tokens of one latent frame


# ---- 1. Feature reuse, call by call ---------------------------------------------------------------------------------------------


@check("teacache_flash", "teacache_preview")
@torch.no_grad()
def calls_with_reuse(case: Golden) -> Iterator[Comparison]:
    """The original's shared state: which calls run the blocks, and what every call returns. Latents stay as they are."""
    call, recorded, dit = case.call, case.tensors(), dit_of(case)
    arguments = arguments_of(case)
    timesteps = arguments.pop("timestep")
    x, modality = arguments.pop("latents"), arguments.pop("modality_weights")
    heard = dit.encode_conditions(**arguments)
    silent = dit.encode_conditions(**arguments | {"audio": torch.zeros_like(arguments["audio"])})
    time, modulation = dit.step_tables(timesteps)
    per_step = call["calls_per_step"]
    option = FeatureReuse(
        threshold=call["rel_l1_thresh"], skip_first=call["num_skip_start_steps"], upstream_compat=True,
        **({"coefficients": tuple(call["coefficients"])} if call.get("coefficients") else {}),
    )  # fmt: skip
    table = modulation.flatten(1).double().numpy()
    decisions = upstream_reuse_decisions(table, option.coefficients, option.threshold, option.skip_first, per_step)
    residual = None
    for step, reuses in enumerate(decisions):
        row = time[step : step + 1].expand(len(x), -1)
        for index, reused in enumerate(reuses):
            conditions = heard if index == 0 else silent
            if reused:
                assert residual is not None
                y = dit.denoise_reusing(x, row, residual, conditions.patch_bias)
            else:
                y, residual = dit.denoise_keeping(x, row, modulation[step : step + 1].expand(len(x), -1, -1), modality, conditions)
            name = f"out/call{step * per_step + index:02d}"
            yield name, y, recorded[name]
    yield "computed", [int(not reused) for step in decisions for reused in step], case.results["computed"]


# ---- 2. Whole pipelines ---------------------------------------------------------------------------------------------------------


def guidance_of(call: dict[str, Any], variant: Variant) -> Guidance:
    if call.get("guidance_scale", 6.0) <= 1:  # what a call does not say is the default of the original's signature
        return NoGuidance()
    if variant == "flash":
        skip_ratio = call.get("cfg_skip_ratio") or 0.0
        return AudioGuidance(scale=call.get("audio_guidance_scale", 6.0), skip_ratio=skip_ratio, upstream_compat=True)
    return TextAudioGuidance(
        text=call.get("guidance_scale", 6.0), audio=call.get("audio_guidance_scale", 6.0),
        dynamic_text=call.get("use_dynamic_cfg", False),
        dynamic_audio=call.get("use_dynamic_acfg", False), negative=NEGATIVE, neg_scale=call.get("neg_scale", 1.0),
        neg_steps=call.get("neg_steps", 3), upstream_compat=True,
    )  # fmt: skip


def options_of(case: Golden, variant: Variant) -> PlanOptions:
    call, scheduler = case.call, case.config["scheduler"]
    euler = scheduler["name"] == "euler"
    reuse, window = None, None
    if cache := call.get("teacache"):
        reuse = FeatureReuse(cache["thresh"], cache["skip_start"], tuple(cache["coefficients"]), upstream_compat=True)
    if call.get("use_longvideo_cfg"):
        length = (call.get("partial_video_length", 113) - 1) // TEMPORAL_STRIDE + 1
        window = WindowRule(length=length, overlap=call.get("overlap_video_length", 5), anchor="window", upstream_compat=True)
    strength = call.get("audio_scale", 1.0) if variant == "preview" else 1.0
    return PlanOptions(
        solver=scheduler["name"], steps=call.get("num_inference_steps", 50),
        shift=scheduler["ctor_shift"] if euler else call.get("shift", 5),
        constructor_shift=1.0 if euler else scheduler["ctor_shift"],
        guidance=guidance_of(call, variant), reuse=reuse, window=window,
        modality=PhaseWeights(points=((1.0, (1.0, 1.0, strength)),)),
    )  # fmt: skip


class Counting(ReferenceEngine):
    """Counts the calls that run the blocks."""

    computed = 0

    def run(self, program: str, method: str, inputs: Any) -> list[Any]:
        self.computed += program == "denoise"
        return super().run(program, method, inputs)


def engine_of(case: Golden, config: ModelConfig) -> Counting:
    dit, vae = load_dit(config, case.weights("transformer")), VAE(config.vae).eval()
    vae.load_state_dict(case.weights("vae"))
    return Counting(config, {"transformer": lambda: dit, "vae": lambda: vae}, 640, keep_residuals=bool(case.call.get("teacache")))


def embeddings_of(case: Golden) -> list[Tensor]:
    """What the prompt encoder makes of the case's token ids, without the padding: the prompt's and the negative prompt's."""
    c, recorded = case.config["t5"], case.tensors()
    config = PromptEncoderConfig(
        vocab=c["vocab"], dim=c["dim"], attention_dim=c["dim_attn"], ffn_dim=c["dim_ffn"], heads=c["num_heads"],
        layers=c["num_layers"], buckets=c["num_buckets"], shared_positions=c["shared_pos"],
    )  # fmt: skip
    rows = config.build(case.weights("t5"))(recorded["in/token_ids"], recorded["in/token_mask"])
    return [row[: int(mask.sum())] for row, mask in zip(rows, recorded["in/token_mask"], strict=True)]


def known_latents(player: Player, recorded: dict[str, Tensor], clip: ClipSpec) -> Tensor:
    """y of the case's video [0, 1] and mask (0 or 255), encoded chunk by chunk as the player does."""
    video, mask = recorded["in/video"][0].transpose(0, 1) * 2 - 1, (recorded["in/mask_video"][0, 0] >= 0.5).float()
    return condition_latents(video, mask, clip, lambda v: torch.from_numpy(player._encode_video(v.numpy())), encode_unknown=True)


@check("pipeline_flash", "pipeline_preview")
@torch.no_grad()
def pipelines(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-3 relative and 1e-3 of the maximum."""
    variant: Variant = "flash" if "flash" in case.kind else "preview"
    call, recorded = case.call, case.tensors()
    clip = ClipSpec(call["height"], call["width"], call["num_frames"])
    config = model_config(case.config["transformer"], variant, recorded["in/clip_fea"].shape[1])
    vae = case.config["vae"]
    config = ModelConfig.from_dict(config.to_dict() | {"vae": VAEConfig(dim=vae["dim"], res_blocks=vae["num_res_blocks"]).__dict__})
    engine = engine_of(case, config)
    options = options_of(case, variant)
    plan = build_plan(options, modulation=lambda timesteps: engine.step_tables(timesteps)["modulation"].reshape(len(timesteps), -1))
    player = Player(PlayerConfig(playing_of(config), clip, plan, lambda: engine.step_tables(plan.timesteps), None), engine)

    # 1. prompts and pictures
    prompt, negative = embeddings_of(case)
    yield "in/prompt_embeds", prompt, recorded["in/prompt_embeds"]
    yield "in/negative_prompt_embeds", negative, recorded["in/negative_prompt_embeds"]
    y = recorded["in/y"]
    if "in/video" in recorded:
        y = known_latents(player, recorded, clip)
        yield "in/y", y, recorded["in/y"]
    collapsed = {PROMPT: collapse_padding(prompt, config.text_len, config.text_len)}
    collapsed[NEGATIVE] = collapse_padding(negative, config.text_len, config.text_len)
    text = {name: (rows[None].numpy(), bias[None].numpy()) for name, (rows, bias) in collapsed.items()}

    # 2. sampling
    audio = recorded["in/audio_embeds"][0]
    mask = recorded.get("in/ip_mask") if variant == "preview" else None  # flash takes one and ignores it
    start = recorded["in/noise"][0].numpy()
    latents, _ = player.sample(
        audio.numpy(), y.numpy(), recorded["in/clip_fea"].numpy(), text, start, None if mask is None else mask[0].numpy()
    )
    yield "out/latents", latents[None], recorded["out/latents"]
    yield "out/timesteps", np.array(plan.timesteps), recorded["out/timesteps"]
    yield "out/sigmas", np.array(plan.sigmas), recorded["out/sigmas"]

    # 3. video
    if "out/video" in recorded:
        chunks, state = [], []  # type: tuple[list[Any], list[Any]]
        for index in range(latents.shape[1]):
            video, *state = engine.run("vae_decode", "next" if index else "first", [latents[None, :, index : index + 1], *state])
            chunks.append(video)
        frames = np.concatenate(chunks, 1).swapaxes(1, 2)  # [1, 3, T, H, W] in [-1, 1]
        yield "out/video", (frames + 1) / 2, recorded["out/video"]

    # 4. what was called
    spans = windows(start.shape[1], player.config.rule(start.shape[1]))
    times, ranges = [], []
    for step, timestep in enumerate(plan.timesteps):
        for span in spans:
            for _ in range(calls_of(options.guidance, step, plan.steps)):
                times.append(timestep)
                last = span.start + span.length == start.shape[1]
                end = len(audio) if last else TOKENS_PER_LATENT * (span.start + span.length)
                ranges.append([TOKENS_PER_LATENT * span.start, end])
    results = case.results
    yield "timesteps of the calls", np.array(times), np.array([entry["t"] for entry in results["calls"]])
    recorded_ranges = [entry["audio_token_range"] for entry in results["calls"] if "audio_token_range" in entry]
    if recorded_ranges:
        yield "audio tokens of the calls", ranges, recorded_ranges
    if times and results.get("blocks_computed_calls") is not None:
        rows = len(spans) * sum(len(plan.evaluated(step)) for step in range(plan.steps)) / len(times)
        yield "calls that ran the blocks", engine.computed / rows, float(results["blocks_computed_calls"])
    yield "guidance scales", np.array(scales_of(plan, call, len(spans))), np.array(results["guidance_per_step"])


def calls_of(guidance: Guidance, step: int, steps: int) -> int:
    """How often the original calls the model in a step and window: flash once per branch, preview once for all of them."""
    return 2 if isinstance(guidance, AudioGuidance) and not guidance.skips(step, steps) else 1


def scales_of(plan: SamplingPlan, call: dict[str, Any], per_step: int) -> list[list[float]]:
    """The scales of text and audio in each step and window, read back from the plan's weights; where text guidance is off, the
    original reports those that it was called with."""
    if all(branch.text == PROMPT for branch in plan.branches):
        return [[call.get("guidance_scale", 6.0), call.get("audio_guidance_scale", 6.0)]] * plan.steps * per_step
    scales = []
    for row in plan.guidance:
        text = sum(weight for branch, weight in zip(plan.branches, row, strict=True) if branch.text == PROMPT)
        audio = sum(weight for branch, weight in zip(plan.branches, row, strict=True) if branch.audio)
        scales += [[text, audio]] * per_step
    return scales
