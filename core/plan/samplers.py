"""Builds a `SamplingPlan`: solver tables read off diffusers' schedulers, guidance, PNG, PhDA, long video and feature reuse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from . import (
    MAX_STEPS,
    Branch,
    Float64,
    NoiseRule,
    SamplingPlan,
    WindowRule,
    check_choice,
    check_count,
    check_number,
    check_seed,
)
from .phases import PROMPT, Phase, PhaseWeights, Terms, check_phases, phase_terms

if TYPE_CHECKING:
    from torch import Tensor

SOLVERS = ("euler", "unipc", "dpmpp")
SCHEDULES = ("wan", "diffusers")
NEGATIVE = "negative"  # the text condition of the released text guidance
NEGATIVE_PROMPT = "blurry picture, distorted face, frozen mouth, deformed hands, flicker"  # what it stands for by default
MAX_SHIFT = 100.0
MAX_SCALE = 100.0

ModulationTable = Callable[[Sequence[float]], Float64]  # timesteps (0..1000) -> [n, k] modulation vectors of the model
Velocity = Callable[["Tensor", float], "Tensor"]  # latents, timestep (0..1000) -> velocity of the same shape


# ---- 1. Guidance: branches and their weights in each step -----------------------------------------------------------------------


@dataclass(frozen=True)
class NoGuidance:
    """One branch with every condition: v = v_cond."""

    def terms(self, step: int, steps: int) -> Terms:
        return [(Branch.of(PROMPT), 1.0)]


@dataclass(frozen=True)
class AudioGuidance:
    """Upstream's flash guidance: v = v_0 + scale · (v_a - v_0), where v_0 has the same text and no audio.

    `dynamic` lowers the scale over the steps (`dynamic_scale`); `skip_ratio` r, 0..1, switches guidance off from step n(1 - r) on.
    Upstream takes that product as floating point gives it, so that 0.7 of 10 steps begins at step 4; `upstream_compat` does so too.
    """

    scale: float = 3.0
    dynamic: bool = False
    skip_ratio: float = 0.0
    upstream_compat: bool = False

    def __post_init__(self) -> None:
        check_number("audio guidance scale", self.scale, 0.0, MAX_SCALE)
        check_number("skip_ratio", self.skip_ratio, 0.0, 1.0)

    def terms(self, step: int, steps: int) -> Terms:
        if self.skips(step, steps):
            return NoGuidance().terms(step, steps)
        scale = dynamic_scale(self.scale, step, steps) if self.dynamic else self.scale
        return [(Branch.of(PROMPT), scale), (Branch.of(PROMPT, audio=False), 1.0 - scale)]

    def skips(self, step: int, steps: int) -> bool:
        """Whether guidance is off in step `step`."""
        return _skipped(step, steps, self.skip_ratio, slack=0.0 if self.upstream_compat else 1e-9)


@dataclass(frozen=True)
class TextAudioGuidance:
    """Upstream's preview guidance: v = v_u + g (v_d - v_u) + g_a (v_c - v_d).

    v_u has the negative text and no audio, v_d the prompt and no audio, v_c the prompt and the audio; g is `text`, g_a is `audio`,
    each lowered over the steps by its own dynamic flag. The negative text embedding is multiplied by `neg_scale` in the first
    `neg_steps` steps. Upstream multiplies the embedding that it has multiplied before, and in one step more than asked, so that
    step i sees neg_scale ^ (min(i, neg_steps) + 1) for ever after; `upstream_compat` repeats that.
    """

    text: float = 4.0
    audio: float = 2.9
    dynamic_text: bool = False
    dynamic_audio: bool = False
    skip_ratio: float = 0.0
    negative: str = NEGATIVE
    neg_scale: float = 1.0
    neg_steps: int = 0
    upstream_compat: bool = False

    def __post_init__(self) -> None:
        check_number("text guidance scale", self.text, 0.0, MAX_SCALE)
        check_number("audio guidance scale", self.audio, 0.0, MAX_SCALE)
        check_number("skip_ratio", self.skip_ratio, 0.0, 1.0)
        check_number("neg_scale", self.neg_scale, 0.0, 10.0)
        check_count("neg_steps", self.neg_steps, 0, MAX_STEPS)
        if self.negative == PROMPT:
            raise ConfigError(
                f"The negative text is {PROMPT!r}, the clip's own; text guidance would do nothing. Name another condition."
            )
        if self.upstream_compat and self.skip_ratio > 0:
            raise ConfigError(
                f"skip_ratio is {self.skip_ratio}; the original's preview pipeline stops there, its audio keeps three rows. Leave "
                "upstream_compat off, or skip_ratio at 0."
            )

    def terms(self, step: int, steps: int) -> Terms:
        if _skipped(step, steps, self.skip_ratio):
            return NoGuidance().terms(step, steps)
        text = dynamic_scale(self.text, step, steps) if self.dynamic_text else self.text
        audio = dynamic_scale(self.audio, step, steps) if self.dynamic_audio else self.audio
        return [
            (Branch.of(PROMPT), audio),
            (Branch.of(PROMPT, audio=False), text - audio),
            (Branch.of(self.negative, text_scale=self._negative_scale(step), audio=False), 1.0 - text),
        ]

    def _negative_scale(self, step: int) -> float:
        if self.upstream_compat:
            return float(self.neg_scale ** (min(step, self.neg_steps) + 1))
        return self.neg_scale if step < self.neg_steps else 1.0


Guidance = NoGuidance | AudioGuidance | TextAudioGuidance


def dynamic_scale(scale: float, step: int, steps: int) -> float:
    """Upstream's dynamic guidance: falls from `scale` to about half of it, by a cosine of the fifth power of what is left."""
    left = (steps - step) / steps
    return scale / 2.0 + scale / 2.0 * (1.0 - math.cos(math.pi * left**5)) / 2.0


