"""What each rewrite of `targets/rewrites/hoist.py` saves of a step in time: the reference in PyTorch, random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...core.config import ClipSpec, ModelConfig
from ...core.model.programs import given_shapes
from ...core.model.transformer import DiT
from ...targets.rewrites.hoist import REWRITES, BranchInputs, HoistedStep

BLOCKS = 2  # of the model's, at full width: a step's time grows with their number, and so do the ratios' numerators
_SEED = 0


@dataclass(frozen=True)
class StepTime:
    """CPU seconds of one step with the rewrite `name` alone ("none", "all"), what left it being done before: the median."""

    name: str
    seconds: float


def measure_rewrites(
    config: ModelConfig,
    clip: ClipSpec,
    text_rows: int,
    rounds: int = 3,
    blocks: int = BLOCKS,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[StepTime, ...]:
    """One step of a model of `blocks` blocks, naive, with each rewrite alone, and with all; `rounds` of them, one after the other,
    so that what else the machine does falls on all alike."""
    generator = torch.Generator().manual_seed(_SEED)
    torch.manual_seed(_SEED)
    short = replace(config, layers=min(blocks, config.layers), coupled_layers=min(config.coupled_layers, blocks))
    dit = DiT(short).eval().requires_grad_(False)
    latents, inputs = _inputs(short, clip, text_rows, generator)
    chosen = {"none": (), **{rewrite.name: (rewrite,) for rewrite in REWRITES}, "all": REWRITES}
    steps = {name: HoistedStep(dit, clip, [500.0], rewrites, text_rows) for name, rewrites in chosen.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    with torch.no_grad():
        prepared = {name: step.prepare(inputs) for name, step in steps.items()}
        for number in range(rounds + 1):
            for name, step in steps.items():
                started = time.process_time()
                step(latents, 0, prepared[name])
                if number:  # the first round warms up
                    found[name].append(time.process_time() - started)
            progress("rewrites", number + 1, rounds + 1)
    return tuple(StepTime(name, statistics.median(seconds)) for name, seconds in found.items())


def _inputs(config: ModelConfig, clip: ClipSpec, text_rows: int, generator: torch.Generator) -> tuple[torch.Tensor, BranchInputs]:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latent = (clip.latent_frames, clip.latent_height, clip.latent_width)
    shapes = given_shapes(config, clip, text_rows - 1)
    given = BranchInputs(**{name: random(*shapes[name]) for name in ("y", "image", "audio")}, prompt=random(*shapes["text"][1:]))
    return random(1, config.latent_channels, *latent), given
