"""The sampler as data: `SamplingPlan`, and the arithmetic that any player repeats to the letter.

A plan decides how noise becomes latents, so that a player only evaluates programs and takes linear combinations:

1. `noise(seed, shape)` gives `h[0]`, the same bits in every language.
2. Step `i` evaluates each branch `b` with `guidance[i][b] != 0`, once per window (`windows`), at `timesteps[i]` and with the
   modality weights `plan.modality(i, frames)`; where `reuse[i][b]` holds, the branch's last residual stands in for the blocks.
3. `guide` mixes the branches of a window, `blend` the windows of a clip: the velocity `h[i+1]`.
4. `advance` gives the next latents, `x[i+1] = Σ_k solver[i][k] · h[k]`.

The accumulation rule, the same in 3 and 4: terms are taken in ascending index; a term whose weight is zero is left out; each
product and each sum is a float64 operation on widened inputs; the result is rounded once, to nearest even, to float32.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import BundleError, ConfigError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

FORMAT: Final = "echoedge.plan/1"
NOISE_GENERATOR: Final = "philox4x32-10/box-muller/1"
MAX_SEED = 2**64 - 1
MAX_STEPS = 1000  # the model was trained on 1,000 timesteps
MAX_AUDIO_SHIFT = 10_000  # video frames
MAX_MODALITY_WEIGHT = 10.0  # 1 is the released strength
CONSISTENCY_TOLERANCE = 1e-3  # of a solver row; the tables read off diffusers are within 1e-9

Coefficient = Annotated[float, Field(ge=-1e6, le=1e6)]
ModalityWeight = Annotated[float, Field(ge=0.0, le=MAX_MODALITY_WEIGHT)]
Row = tuple[Coefficient, ...]


# ---- 1. The plan ----------------------------------------------------------------------------------------------------------------


class _Record(BaseModel):
    """A frozen record that accepts lists for tuples and reports what is wrong as a ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(_explain(type(self).__name__, error)) from error

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, data: Any) -> Any:
        return {key: _frozen(value) for key, value in data.items()} if isinstance(data, dict) else data


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _explain(name: str, error: ValidationError) -> str:
    """One sentence about the first fault, with the place and the value."""
    faults = error.errors(include_url=False)
    fault = faults[0]
    place = ".".join(str(part) for part in fault["loc"])
    more = f" ({len(faults) - 1} more.)" if len(faults) > 1 else ""
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # raised by a validator below: a whole sentence already
        return f"{place}: {cause}{more}" if place else f"{cause}{more}"
    if fault["type"] == "missing":
        return f"{name}.{place} is missing.{more}"
    if fault["type"] == "extra_forbidden":
        return f"{name} has no field {place!r}.{more}"
    return f"{name}.{place} is {reprlib.repr(fault['input'])}. {fault['msg']}.{more}"


class Branch(_Record):
    """One evaluation of the denoiser with its own conditions.

    `text` names a text condition: `prompt`, a negative such as `negative`, or "" for the empty text. `text_scale` multiplies the
    text encoder's output before padding and the text MLP. Without `image` or `audio` the branch sees zero features of that kind.
    With `audio_shift` it hears each window's speech that many video frames late, what falls off the end coming first; a whole
    number of windows late is on time again.
    """

    name: str = Field(min_length=1)
    text: str
    text_scale: float = Field(default=1.0, ge=0.0, le=1e12)
    image: bool = True
    audio: bool = True
    audio_shift: int = Field(default=0, ge=0, le=MAX_AUDIO_SHIFT)

    @model_validator(mode="after")
    def _hears_what_is_shifted(self) -> Branch:
        if self.audio_shift and not self.audio:
            raise ConfigError(f"audio_shift is {self.audio_shift} in a branch without audio; leave one of them out.")
        return self

    @classmethod
    def of(cls, text: str, *, text_scale: float = 1.0, image: bool = True, audio: bool = True, audio_shift: int = 0) -> Branch:
        """The branch with the name that follows from its conditions, such as `negative*1.5/no-audio` or `prompt/audio+8`."""
        name = text or "empty"
        name += "" if text_scale == 1.0 else f"*{text_scale:.6g}"
        name += ("" if image else "/no-image") + ("" if audio else "/no-audio") + (f"/audio+{audio_shift}" if audio_shift else "")
        return cls(name=name, text=text, text_scale=text_scale, image=image, audio=audio, audio_shift=audio_shift)

    def hear(self, audio: Float32, rows_per_frame: int = 1) -> Float32:
        """What this branch hears of a window's speech, [1, rows, …] with `rows_per_frame` rows per video frame: as it is, late, or
        zeros."""
        if not self.audio:
            return np.zeros_like(audio)
        return np.roll(audio, self.audio_shift * rows_per_frame, axis=1) if self.audio_shift else audio