def _skipped(step: int, steps: int, ratio: float, slack: float = 1e-9) -> bool:
    return step >= steps * (1.0 - ratio) - slack  # the slack keeps 10 * (1 - 0.7) at step 3


def _mix(steps_terms: Sequence[Terms]) -> tuple[list[Branch], list[list[float]]]:
    """The branches that some step evaluates, in order of first use, and their weights [n][B]."""
    weights = [_gathered(terms) for terms in steps_terms]
    branches = list(dict.fromkeys(branch for step in weights for branch in step))
    return branches, [[step.get(branch, 0.0) for branch in branches] for step in weights]


def _gathered(terms: Terms) -> dict[Branch, float]:
    """Sums per branch; sums that are only rounding (below 1e-12) are dropped, so that no branch is evaluated for nothing."""
    summands: dict[Branch, list[float]] = {}
    for branch, weight in terms:
        summands.setdefault(branch, []).append(weight)
    sums = {branch: math.fsum(values) for branch, values in summands.items()}
    return {branch: weight for branch, weight in sums.items() if abs(weight) > 1e-12}


# ---- 2. Feature reuse -----------------------------------------------------------------------------------------------------------

# Polynomials (highest power first) from the relative change of the modulation vectors to that of the block output, by backbone.
TEACACHE_COEFFICIENTS = {
    "wan2.1-fun-1.3b": (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2),
}
# Where that polynomial peaks. Beyond, its estimate falls and turns negative while the change grows: it was not fitted there.
TEACACHE_LIMITS = {"wan2.1-fun-1.3b": 0.0792}


@dataclass(frozen=True)
class FeatureReuse:
    """TeaCache (Liu et al., arXiv 2411.19108): a step adds the last computed residual of the block stack while little has changed.

    `threshold` bounds the accumulated estimate of the change; the first `skip_first` steps are always computed; `coefficients` is
    the polynomial that estimates the change of one step from the distance of its modulation vectors; a distance above
    `max_distance`, where the polynomial was not fitted, forces a computation. `upstream_compat` decides and shares residuals as the
    original does (`upstream_reuse_decisions`), which in flash silences audio guidance in most steps; it knows no `max_distance`.
    """

    threshold: float = 0.1
    skip_first: int = 5
    coefficients: tuple[float, ...] = TEACACHE_COEFFICIENTS["wan2.1-fun-1.3b"]
    max_distance: float = TEACACHE_LIMITS["wan2.1-fun-1.3b"]
    upstream_compat: bool = False

    def __post_init__(self) -> None:
        _check_reuse_arguments(self.coefficients, self.threshold, self.skip_first)
        if not self.max_distance > 0.0:
            raise ConfigError(f"max_distance is {self.max_distance!r}; it must be above 0 (infinite is allowed).")


