"""Ablation of PhDA: the same model, clips, noise and plan under different modality weights, judged and recorded as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..config import NANO_CLIP, ClipSpec
from ..errors import ConfigError
from ..files import atomic_file
from ..phases import PhaseWeights
from ..programs import Model
from ..samplers import PlanOptions, build_plan
from .evaluate import ClipScore, generate, score_clips
from .puppets import PuppetClip

UNIFORM = "uniform"
BASELINE = {UNIFORM: PhaseWeights()}


def compare_modality_weights(
    model: Model,
    candidates: Mapping[str, PhaseWeights],
    options: PlanOptions,
    clips: list[PuppetClip],
    out: Path,
    seed: int = 0,
    clip: ClipSpec = NANO_CLIP,
) -> dict[str, ClipScore]:
    """Scores `uniform` (all weights 1) and every candidate on `clips` and writes the figures to `out`, which must not exist.

    The file holds, by name, the schedule, the weights of every step and the `ClipScore`, and beside them what all have in common:
    the rest of the plan, the seeds of clips and noise, the digest of the model's configuration. Clip i uses noise seed + i.

    Raises:
        ConfigError: a candidate is called `uniform`, or the options carry modality weights of their own.
    """
    if UNIFORM in candidates:
        raise ConfigError(f"A candidate is called {UNIFORM!r}, which is the baseline's name. Call it something else.")
    if options.modality != PhaseWeights():
        raise ConfigError("The options have modality weights of their own; give them as a candidate, so that uniform is uniform.")
    schedules = BASELINE | dict(candidates)
    plans = {name: build_plan(replace(options, modality=weights)) for name, weights in schedules.items()}
    common = json.loads(build_plan(options).to_json())
    record: dict[str, Any] = {
        "model": {"name": model.config.name, "config_sha256": model.config.digest},
        "plan": {key: value for key, value in common.items() if key != "modality_weights"},
        "clip_seeds": [one.seed for one in clips],
        "noise_seed": seed,
        "runs": {},
    }
    scores: dict[str, ClipScore] = {}
    with atomic_file(out) as partial:  # opened first: nothing is computed for a file that cannot be written
        for name, plan in plans.items():
            scores[name] = score_clips(generate(model, clips, plan, clip, seed), clips)
            weights, score = asdict(schedules[name]), asdict(scores[name])
            record["runs"][name] = {"schedule": weights, "modality_weights": plan.modality_weights, "score": score}
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return scores
