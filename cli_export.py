"""`echoedge export` of the released model: options to a request, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from .core.bundle import Manifest
    from .core.config import ClipSpec
    from .core.plan import SamplingPlan
    from .targets.blockwise import Way
    from .targets.half_products import Products
    from .targets.tasks import Progress

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
OVERLAP = 4  # latent frames that windows share, as far as the window leaves them


def parse_bytes(text: str) -> int:
    """ "4GB", "3.5 GiB" -> bytes.

    Raises:
        ConfigError: it is no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", text.lower())
    unit = match[2] + ("b" if match[2] and not match[2].endswith("b") else "") if match else None
    if match is None or unit not in _UNITS:
        raise ConfigError(f"--memory is {text!r}; write an amount such as 4GB or 3.5GiB.")
    return int(float(match[1]) * _UNITS[unit])


def parse_shape(text: str, option: str) -> ClipSpec:
    """ "256x256x25" -> a clip.

    Raises:
        ConfigError: it is not three numbers, or no clip.
    """
    from .core.config import ClipSpec

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"{option} is {text!r}; write HEIGHTxWIDTHxFRAMES, such as 256x256x25.")
    return ClipSpec(*map(int, parts))


def parse_clip(size: str, frames: int) -> ClipSpec:
    """--size and --frames -> a clip.

    Raises:
        ConfigError: the size is not two numbers, or it is no clip.
    """
    from .core.config import ClipSpec

    sides = size.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise ConfigError(f"--size is {size!r}; write HEIGHTxWIDTH, such as 256x256.")
    return ClipSpec(int(sides[0]), int(sides[1]), frames)


def plan_for(variant: str, clip: ClipSpec, steps: int | None) -> SamplingPlan:
    """The released pipeline's plan, in windows of the clip's length.

    Raises:
        ConfigError: the clip is too short for a window.
    """
    from .core.plan import WindowRule
    from .core.samplers import PLAN_PRESETS, build_plan

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
    jobs: int,
    force: bool,
    progress: Progress,
    warn: Callable[[str], None],
) -> Manifest:
    """Compiles a checkpoint. Raises as `targets.released.export_released`; also ConfigError and InputError for the options."""
    from .core.architecture import Architecture
    from .core.checkpoints import Checkpoint
    from .core.plan import check_choice
    from .quantize.recipes import read_recipe
    from .runtime.parity import demo_case
    from .runtime.reference import read_prompts
    from .targets.bundle_builder import TARGETS
    from .targets.released import ReleasedExport, export_released

    if target not in TARGETS:
        raise ConfigError(f"This version compiles for: {', '.join(TARGETS)}. It does not compile for {target!r} yet.")
    check_choice("way", way, ("auto", "stamped", "plain"))
    check_choice("products", products, ("fp32", "bf16"))
    config = Checkpoint.open(folder, model).config()
    clip = parse_clip(size, frames)
    pack = read_prompts(prompts, config.text_dim) if prompts else {}
    longest = max((len(rows) for rows in pack.values()), default=0)
    if longest >= text_rows:
        raise InputError(f"A prompt of {prompts} has {longest} tokens; --text-rows {text_rows} reads up to {text_rows - 1}.")
    clips = (clip, *(parse_shape(text, "--also") for text in also))
    cases = [demo_case(each, each.frames) for each in clips]
    request = ReleasedExport(
        checkpoint=str(folder), model=model, sizes=Architecture(config),
        clips=clips, plan=plan_for(config.variant, clip, steps),
        recipe=read_recipe(weights), backend=backend, decoders=tuple(decoders.split(",")), layout=layout, text_rows=text_rows,
        way=cast("Way", way), products=cast("Products", products), prompts=pack,
        portraits=tuple(case["portrait"] for case in cases), speeches=tuple(case["speech"] for case in cases),
    )  # fmt: skip
    budget = parse_bytes(memory) if memory else None
    return export_released(request, out, progress, force, jobs, budget, warn)