def reuse_decisions(
    modulation_tables: Float64,
    coefficients: Sequence[float],
    threshold: float,
    skip_first: int,
    *,
    max_distance: float = math.inf,
    evaluated: Sequence[bool] | None = None,
) -> list[bool]:
    """Per step, whether one branch reuses its cached residual (true) or computes (false).

    Every branch has its own state, so the decision depends on the modulation vectors `modulation_tables` [n, k] alone. From step
    to step the estimate max(0, poly(mean|e_i - e_{i-1}| / mean|e_{i-1}|)) is added up, infinite above `max_distance`; a step
    computes, and starts again from 0, if the sum has reached `threshold`, if it is one of the first `skip_first`, or if the branch
    has no residual yet. `evaluated` [n] marks the steps in which guidance needs the branch (all by default); the sum grows in the
    others too.

    Raises:
        ConfigError: an argument is out of range or shapes disagree.
    """
    _check_reuse_arguments(coefficients, threshold, skip_first)
    distances = _distances(modulation_tables)
    needed = [True] * len(distances) if evaluated is None else list(evaluated)
    if len(needed) != len(distances):
        raise ConfigError(f"evaluated has {len(needed)} steps; the modulation tables have {len(distances)}.")
    decisions, accumulated, cached = [], 0.0, False
    for step, distance in enumerate(distances):
        accumulated += max(0.0, float(np.polyval(coefficients, distance))) if distance <= max_distance else math.inf
        reused = needed[step] and cached and step >= skip_first and accumulated < threshold
        if needed[step] and not reused:
            accumulated, cached = 0.0, True
        decisions.append(reused)
    return decisions


def upstream_reuse_decisions(
    modulation_tables: Float64,
    coefficients: Sequence[float],
    threshold: float,
    skip_first: int,
    calls_per_step: int | Sequence[int],
) -> list[list[bool]]:
    """What upstream decides, [n][calls of that step], true where it reuses. `calls_per_step` may differ from step to step.

    One state serves every call of a step. The counter counts calls but is reset at the number of steps; with two calls per step it
    restarts half-way, and the second call, whose distance is 0, adds poly(0) and reuses the residual of the first.

    Raises:
        ConfigError: an argument is out of range.
    """
    _check_reuse_arguments(coefficients, threshold, skip_first)
    distances = _distances(modulation_tables)
    calls = [calls_per_step] * len(distances) if isinstance(calls_per_step, int) else list(calls_per_step)
    if len(calls) != len(distances):
        raise ConfigError(f"calls_per_step has {len(calls)} steps; the modulation tables have {len(distances)}.")
    for count in calls:
        check_count("calls_per_step", count, 1, 8)
    decisions: list[list[bool]] = []
    count, accumulated = 0, 0.0
    for distance, calls_of_step in zip(distances, calls, strict=True):
        decisions.append([])
        for call in range(calls_of_step):
            if count < skip_first:
                reused, accumulated = False, 0.0
            else:
                accumulated += float(np.polyval(coefficients, distance if call == 0 else 0.0))
                reused = accumulated < threshold
                accumulated = accumulated if reused else 0.0
            decisions[-1].append(reused)
            count += 1
            if count == len(distances):
                count, accumulated = 0, 0.0
    return decisions


