"""A bundle against a baseline that was recorded elsewhere: stage by stage, so that the first one to differ is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.bundle import CONDITION_PROGRAMS, DECODE_PROGRAMS, Bundle, Figures
from ...core.bundle.agreement import figures, lowest
from ...core.bundle.baseline import STAGES_SEEN, Baseline, noise_sha256, read_baseline
from ...core.config import ClipSpec
from ...core.errors import EngineError, InputError
from ...core.metrics.lipsync import lipsync
from ...core.metrics.psnr import in_words
from ...core.plan import SamplingPlan
from ...targets.bars import EXACT, FRAMES_END, FRAMES_LOSE
from ...targets.base import Precision
from ..engines.base import Array, Engine
from ..play.compared import ComparedPlayer
from ..play.player import PlayerConfig
from ..play.setting import decode_program
from .parity import Lipsync, Row, Verdict

Progress = Callable[[str, int, int], None]
ENCODED = ("audio_encoder", "image_encoder", "text_encoder", "vae_encode")
STEP = (*ENCODED, *CONDITION_PROGRAMS, "encode_conditions", "denoise")
# What flows into each stage, and what the stage is called; the first one that falls short names where to look.
FLOWS: dict[str, tuple[str, ...]] = {
    "features": ("audio_encoder",), "image": ("image_encoder",), "y": ("vae_encode",), "velocity": STEP,
    "latents": (*STEP, "denoise_reusing"), "frames": (*STEP, "denoise_reusing", *DECODE_PROGRAMS.values()),
}  # fmt: skip
NAMES = {
    "features": "features of the voice", "image": "tokens of the portrait", "y": "latents of what is known",
    "velocity": "velocity of the first step", "latents": "latents", "frames": "frames",
}  # fmt: skip
# A baseline whose transformer and VAE computed in a half type throughout, against full precision: the lowest stage before frames.
REFERENCE_BARS: dict[Precision, Figures] = {
    "fp32": EXACT,
    "bf16": Figures(psnr_db=45.0, cosine=0.9995),  # nano 58.6, the small model of the tests 57.9; full size untried
    "fp16": Figures(psnr_db=60.0, cosine=0.9999),  # nano 77.2; full size untried
}


@dataclass(frozen=True)
class BaselineVerdict(Verdict):
    """The rows are stages, in the order in which they follow from each other."""

    baseline: str = ""

    def sentence(self) -> str:
        failed = next((row for row in self.rows if row.failed), None)
        if failed is None and self.lipsync.failed:
            return f"The clip is the baseline {self.baseline}'s, but its mouth is not: lip-sync falls short."
        if failed is None:
            return f"Equal to the baseline {self.baseline} within the thresholds of its weights and types."
        return (
            f"This is not the clip of the baseline {self.baseline}: the first to differ are the {failed.name}, "
            f"{in_words(failed.measured.psnr_db)} where {in_words(failed.demanded.psnr_db)} are demanded."
        )


def verify_baseline(bundle: Bundle, engine: Engine, path: Path, progress: Progress = lambda *_: None) -> BaselineVerdict:
    """Plays the baseline's clip with `engine`, and compares each stage. What is demanded follows from the bundle's weights and
    types (of the engine torch: full precision) and from the type that the baseline was computed in.

    Raises:
        InputError: the files are damaged, or of another model, clip or plan than the bundle's; the message names what differs.
        EngineError: noise is made otherwise here than where the baseline was recorded.
    """
    baseline, arrays = read_baseline(path)
    clip = check_alike(bundle, baseline, path)
    config = PlayerConfig.of(bundle, clip)
    if "prompt" in arrays:
        config = replace(config, prompts={**config.prompts, baseline.prompt: arrays["prompt"]})
    decoder = decode_program(bundle, baseline.decoder)
    player = ComparedPlayer(config, engine, progress, decoder)
    shape = player.shape(clip.latent_frames)
    if noise_sha256(baseline.seed, shape) != baseline.noise_sha256:
        raise EngineError(
            f"The noise of seed {baseline.seed} is not the one of {path}: this machine does not compute as IEEE 754 says, or "
            "the file was changed."
        )
    made = player.generate(arrays["portrait"], arrays["speech"], baseline.prompt, baseline.seed)
    frames = np.stack(list(player.frames_of(made)))
    found = player.seen | {"frames": frames[[index for index in baseline.frames_kept if index < len(frames)]]}
    wanted = demanded_of(bundle, engine.name == "torch", baseline.precision, decoder or player.decoder)
    rows = [Row(NAMES[stage], _figures(stage, arrays[stage], found[stage]), wanted[stage]) for stage in STAGES_SEEN]
    return BaselineVerdict(tuple(rows), _lipsync(baseline, clip, arrays, frames), baseline=path.name)


def _figures(stage: str, reference: Array, measured: Array) -> Figures:
    if reference.shape != measured.shape:
        return Figures(psnr_db=0.0, cosine=0.0, max_abs=None)
    return figures(reference, measured, peak=255.0 if stage == "frames" else None)


def _lipsync(baseline: Baseline, clip: ClipSpec, arrays: Mapping[str, Array], frames: Array) -> Lipsync:
    """Of whole clips of models that have learned to speak."""
    if baseline.mouth_box is None or baseline.weights.kind == "seed" or len(baseline.frames_kept) != len(frames):
        return Lipsync()
    before, after = (lipsync(video, arrays["speech"], baseline.mouth_box, clip.fps) for video in (arrays["frames"], frames))
    return Lipsync(before, after)


def demanded_of(bundle: Bundle, reference: bool, precision: Precision, decoder: str) -> dict[str, Figures]:
    """By stage: the lowest of the bars of the programs that flow into it and of the type the baseline was computed in."""
    bars = {program.role: program.demanded or Figures() for program in bundle.manifest.programs.values()}
    other = [name for name in DECODE_PROGRAMS.values() if name != decoder]
    own = REFERENCE_BARS[precision]
    found = {}
    for stage, roles in FLOWS.items():
        flowing = [] if reference else [bars[role] for role in roles if role in bars and role not in other]
        found[stage] = lowest([EXACT, own if stage not in ("features", "image") else EXACT, *flowing])
    seen = found["frames"].psnr_db
    found["frames"] = Figures(psnr_db=None if seen is None else min(seen - FRAMES_LOSE, FRAMES_END))
    return found


# ---- what has to be alike -------------------------------------------------------------------------------------------------------


def check_alike(bundle: Bundle, baseline: Baseline, path: Path) -> ClipSpec:
    """The bundle's shape that the baseline is of.

    Raises:
        InputError: the two are of other models, weights, shapes or plans.
    """
    model, clip = bundle.model, baseline.clip.spec()

    def refuse(what: str, theirs: Any, ours: Any) -> InputError:
        return InputError(
            f"{path} and {bundle.root} are not of the same clip: {what} is {theirs} there and {ours} in the bundle. Record a "
            "baseline, or export a bundle, with the same."
        )

    for what, theirs, ours in (("model", baseline.model, model.name), ("layers", baseline.layers, model.layers)):
        if theirs != ours:
            raise refuse(what, theirs, ours)
    source, own = baseline.weights.source_sha256, bundle.manifest.model.source_sha256
    if source is not None and source != own:
        raise refuse("the weights' SHA-256", f"{source[:12]}…", f"{own[:12]}…")
    if clip not in bundle.clips:
        raise refuse("the shape", f"{clip}, {clip.fps} fps", ", ".join(map(str, bundle.clips)))
    if baseline.decoder not in bundle.manifest.playing.decoders:
        raise refuse("the decoder", baseline.decoder, ", ".join(bundle.manifest.playing.decoders))
    for what, theirs, ours in _plan_fields(baseline.sampling_plan(), bundle.plan(), clip.latent_frames):
        if not _same(theirs, ours):
            raise refuse(what, _told(theirs), _told(ours))
    return clip


def _plan_fields(theirs: SamplingPlan, ours: SamplingPlan, frames: int) -> list[tuple[str, Any, Any]]:
    """What two plans must have in common to make the same clip of one window."""

    def modality(plan: SamplingPlan) -> list[Any]:
        return [plan.modality(step, frames).tolist() for step in range(plan.steps)]

    fields: list[tuple[str, Callable[[SamplingPlan], Any]]] = [
        ("the number of steps", lambda plan: plan.steps),
        ("the branches", lambda plan: [branch.model_dump() for branch in plan.branches]),
        ("the solver", lambda plan: plan.solver_name), ("the list of timesteps", lambda plan: list(plan.timesteps)),
        ("the solver's table", lambda plan: [list(row) for row in plan.solver]),
        ("guidance", lambda plan: [list(row) for row in plan.guidance]), ("the strength of modalities", modality),
        ("feature reuse", lambda plan: [list(row) for row in plan.reuse]),
    ]  # fmt: skip
    return [(what, of(theirs), of(ours)) for what, of in fields]


def _same(left: Any, right: Any) -> bool:
    """Equal, numbers up to the last digits of float32: tables are computed by a library, on each machine for itself."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)
    return bool(left == right)


def _told(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
