"""What one film asks of a device: how often each method of each program is called, and what a call computes and holds.

The counts are a player's (`runtime/play/player.py`): a voice of so many seconds, in windows of the clip's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ...core.bundle import DECODE_PROGRAMS
from ...core.config import NANO_CLIP, TEMPORAL_STRIDE, ClipSpec, preset
from ...core.errors import ConfigError
from ...core.model.architecture import Architecture
from ...core.plan import SamplingPlan, WindowRule, check_choice, check_number, windows
from ...core.plan.samplers import PLAN_PRESETS
from ...core.sampling.front import windows_under_way
from ...core.sampling.hearing import CONTEXT_SECONDS, readings
from ...core.weights.nano import STUDENT_STEPS, read_passport, student_path
from ...core.weights.passport import Passport
from ...core.weights.source import Making, roles_of
from ...quantize.recipes import WeightRecipe, read_recipe
from ..export.request import TEXT_ROWS, plan_of
from ..registry import target_of
from .counting import Counted, HollowSource, methods_of

LONGEST = 3600.0  # seconds of video that are asked about


@dataclass(frozen=True)
class Call:
    """A method of a program, called so many `times` in a film. `stage`: of the player."""

    stage: str
    role: str
    method: str
    times: int
    counted: Counted


@dataclass(frozen=True)
class Workload:
    """A model as it would be compiled and played. `sizes`: of everything in it; `seconds`: of video, None for one window's.
    `decoder`: full or tiny."""

    sizes: Architecture
    built_in: bool
    clip: ClipSpec
    recipe: WeightRecipe
    plan: SamplingPlan
    decoder: str = "full"
    text_rows: int = TEXT_ROWS
    context_seconds: float = CONTEXT_SECONDS
    seconds: float | None = None

    @cached_property
    def source(self) -> HollowSource:
        return HollowSource(self.sizes, self.built_in)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return roles_of(self.source, (self.decoder,), any(any(row) for row in self.plan.reuse))

    @property
    def making(self) -> Making:
        context = 0 if self.built_in else round(self.context_seconds * self.clip.fps)
        return Making(self.text_rows, "denoise_reusing" in self.roles, context)

    @property
    def frames(self) -> int:
        """Video frames of the film."""
        return self.clip.frames if self.seconds is None else max(1, round(self.seconds * self.clip.fps))

    @property
    def latent_frames(self) -> int:
        return max(self.clip.latent_frames, -(-(self.frames - 1) // TEMPORAL_STRIDE) + 1)

    @property
    def rule(self) -> WindowRule:
        return self.plan.window or WindowRule(length=self.clip.latent_frames, overlap=0)

    @property
    def windows(self) -> int:
        return len(windows(self.latent_frames, self.rule))

    @property
    def windows_held(self) -> int:
        """The most whose conditions are held at once."""
        return min(self.windows, windows_under_way(self.plan.steps, self.rule))

    @property
    def video_seconds(self) -> float:
        return self.frames / self.clip.fps

    def methods(self, role: str) -> dict[str, Counted]:
        return dict(methods_of(self.source, role, self.clip, self.making))

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        return tuple(call for call in self._calls() if call.times)

    def _calls(self) -> Iterator[Call]:
        branches, plan = self.plan.branches, self.plan

        def call(stage: str, role: str, times: int, method: str = "forward") -> Call:
            return Call(stage, role, method, times, self.methods(role)[method])

        yield call("listen", "audio_encoder", self._readings)
        yield call("look", "image_encoder", 1)
        if "text_encoder" in self.roles:
            yield call("look", "text_encoder", len({branch.text for branch in branches}))
        yield call("look", "vae_encode", 1, "first")
        if self.sizes.transformer.encode_unknown:
            known = self.rule.length if self.rule.anchor == "window" else self.latent_frames
            yield call("look", "vae_encode", min(known, self.latent_frames) - 1, "next")
        yield call("prepare", "text_conditions", len({(branch.text, branch.text_scale) for branch in branches}))
        yield call("prepare", "image_conditions", len({branch.image for branch in branches}))
        heard = len({branch.audio_shift for branch in branches if branch.audio})
        silent = len({branch.audio_shift for branch in branches if not branch.audio})
        yield call("prepare", "audio_conditions", heard * self.windows + silent)
        yield call("prepare", "patch_conditions", self.windows if self.rule.anchor == "clip" else 1)
        evaluated = sum(len(plan.evaluated(step)) for step in range(plan.steps))
        reused = sum(plan.reuse[step][branch] for step in range(plan.steps) for branch in plan.evaluated(step))
        yield call("denoise", "denoise", self.windows * (evaluated - reused))
        if "denoise_reusing" in self.roles:
            yield call("denoise", "denoise_reusing", self.windows * reused)
        decode = DECODE_PROGRAMS[self.decoder]
        yield call("decode", decode, 1, "first")
        played = -(-(self.frames - 1) // TEMPORAL_STRIDE)  # what lies behind the voice is not decoded
        if played:
            yield call("decode", decode, played, "next")

    @property
    def _readings(self) -> int:
        """Calls of the audio encoder for the whole voice."""
        hearing = self.source.hearing(self.making.context_frames)
        frames = TEMPORAL_STRIDE * (self.latent_frames - 1) + 1
        return sum(1 for _ in readings(frames, self.clip.frames + 2 * self.making.context_frames, hearing))


def workload(
    model: str = "nano",
    weights: str = "int8",
    *,
    size: tuple[int, int] | None = None,
    frames: int = 25,
    steps: int | None = None,
    decoder: str = "full",
    text_rows: int = TEXT_ROWS,
    seconds: float | None = None,
    sizes: Architecture | None = None,
) -> Workload:
    """From plain options; defaults are those of an export. `sizes`: of another architecture of that model's kind.

    Raises:
        ConfigError: an option is unknown, out of range, or not of this model.
    """
    config, recipe = preset(model), read_recipe(weights)
    built_in = config.name == "nano"
    check_choice("decoder", decoder, tuple(DECODE_PROGRAMS))
    if seconds is not None:
        check_number("seconds", seconds, 0.04, LONGEST)
    if built_in and decoder == "tiny":
        raise ConfigError("--decoder is 'tiny', and nano has the full one alone, which is small.")
    height, width = size or ((NANO_CLIP.height, NANO_CLIP.width) if built_in else (256, 256))
    if built_in and (height, width) != (NANO_CLIP.height, NANO_CLIP.width):
        raise ConfigError(
            f"--size is {height}x{width}; nano was trained at {NANO_CLIP.height}x{NANO_CLIP.width} and reads no other."
        )
    compiler = target_of("executorch")
    refusals = (compiler.refuses(rule.weights, compiler.options()) for rule in recipe.rules)
    for refusal in refusals:
        if refusal is not None:
            raise ConfigError(refusal)
    clip = ClipSpec(height, width, frames)
    sizes = sizes or Architecture(config)
    played = PLAN_PRESETS[config.name]
    if built_in:
        from ...quantize.distill.rounding import exported_recipe
        from ...quantize.distill.run import student_options

        student = _student()
        steps = steps or STUDENT_STEPS
        played, (recipe, _) = student_options(student, steps), exported_recipe(student, config, recipe)
    return Workload(
        sizes, built_in, clip, recipe, plan_of(played, clip, steps), decoder, config.text_len if built_in else text_rows,
        seconds=seconds,
    )  # fmt: skip


def _student() -> Passport:
    """What the student that ships was taught."""
    found = read_passport(student_path())
    assert found is not None
    return found


def fewer_steps(given: Workload) -> SamplingPlan | None:
    """The plan with half of the steps, or the next number that a student was taught; None where there is no such plan."""
    steps = given.plan.steps
    allowed = _student().allowed if given.built_in else tuple(range(1, steps))
    lower = [one for one in allowed if one <= max(1, steps // 2) and one < steps]
    if not lower:
        return None
    name = "nano" if given.built_in else given.sizes.transformer.variant
    model = workload(name, "fp32", frames=given.clip.frames, steps=lower[-1])
    return model.plan


def changed(given: Workload, **fields: object) -> Workload:
    """`given` with other fields; `clip` goes with windows of its length."""
    new = replace(given, **fields)  # type: ignore[arg-type]
    if new.plan.window is not None and new.clip.latent_frames != given.clip.latent_frames:
        length = new.clip.latent_frames
        rule = new.plan.window.model_copy(update={"length": length, "overlap": min(new.plan.window.overlap, length - 1)})
        new = replace(new, plan=new.plan.model_copy(update={"window": rule}))
    return new