def _distances(modulation_tables: Float64) -> list[float]:
    """[n] relative change of the modulation vector since the step before; 0 for the first step."""
    table = np.asarray(modulation_tables, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ConfigError(f"Modulation tables must be finite numbers of shape [steps, values]; got shape {table.shape}.")
    means = np.abs(table).mean(axis=1)
    if not means[:-1].all():
        raise ConfigError(f"The modulation vector of step {int(means.argmin())} is all zero; its change has no measure.")
    return [0.0, *(np.abs(np.diff(table, axis=0)).mean(axis=1) / means[:-1]).tolist()]


def _check_reuse_arguments(coefficients: Sequence[float], threshold: float, skip_first: int) -> None:
    if not coefficients or not all(math.isfinite(value) for value in coefficients):
        raise ConfigError(f"coefficients are {coefficients!r}; give finite numbers, highest power first.")
    check_number("threshold", threshold, 0.0, math.inf)
    check_count("skip_first", skip_first, 1, MAX_STEPS)


# ---- 3. Schedules and solver tables ---------------------------------------------------------------------------------------------


def shifted(sigma: Any, shift: float) -> Any:
    """f_k(s) = k s / (1 + (k - 1) s): moves noise levels (0..1) towards noise for k > 1."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def wan_sigmas(solver: str, steps: int, shift: float, constructor_shift: float) -> Float64:
    """Noise levels [n] of upstream's own UniPC and DPM++ schedulers, without the final 0.

    UniPC shifts a grid that starts at the constructor's largest sigma (kept in float32); DPM++ shifts a grid from 1, twice when the
    constructor has a shift too (as the preview pipeline does).
    """
    if solver == "unipc":
        largest = float(np.float32(shifted(0.999, constructor_shift)))
        return np.asarray(shifted(np.linspace(largest, 0.0, steps + 1)[:-1], shift), dtype=np.float64)
    return np.asarray(shifted(shifted(np.linspace(1.0, 0.0, steps + 1)[:-1], shift), constructor_shift), dtype=np.float64)


def scheduler_for(
    solver: str, schedule: str, steps: int, shift: float, constructor_shift: float = 1.0, levels: Sequence[float] = ()
) -> Any:
    """diffusers' scheduler for these options, ready to step from noise. Arguments as in `PlanOptions`."""
    import diffusers
    import torch

    library: Any = diffusers  # its classes carry no types
    scheduler: Any
    own = schedule == "diffusers"  # for Euler the two schedules are the same: upstream uses diffusers' class
    if solver == "euler":
        scheduler = library.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(steps, sigmas=list(levels) or None)
    elif solver == "unipc":
        scheduler = library.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift if own else 1.0,
            solver_order=2, solver_type="bh2", predict_x0=True,
        )  # fmt: skip
        if own:
            scheduler.set_timesteps(steps)
        else:
            scheduler.set_timesteps(sigmas=wan_sigmas(solver, steps, shift, constructor_shift))
    else:
        scheduler = library.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift,
            algorithm_type="dpmsolver++", solver_type="midpoint", solver_order=2,
        )  # fmt: skip
        scheduler.set_timesteps(steps)
        if not own:  # this class takes no sigmas, so they replace its own; set_timesteps has just reset the multistep state
            sigmas = wan_sigmas(solver, steps, shift, constructor_shift)
            scheduler.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
            scheduler.timesteps = torch.from_numpy((sigmas * 1000.0).astype(np.int64))
    scheduler.set_begin_index(0)  # whole-number timesteps can repeat, and the schedulers would look the step up by its timestep
    return scheduler


def solver_table(scheduler: Any) -> list[list[float]]:
    """Reads the linear map of a deterministic scheduler off the scheduler itself, by stepping it on basis vectors in float64.

    `scheduler` is fresh from `scheduler_for` and is used up. Row i of the result has i+2 coefficients over [noise, v_0 .. v_i].
    """
    import torch

    class Exact(torch.Tensor):
        """A float64 tensor that stays one: Euler and DPM++ raise bf16 latents with `.to(float32)`, which would round ours."""

        def to(self, *args: Any, **kwargs: Any) -> Exact:
            return self

    scheduler.sigmas = scheduler.sigmas.double()
    count = len(scheduler.timesteps)
    basis = torch.eye(count + 1, dtype=torch.float64).as_subclass(Exact)
    state, rows = basis[:1], []
    for step, timestep in enumerate(scheduler.timesteps):
        state = scheduler.step(basis[step + 1 : step + 2], timestep, state, return_dict=False)[0]
        rows.append(state[0, : step + 2].tolist())
    return rows


def upstream_trajectory(options: PlanOptions, noise: Tensor, velocity: Velocity) -> Tensor:
    """The n+1 states [n+1, ...] that upstream's own scheduler arithmetic gives from `noise`, in the type of `noise`.

    For comparison only. A plan's table is exact and played in float32; upstream steps its scheduler in the type of the latents, so
    that a bfloat16 pipeline rounds inside of UniPC's steps. `velocity` has the type and shape of the latents.
    """
    import torch

    scheduler = scheduler_for(options.solver, options.schedule, options.steps, options.shift, options.constructor_shift)
    states = [noise]
    for timestep in scheduler.timesteps:
        v = velocity(states[-1], float(timestep)).to(noise.dtype)
        states.append(scheduler.step(v, timestep, states[-1], return_dict=False)[0])
    return torch.stack(states)


