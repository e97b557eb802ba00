"""`echoedge export` of the released model: options to a request, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..core.errors import ConfigError, InputError
from .options import parse_bytes, parse_clip, parse_names, parse_shapes

if TYPE_CHECKING:
    from ..core.bundle import Manifest
    from ..core.config import ClipSpec
    from ..core.plan import SamplingPlan
    from ..runtime.export.jobs import Progress
    from ..targets.executorch.blockwise import Way
    from ..targets.executorch.half_products import Products

OVERLAP = 4  # latent frames that windows share, as far as the window leaves them


def plan_for(variant: str, clip: ClipSpec, steps: int | None) -> SamplingPlan:
    """The released pipeline's plan, in windows of the clip's length.

    Raises:
        ConfigError: the clip is too short for a window.
    """
    from ..core.plan import WindowRule
    from ..core.plan.samplers import PLAN_PRESETS, build_plan

    if clip.latent_frames < 2:
        raise ConfigError(f"--frames is {clip.frames}; a window needs 5 frames at least.")
    window = WindowRule(length=clip.latent_frames, overlap=min(OVERLAP, clip.latent_frames - 1))
    options = PLAN_PRESETS[variant]
    return build_plan(replace(options, steps=steps or options.steps, window=window))


def export_checkpoint(
    out: Path,
    folder: Path,
    model: str,
    target: str,
    weights: str,
    size: str,
    frames: int,
    steps: int | None,
    also: Sequence[str],
    decoders: str,
    layout: str,
    backend: str,
    prompts: Path | None,
    text_rows: int,
    memory: str | None,
    way: str,
    products: str,
    context: float,
    jobs: int,
    force: bool,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Compiles a checkpoint. Raises as `export_released`; also ConfigError and InputError for the options."""
    from ..core.model.architecture import Architecture
    from ..core.plan import check_choice
    from ..core.weights.checkpoints import Checkpoint
    from ..quantize.recipes import read_recipe
    from ..runtime.export.nano import TARGETS
    from ..runtime.export.released import ReleasedExport, export_released
    from ..runtime.play.prompts import read_prompts
    from ..runtime.play.setting import PACK
    from ..runtime.verify.parity import demo_case

    if target not in TARGETS:
        raise ConfigError(f"This version compiles for: {', '.join(TARGETS)}. It does not compile for {target!r} yet.")
    check_choice("way", way, ("auto", "stamped", "plain"))
    check_choice("products", products, ("fp32", "bf16"))
    sizes = Architecture(Checkpoint.open(folder, model).config())
    config = sizes.transformer
    clip = parse_clip(size, frames)
    pack = read_prompts(prompts, config.text_dim) if prompts else {}
    longest = max((len(rows) for rows in pack.values()), default=0)
    if longest >= text_rows:
        raise InputError(f"A prompt of {prompts} has {longest} tokens; --text-rows {text_rows} reads up to {text_rows - 1}.")
    plan = plan_for(config.variant, clip, steps)
    lost = [text for text in plan.texts.values() if pack and text not in pack]
    if lost:
        raise InputError(
            f"The guidance of {config.name} needs the prompt {lost[0]!r}, which {prompts} does not hold. Make the pack with: "
            "`echoedge checkpoint prompts`."
        )
    clips = (clip, *parse_shapes(also, "--also"))
    cases = [demo_case(each, each.frames) for each in clips]
    request = ReleasedExport(
        checkpoint=str(folder), model=model, sizes=sizes, clips=clips, plan=plan, recipe=read_recipe(weights),
        backend=backend, decoders=parse_names(decoders, "--decoders"), layout=layout, text_rows=text_rows,
        way=cast("Way", way), products=cast("Products", products), context_seconds=context, prompts=pack,
        portraits=tuple(case["portrait"] for case in cases), speeches=tuple(case["speech"] for case in cases),
    )  # fmt: skip
    budget = parse_bytes(memory, "--memory") if memory is not None else None
    if not pack:
        warn(f"The bundle will have no text encoder and no prompts: it plays with --prompts PACK alone. Make one with: {PACK}.")
    return export_released(request, out, progress, force, jobs, budget, warn)