class WindowRule(_Record):
    """How a long clip is cut: windows of `length` latent frames, each overlapping the one before by at least `overlap` of them.

    `anchor` says what a window after the first knows of the picture: with `window` it starts from the picture, as the first one
    does and as clips did in training; with `clip` it knows what the clip knows in those frames, nothing when only the first frame
    is given (nano then loses the identity, docs/RELEASED_MODEL.md). `upstream_compat` repeats the original's latent long video to
    the letter, see `windows`.
    """

    length: int = Field(ge=1)
    overlap: int = Field(ge=0)
    anchor: Literal["window", "clip"] = "window"
    upstream_compat: bool = False

    @model_validator(mode="after")
    def _advances(self) -> WindowRule:
        if self.overlap >= self.length:
            raise ConfigError(f"window overlap is {self.overlap}; it must be less than the window's {self.length} latent frames.")
        if self.upstream_compat and self.anchor != "window":
            raise ConfigError("upstream_compat gives every window the picture as its first frame: set anchor to 'window'.")
        return self


class NoiseRule(_Record):
    """The generator that `noise` implements, and the seed when the user gives none: an unsigned 64-bit integer."""

    generator: Literal["philox4x32-10/box-muller/1"] = NOISE_GENERATOR
    seed: int = Field(default=0, ge=0, le=MAX_SEED)