# ---- 4. The plan ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanOptions:
    """Everything that a plan is built from. The defaults are those of the released flash pipeline.

    `solver` is euler, unipc (order 2, B2(h), data prediction) or dpmpp (2M midpoint); `schedule` is `wan`, upstream's noise
    levels, or `diffusers`, the scheduler's own. `steps` is 1..1000. `shift` (0..100) moves the levels towards noise;
    `constructor_shift` is the second shift that upstream's preview pipeline applies to unipc and dpmpp. `phases` (PNG) add to
    whatever `guidance` gives, also in steps that guidance skips; `modality` is PhDA; `window` cuts long clips; `texts` says what
    text conditions stand for (those that no branch has are left out); `seed` is the default of the player.
    """

    solver: str = "unipc"
    schedule: str = "wan"
    steps: int = 8
    shift: float = 5.0
    constructor_shift: float = 1.0
    guidance: Guidance = field(default_factory=AudioGuidance)
    phases: tuple[Phase, ...] = ()
    modality: PhaseWeights = field(default_factory=PhaseWeights)
    reuse: FeatureReuse | None = None
    window: WindowRule | None = None
    texts: tuple[tuple[str, str], ...] = ()  # name, text
    seed: int = 0
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, SOLVERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_count("steps", self.steps, 1, MAX_STEPS)
        for name in ("shift", "constructor_shift"):
            check_number(name, getattr(self, name), 0.01, MAX_SHIFT)
        if self.constructor_shift != 1.0 and (self.schedule != "wan" or self.solver == "euler"):
            raise ConfigError(
                f"constructor_shift is {self.constructor_shift}, but {self.solver} with the {self.schedule} schedule has one shift "
                "only. Leave it at 1, or use the wan schedule with unipc or dpmpp."
            )
        if not isinstance(self.guidance, Guidance):
            raise ConfigError(f"guidance is {self.guidance!r}; give NoGuidance, AudioGuidance or TextAudioGuidance.")
        check_seed(self.seed)
        if self.levels and (self.solver != "euler" or len(self.levels) != self.steps or self.shift != 1.0):
            raise ConfigError(
                f"levels are {self.levels} for {self.steps} steps of {self.solver} with shift {self.shift:g}. They go with Euler's "
                "steps, one for each, and with a shift of 1."
            )


VOICE_EARLY = PhaseWeights(((1.0, (1.0, 1.0, 1.3)), (0.3, (1.0, 1.0, 0.8))))
"""nano's PhDA: the voice counts more while motion is laid out and less at the end. Of six schedules, measured by `echoedge train
study --only choices`, it keeps the mouth nearest to the truth's amplitude and the background cleanest (core/assets/README.md)."""

PLAN_PRESETS = {
    "nano": PlanOptions(
        steps=8, shift=3.0, guidance=AudioGuidance(1.5), modality=VOICE_EARLY, window=WindowRule(length=7, overlap=3)
    ),
    "nano-png": PlanOptions(
        steps=8, shift=3.0, guidance=AudioGuidance(1.5), modality=VOICE_EARLY, window=WindowRule(length=7, overlap=3),
        phases=(Phase(1.0, 0.8, misaligned=0.3), Phase(0.8, 0.0, negatives=(("still mouth", 0.3),))),
    ),
    "flash": PlanOptions(),
    "preview": PlanOptions(
        solver="euler", steps=25,
        guidance=TextAudioGuidance(text=4.0, audio=2.9, dynamic_text=True, dynamic_audio=True, neg_scale=1.5, neg_steps=2),
        texts=((NEGATIVE, NEGATIVE_PROMPT),),
    ),
}  # fmt: skip
"""Plans by name. `nano-png` adds negatives to nano's: misaligned speech while motion is laid out, a still mouth after."""

NANO_PLANS = ("nano", "nano-png")


def build_plan(options: PlanOptions, modulation: ModulationTable | None = None) -> SamplingPlan:
    """The plan for `options`.

    `modulation` gives the model's modulation vectors [n, k] for the plan's timesteps; only feature reuse needs it.

    Raises:
        ConfigError: two options do not go together; the message says which.
    """
    if options.window is not None and options.window.upstream_compat and options.solver != "euler":
        raise ConfigError(
            f"The original shares the state of {options.solver} between windows and fails. Use euler, or leave upstream_compat off."
        )
    scheduler = scheduler_for(
        options.solver, options.schedule, options.steps, options.shift, options.constructor_shift, options.levels
    )
    timesteps = [min(1000.0, float(timestep)) for timestep in scheduler.timesteps]  # Euler's float32 shift can give 1000.0001
    sigmas = [min(1.0, float(sigma)) for sigma in scheduler.sigmas]
    check_phases(options.phases, timesteps)
    active = _guidance_in_windows(options)
    terms = [active.terms(i, options.steps) + phase_terms(options.phases, timestep) for i, timestep in enumerate(timesteps)]
    branches, guidance = _mix(terms)
    frames = options.window.length if options.window else None
    reuse, slots = _reuse(options, branches, guidance, timesteps, modulation)
    fields: dict[str, Any] = {
        "solver_name": options.solver,
        "schedule": options.schedule,
        "shift": float(options.shift),
        "constructor_shift": float(options.constructor_shift),
        "timesteps": timesteps,
        "sigmas": sigmas,
        "solver": solver_table(scheduler),
        "branches": branches,
        "guidance": guidance,
        "modality_weights": [options.modality.at(timestep, frames).tolist() for timestep in timesteps],
        "reuse": reuse,
        "residual_slots": slots,
        "texts": {name: text for name, text in options.texts if any(branch.text == name for branch in branches)},
        "window": options.window,
        "noise": NoiseRule(seed=check_seed(options.seed)),
    }
    return SamplingPlan(**fields)


def _guidance_in_windows(options: PlanOptions) -> Guidance:
    """The guidance itself; the original's latent long video knows no `neg_scale`."""
    guidance = options.guidance
    if isinstance(guidance, TextAudioGuidance) and options.window is not None and options.window.upstream_compat:
        return replace(guidance, neg_scale=1.0, neg_steps=0)
    return guidance


def _reuse(
    options: PlanOptions,
    branches: Sequence[Branch],
    guidance: list[list[float]],
    timesteps: list[float],
    modulation: ModulationTable | None,
) -> tuple[list[list[bool]], list[int] | None]:
    """[n][B] reuse flags and the branches' residual slots: each branch decides for itself and keeps its own, unless the original's
    shared state is asked for."""
    option = options.reuse
    if option is None:
        return [[False] * len(row) for row in guidance], None
    if modulation is None:
        raise ConfigError("Feature reuse needs the model's modulation vectors: build_plan(options, modulation=...).")
    table = modulation(timesteps)
    if len(table) != len(timesteps):
        raise ConfigError(f"modulation gave {len(table)} vectors for {len(timesteps)} timesteps.")
    if option.upstream_compat:
        return _upstream_reuse(options, option, branches, guidance, table)
    columns = [
        reuse_decisions(
            table, option.coefficients, option.threshold, option.skip_first,
            max_distance=option.max_distance, evaluated=[weight != 0 for weight in weights],
        )
        for weights in zip(*guidance, strict=True)
    ]  # fmt: skip
    return [list(row) for row in zip(*columns, strict=True)], None


def _upstream_reuse(
    options: PlanOptions, option: FeatureReuse, branches: Sequence[Branch], guidance: list[list[float]], table: Float64
) -> tuple[list[list[bool]], list[int]]:
    """As `_reuse`, with the original's one state: flash calls the model once per branch and all calls share one residual; preview
    calls it once per step with a row per branch, and a row keeps its residual whatever its text is scaled by."""
    if options.phases or options.window is not None:
        raise ConfigError("Feature reuse with upstream_compat goes with neither phases nor windows: the original mixes them up.")
    if isinstance(options.guidance, AudioGuidance) and options.guidance.scale in (0.0, 1.0):
        raise ConfigError(
            f"The audio guidance scale is {options.guidance.scale}, which leaves one branch out of the plan; the original would "
            "still run it and share its residual. Leave upstream_compat off."
        )
    evaluated = [[index for index, weight in enumerate(row) if weight != 0] for row in guidance]
    rows = isinstance(options.guidance, TextAudioGuidance)
    calls = [1 if rows else len(step) for step in evaluated]
    decisions = upstream_reuse_decisions(table, option.coefficients, option.threshold, option.skip_first, calls)
    flags = [[False] * len(branches) for _ in guidance]
    for step, indices in enumerate(evaluated):
        for call, index in enumerate(indices):
            flags[step][index] = decisions[step][0 if rows else call]
    return flags, [(0 if branch.audio else 1 if branch.text == PROMPT else 2) if rows else 0 for branch in branches]