class SamplingPlan(_Record):
    """How noise becomes latents in n steps with B guidance branches.

    Players read:
        timesteps: [n] model timesteps, 1000 (noise) to 0 (clean), never rising.
        sigmas: [n+1] noise levels, 1 to 0, falling strictly, the last one 0.
        solver: n rows; row i has i+2 coefficients over the history [noise, v_0 .. v_i] and gives x_{i+1}.
        branches: [B].
        guidance: [n][B] weights, each row summing to 1; a branch of weight 0 is not evaluated in that step.
        modality_weights: [n][3][P] strengths of text, image and audio, 0..10 (1 = as released), P = 1 for every latent frame or one
            per latent frame of a window.
        reuse: [n][B]; true adds the cached residual of the branch's slot, one per window, instead of running the blocks.
        residual_slots: [B] where each branch keeps its residual; null gives every branch its own. Branches of one step are
            evaluated in their order, and a later one may reuse what an earlier one of the same slot has just left.
        texts: what text conditions other than the prompt stand for, by name; one that is not here stands for itself.
        window: how a long clip is cut, or null to take the clip at once.
        noise: the generator and the default seed.
    Kept for the record, not needed to play: solver_name, schedule, shift, constructor_shift.

    Raises:
        ConfigError: a field is missing, unknown, out of range, or two fields disagree.
    """

    format: Literal["echoedge.plan/1"] = FORMAT
    solver_name: str
    schedule: str
    shift: float = Field(gt=0.0)
    constructor_shift: float = Field(default=1.0, gt=0.0)
    timesteps: tuple[Annotated[float, Field(ge=0.0, le=1000.0)], ...] = Field(min_length=1, max_length=MAX_STEPS)
    sigmas: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]
    solver: tuple[Row, ...]
    branches: tuple[Branch, ...] = Field(min_length=1)
    guidance: tuple[Row, ...]
    modality_weights: tuple[tuple[tuple[ModalityWeight, ...], ...], ...]
    reuse: tuple[tuple[bool, ...], ...]
    residual_slots: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    texts: dict[str, str] = {}
    window: WindowRule | None = None
    noise: NoiseRule = NoiseRule()

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def spans(self) -> tuple[float, ...]:
        """[n] by how much of 0 … 1000 the noise falls in each step: what a student is told beside the timestep."""
        return tuple(1000.0 * (before - after) for before, after in pairwise(self.sigmas))

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations per window that run the blocks."""
        return sum(not self.reuse[step][branch] for step in range(self.steps) for branch in self.evaluated(step))

    def evaluated(self, step: int) -> tuple[int, ...]:
        """Indices of the branches whose velocity step `step` needs, computed or reused."""
        return tuple(index for index, weight in enumerate(self.guidance[step]) if weight != 0)

    def residual_slot(self, branch: int) -> int:
        """Where branch `branch` keeps and finds its residual."""
        return branch if self.residual_slots is None else self.residual_slots[branch]

    def modality(self, step: int, frames: int) -> Float32:
        """Strengths of (text, image, audio) at each latent frame, [3, frames].

        Raises:
            ConfigError: the plan holds weights for another number of latent frames.
        """
        weights = np.asarray(self.modality_weights[step], dtype=np.float32)
        if weights.shape[1] not in (1, frames):
            raise ConfigError(f"The plan's modality weights are for {weights.shape[1]} latent frames; {frames} are played.")
        return np.array(np.broadcast_to(weights, (3, frames)))

    def to_json(self) -> str:
        """The plan as JSON with sorted keys, one top-level field per line; equal plans give equal text."""
        fields = sorted(self.model_dump(mode="json").items())
        lines = [f'"{key}": {json.dumps(value, sort_keys=True, allow_nan=False)}' for key, value in fields]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> SamplingPlan:
        """Inverse of `to_json`.

        Raises:
            BundleError: the text is not JSON, not of this format, or not a plan that can be played.
        """
        try:
            data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
            if not isinstance(data, dict):
                raise ConfigError(f"It is {reprlib.repr(data)}, not an object.")
            if data.get("format") != FORMAT:
                raise ConfigError(f"Its format is {reprlib.repr(data.get('format'))}; this version reads {FORMAT!r}.")
            return cls(**data)
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, too deep, and every ConfigError
            fault = str(error).rstrip(".")
            raise BundleError(f"This is not a sampling plan that can be played. {fault}. Build the bundle again.") from error

    @model_validator(mode="after")
    def _consistent(self) -> SamplingPlan:
        _check_shapes(self)
        _check_schedule(self)
        _check_solver(self)
        _check_guidance(self)
        _check_texts(self)
        _check_reuse(self)
        return self


def _no_constant(token: str) -> NoReturn:
    raise ConfigError(f"It holds the number {token}; every number must be finite.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"The key {repeated!r} appears twice.")
    return data


def _check_shapes(plan: SamplingPlan) -> None:
    n, b = plan.steps, len(plan.branches)
    rows = {"solver": plan.solver, "guidance": plan.guidance, "modality_weights": plan.modality_weights, "reuse": plan.reuse}
    for field, value in rows.items():
        if len(value) != n:
            raise ConfigError(f"{field} has {len(value)} rows for {n} timesteps.")
    if len(plan.sigmas) != n + 1:
        raise ConfigError(f"There are {len(plan.sigmas)} sigmas for {n} timesteps; {n + 1} are needed.")
    for i, row in enumerate(plan.solver):
        if len(row) != i + 2:
            raise ConfigError(f"solver row {i} has {len(row)} coefficients; the history of that step has {i + 2} entries.")
    for i in range(n):
        if len(plan.guidance[i]) != b or len(plan.reuse[i]) != b:
            raise ConfigError(
                f"Step {i} has {len(plan.guidance[i])} guidance weights and {len(plan.reuse[i])} reuse flags for {b} branches."
            )
    positions = {len(modality) for row in plan.modality_weights for modality in row} or {0}
    if any(len(row) != 3 for row in plan.modality_weights) or len(positions) > 1 or 0 in positions:
        raise ConfigError(
            "modality_weights must be [steps][3][P]: rows of text, image and audio, all with the same P of at least 1."
        )
    count = positions.pop()
    if plan.window is not None and count not in (1, plan.window.length):
        raise ConfigError(
            f"modality_weights are for {count} latent frames; a window has {plan.window.length}. Give 1 or that many."
        )


def _check_schedule(plan: SamplingPlan) -> None:
    for i, (before, after) in enumerate(pairwise(plan.timesteps)):
        if after > before:
            raise ConfigError(f"timesteps rise from {before} to {after} after step {i}; they go from noise (1000) to clean (0).")
    for i, (before, after) in enumerate(pairwise(plan.sigmas)):
        if after >= before:
            raise ConfigError(f"sigmas do not fall from {before} to {after} after step {i}. Use fewer steps or a smaller shift.")
    if plan.sigmas[-1] != 0.0:
        raise ConfigError(f"The last sigma is {plan.sigmas[-1]}; sampling must end at 0, or noise stays in the clip.")


def _check_solver(plan: SamplingPlan) -> None:
    """Each row must solve dx/dσ = v exactly for a constant v: weight 1 on the noise, σ_{i+1} - σ_0 in all on the velocities."""
    for i, row in enumerate(plan.solver):
        span = plan.sigmas[i + 1] - plan.sigmas[0]
        moved = math.fsum(row[1:])
        if abs(row[0] - 1.0) > CONSISTENCY_TOLERANCE or abs(moved - span) > CONSISTENCY_TOLERANCE:
            raise ConfigError(
                f"solver row {i} weighs the noise by {row[0]:.6g} and the velocities by {moved:.6g} in all; "
                f"the sigmas ask for 1 and {span:.6g}. The table belongs to another schedule."
            )


def _check_guidance(plan: SamplingPlan) -> None:
    names = [branch.name for branch in plan.branches]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two branches are called {name!r}; names must differ.")
    for i, row in enumerate(plan.guidance):
        total = math.fsum(row)
        if abs(total - 1.0) > 1e-6:
            raise ConfigError(
                f"The guidance weights of step {i} sum to {total:.9g}; they must sum to 1: guidance mixes, it does not scale."
            )


def _check_texts(plan: SamplingPlan) -> None:
    used = {branch.text for branch in plan.branches}
    for name in plan.texts:
        if name not in used:
            raise ConfigError(f"texts says what {name!r} stands for; the branches' text conditions are {', '.join(sorted(used))}.")


def _check_reuse(plan: SamplingPlan) -> None:
    if plan.residual_slots is not None and len(plan.residual_slots) != len(plan.branches):
        raise ConfigError(f"There are {len(plan.residual_slots)} residual slots for {len(plan.branches)} branches.")
    filled: set[int] = set()
    for i, flags in enumerate(plan.reuse):
        for b, reused in enumerate(flags):
            name = plan.branches[b].name
            if reused and plan.guidance[i][b] == 0:
                raise ConfigError(f"Step {i} reuses branch {name!r}, whose guidance weight is 0 there.")
            if reused and plan.residual_slot(b) not in filled:
                raise ConfigError(f"Step {i} reuses branch {name!r} before any step has computed it.")
            if not reused and plan.guidance[i][b] != 0:
                filled.add(plan.residual_slot(b))


# ---- 2. Windows -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Latent frames `start` to `end - 1` of a clip, and the share of this window in each of them (0..1)."""

    start: int
    length: int
    weights: tuple[float, ...]

    @property
    def end(self) -> int:
        return self.start + self.length


def windows(total: int, rule: WindowRule, step: int = 0) -> list[Window]:
    """Long Video CFG (arXiv 2507.03905): windows that cover `total` latent frames and, per frame, shares that sum to 1.

    Windows advance by `length - overlap`. All have exactly `length` frames, because programs have static shapes; so the last one is
    shifted left until it ends with the clip, and overlaps more. Where a window meets the ones before it on o frames, its share on
    the j-th of them is r = j / (o - 1), 0 to 1 with both ends, and theirs are multiplied by 1 - r: on the first shared frame the
    earlier windows win, on the last one the new window does. With o = 1 the shared frame stays with the earlier windows (r = 0);
    with o = 0 there is no cross-fade. `step` does not matter.

    With `upstream_compat` it does: the last window keeps the hop and has the frames that are left, later windows replace earlier
    ones without a cross-fade in step 0, and a clip shorter than a window has no windows at all: its latents stay zero.

    Raises:
        ConfigError: the clip is shorter than one window; or, with `upstream_compat`, as long as one, where the original never ends.
    """
    if rule.upstream_compat:
        return _upstream_windows(total, rule, cross_fade=step > 0)
    if total < rule.length:
        raise ConfigError(f"The clip has {total} latent frames; a window needs {rule.length}. Pad the clip to {rule.length}.")
    hop = rule.length - rule.overlap
    starts = [*range(0, total - rule.length, hop), total - rule.length]
    shares = np.zeros((len(starts), total))
    covered = 0  # latent frames that the windows so far reach
    for index, start in enumerate(starts):
        shared = covered - start
        rise = np.ones(rule.length)
        rise[:shared] = np.arange(shared) / max(1, shared - 1)
        shares[:index, start : start + rule.length] *= 1.0 - rise
        shares[index, start : start + rule.length] = rise
        covered = start + rule.length
    return [
        Window(start, rule.length, tuple(shares[index, start : start + rule.length].tolist())) for index, start in enumerate(starts)
    ]


def _upstream_windows(total: int, rule: WindowRule, cross_fade: bool) -> list[Window]:
    """What the original does, defects included; see `windows`."""
    if total < rule.length:
        return []
    if total == rule.length:
        raise ConfigError(
            f"The original never ends on a clip of {total} latent frames with windows of as many. Leave upstream_compat off."
        )
    hop = rule.length - rule.overlap
    starts = list(range(0, total - rule.length + hop, hop))
    lengths = [min(rule.length, total - start) for start in starts]
    shares = np.zeros((len(starts), total))
    for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        rise = np.ones(length)
        if index and cross_fade:
            rise[: rule.overlap] = np.arange(rule.overlap) / max(1, rule.overlap - 1)
        shares[:index, start : start + length] *= 1.0 - rise
        shares[index, start : start + length] = rise
    return [
        Window(start, length, tuple(shares[index, start : start + length].tolist()))
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


# ---- 3. The player's arithmetic -------------------------------------------------------------------------------------------------


def combine(terms: Iterable[tuple[float, Float32]]) -> Float32:
    """Σ weight · array by the accumulation rule at the head of this file."""
    total: Float64 | None = None
    for weight, array in terms:
        if weight != 0:
            term = array.astype(np.float64) * weight
            total = term if total is None else total + term
    if total is None:
        raise ConfigError("Every weight of this combination is zero; nothing is left to add up.")
    return total.astype(np.float32)


def _require_alike(arrays: Sequence[Float32], what: str) -> None:
    for array in arrays:
        if array.dtype != np.float32 or array.shape != arrays[0].shape:
            raise ConfigError(
                f"{what} must be float32 of one shape; got {array.dtype} {array.shape} beside {arrays[0].dtype} {arrays[0].shape}."
            )


def advance(plan: SamplingPlan, step: int, history: Sequence[Float32]) -> Float32:
    """Latents after step `step` (0..n-1): Σ_k solver[step][k] · history[k].

    `history` is [noise, v_0 .. v_step], float32 arrays of one shape; the result has that shape, float32.

    Raises:
        ConfigError: the history has another length, or its arrays differ in shape or type.
    """
    row = plan.solver[step]
    if len(history) != len(row):
        raise ConfigError(
            f"Step {step} needs a history of {len(row)} arrays (noise and {len(row) - 1} velocities); got {len(history)}."
        )
    _require_alike(history, "The history")
    return combine(zip(row, history, strict=True))


def guide(plan: SamplingPlan, step: int, velocities: Mapping[str, Float32] | Sequence[Float32 | None]) -> Float32:
    """The guided velocity of step `step`: Σ_b guidance[step][b] · velocities[b].

    `velocities` maps branch names to float32 arrays of one shape, or lists them in the order of `plan.branches`; branches of
    weight 0 may be absent or None.

    Raises:
        ConfigError: a branch that the step needs is absent, or the arrays differ in shape or type.
    """
    if isinstance(velocities, Mapping):
        given = [velocities.get(branch.name) for branch in plan.branches]
    else:
        given = list(velocities)
        if len(given) != len(plan.branches):
            raise ConfigError(f"There are {len(given)} velocities for {len(plan.branches)} branches.")
    terms: list[tuple[float, Float32]] = []
    for index in plan.evaluated(step):
        velocity = given[index]
        if velocity is None:
            raise ConfigError(f"Step {step} needs the velocity of branch {plan.branches[index].name!r}.")
        terms.append((plan.guidance[step][index], velocity))
    _require_alike([velocity for _, velocity in terms], "The velocities")
    return combine(terms)


def blend(parts: Sequence[tuple[Window, Float32]]) -> Float32:
    """The velocity of a whole clip [C, total, h, w] from its windows' velocities [C, length, h, w]: `blend_frame` of each frame.

    Raises:
        ConfigError: there are no windows, a velocity does not fit its window, or some latent frame has no window.
    """
    if not parts:
        raise ConfigError("There are no windows to blend.")
    return np.stack([blend_frame(parts, frame) for frame in range(max(window.end for window, _ in parts))], axis=1)


def blend_frame(parts: Sequence[tuple[Window, Float32]], frame: int) -> Float32:
    """One latent frame of that velocity, [C, h, w], from the windows that cover it and maybe others: Σ_w share_w[f] · v_w[f].

    Raises:
        ConfigError: a velocity does not fit its window or the others, or no window covers the frame.
    """
    for window, velocity in parts:
        if velocity.ndim != 4 or velocity.shape[1] != window.length:
            raise ConfigError(f"A velocity of shape {velocity.shape} does not fit a window of {window.length} latent frames.")
    _require_alike([velocity[:, 0] for _, velocity in parts], "The windows' velocities")
    return combine((w.weights[frame - w.start], velocity[:, frame - w.start]) for w, velocity in parts if w.start <= frame < w.end)


# ---- 4. Checks of options, for this file and those that build plans -------------------------------------------------------------


def check_seed(seed: int) -> int:
    """`seed` as a Python int.

    Raises:
        ConfigError: it is not an integer of 0 .. 2^64-1.
    """
    try:
        value = operator.index(seed)
    except TypeError as error:
        raise ConfigError(f"The seed is {seed!r}; it must be an integer from 0 to 2^64-1.") from error
    if isinstance(seed, bool) or not 0 <= value <= MAX_SEED:
        raise ConfigError(f"The seed is {seed!r}; it must be an integer from 0 to 2^64-1.")
    return value


def check_number(name: str, value: float, least: float, most: float) -> None:
    """Refuses, with a ConfigError, a `value` that is not a number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:  # a NaN fails the comparison
        raise ConfigError(f"{name} is {value!r}; it must be a number from {least:g} to {most:g}.")


def check_count(name: str, value: int, least: int, most: int) -> None:
    """Refuses, with a ConfigError, a `value` that is not a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least} to {most}.")


def check_choice(name: str, value: str, good: Sequence[str]) -> None:
    """Refuses, with a ConfigError that lists the good ones and the nearest, a `value` that is not one of `good`."""
    if value not in good:
        near = difflib.get_close_matches(str(value), good, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name} is {value!r}. Choose from: {', '.join(good)}.{hint}")
