"""What to export: a source, clip shapes, a plan, weights, a target with its options, and the material of the recorded calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...core.bundle import DECODE_PROGRAMS, Hearing, PlayingRecord, shaped_name
from ...core.config import NANO_CLIP, ClipSpec
from ...core.errors import ConfigError, InputError
from ...core.plan import SamplingPlan, WindowRule, check_choice, check_number
from ...core.plan.samplers import NANO_PLANS, PLAN_PRESETS, PlanOptions, build_plan
from ...core.sampling.hearing import CONTEXT_SECONDS
from ...core.versions import library_versions
from ...core.weights.checkpoints import Checkpoint
from ...core.weights.nano import STUDENT_STEPS, read_passport, student_path
from ...core.weights.passport import Passport
from ...core.weights.source import OF_EVERY_SHAPE, CheckpointSource, Making, ModelSource, NanoSource, roles_of
from ...quantize.recipes import PRESETS, WeightRecipe, read_recipe
from ...targets.base import Target
from ..play.material import Material, demo_material
from ..play.prompts import read_prompts
from ..play.setting import PACK
from ..registry import target_of

TEXT_ROWS = 64  # rows of a collapsed prompt: 63 tokens and the padding
OVERLAP = 4  # latent frames that windows share, as far as the window leaves them


@dataclass(frozen=True)
class ExportRequest:
    """What to compile.

    clips: the shapes, the main one first; programs of further shapes share the main one's weights. materials: of each shape, what
    the recorded calls are made from. other: of the main shape, what each input of its material is exchanged for. decoders: full,
    tiny or both. text_rows: of a prompt, its padding collapsed. prompts: packs of prompt embeddings that travel in the bundle.
    context_seconds: what the released speech encoder reads on either side of what is kept. options: the target's own
    (`Target.options`), its defaults where None. student: what the source was taught, where it is a student. recipe: a preset loses
    its rules for convolutions where the target cannot have them.

    Raises:
        ConfigError: something is out of range, twice, of another shape, or not the target's.
    """

    source: ModelSource
    clips: tuple[ClipSpec, ...]
    plan: SamplingPlan
    recipe: WeightRecipe
    materials: tuple[Material, ...]
    other: Material
    target: str = "executorch"
    options: Any = None
    decoders: tuple[str, ...] = ("full",)
    text_rows: int = TEXT_ROWS
    context_seconds: float = CONTEXT_SECONDS
    prompts: Mapping[str, Any] = field(default_factory=dict)  # {prompt: rows [L, text_dim]}
    student: Passport | None = None

    def __post_init__(self) -> None:
        if self.options is None:
            object.__setattr__(self, "options", self.compiler.options())
        for name in self.decoders:
            check_choice("decoder", name, tuple(DECODE_PROGRAMS))
        if not self.decoders or any(len(set(given)) != len(given) for given in (self.decoders, self.clips)):
            raise ConfigError("At least one decoder is needed, and every decoder and clip shape once.")
        if self.together and len(self.clips) > 1:
            raise ConfigError("One file holds the programs of one clip shape. Take --layout separate for several shapes.")
        if len(self.materials) != len(self.clips):
            raise ConfigError(f"There are {len(self.materials)} materials for {len(self.clips)} clip shapes; each needs its own.")
        for material, clip in zip((*self.materials, self.other), (*self.clips, self.clips[0]), strict=True):
            material.check(clip, whole=self.source.held is not None)
        check_number("context_seconds", self.context_seconds, 0.1, 30.0)
        for scheme in sorted({rule.weights for rule in self.recipe.rules} or {"fp32"}):
            refusal = self.compiler.refuses(scheme, self.options)
            if refusal is not None:
                raise ConfigError(refusal)
        refusal = self.compiler.refuses_convolutions(self.options) if self.recipe.rounds_convolutions else None
        if refusal is not None:
            preset = PRESETS.get(self.recipe.name)
            if preset is None or preset.of_convolutions != self.recipe.of_convolutions:
                raise ConfigError(f"{refusal} Take the rules for convolutions out of the recipe {self.recipe.name!r}.")
            object.__setattr__(self, "recipe", self.recipe.without_convolutions())  # presets are for every target
        if self.recipe.needs_samples and not self.executed:
            raise ConfigError(f"The recipe {self.recipe.name!r} is fitted to data, which goes with the backend xnnpack.")

    @property
    def compiler(self) -> Target[Any]:
        return target_of(self.target)

    @property
    def together(self) -> bool:
        """Whether all programs go into one file."""
        return self.compiler.together(self.options)

    @property
    def executed(self) -> bool:
        """Whether this machine runs what is compiled."""
        return self.compiler.executed(self.options)

    @property
    def external(self) -> bool:
        """Whether weights lie in data files, which programs of several shapes share."""
        return len(self.clips) > 1

    @property
    def reuse(self) -> bool:
        return any(any(row) for row in self.plan.reuse)

    @property
    def context_frames(self) -> int:
        return round(self.context_seconds * self.clips[0].fps)

    @property
    def making(self) -> Making:
        return Making(self.text_rows, self.reuse, self.context_frames)

    @property
    def hearing(self) -> Hearing:
        """How a player hears with the audio encoder's program."""
        return self.source.hearing(self.context_frames)

    @property
    def texts(self) -> tuple[str, ...]:
        """Two prompts that the bundle reads: those of the materials; without a text encoder the first two of its pack, or its only
        one and the empty one. One, where there is no other."""
        prompts = (self.materials[0].prompt, self.other.prompt) if self.source.reads_text else (*self.prompts, "")
        return tuple(dict.fromkeys(prompts))[:2]

    @property
    def playing(self) -> PlayingRecord:
        """What a player of any language has to know of the model, as numbers."""
        return PlayingRecord.of(
            self.source.config, text_rows=self.text_rows, reads_text=self.source.reads_text, hearing=self.hearing,
            decoders={name: DECODE_PROGRAMS[name] for name in self.decoders},
        )  # fmt: skip

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return roles_of(self.source, self.decoders, self.reuse)

    def one_for_all(self, role: str) -> bool:
        """Whether one program of `role` serves every clip shape."""
        return role in OF_EVERY_SHAPE or self.compiler.any_shape(role)

    def roles_at(self, shape: int) -> tuple[str, ...]:
        """Those that are compiled for the clip shape of that index: those of every shape with the main one alone."""
        return tuple(role for role in self.roles if shape == 0 or not self.one_for_all(role))

    def proven_at(self, shape: int) -> tuple[str, ...]:
        """Those that are run on the calls of the clip shape of that index: all that the shape changes."""
        return tuple(role for role in self.roles if shape == 0 or role not in (*OF_EVERY_SHAPE, *self._same_reading))

    @property
    def _same_reading(self) -> tuple[str, ...]:
        """The audio encoder, where one serves all shapes: it reads as much at once for each."""
        return ("audio_encoder",) if self.one_for_all("audio_encoder") else ()

    def label(self, role: str, shape: int) -> str:
        """What the program `role` is called for the clip shape of that index."""
        return shaped_name(role, self.clips[shape]) if shape and not self.one_for_all(role) else role

    def shared(self, role: str) -> bool:
        """Whether several shapes of `role` share a data file."""
        return self.external and not self.one_for_all(role)

    def key(self, sources: Mapping[str, str]) -> str:
        """What the compiled programs depend on; two requests with one key may share their work. `sources`: SHA-256 by component."""
        content = {
            "sources": dict(sources), "config": self.source.config.to_dict(), "clips": [asdict(clip) for clip in self.clips],
            "plan": self.plan.to_json(), "recipe": self.recipe.model_dump(), "target": self.target, "options": repr(self.options),
            "decoders": self.decoders, "text_rows": self.text_rows, "hearing": self.hearing.model_dump(),
            "versions": library_versions(), "materials": [material.digest for material in (*self.materials, self.other)],
            "prompts": {name: hashlib.sha256(np.asarray(rows).tobytes()).hexdigest() for name, rows in self.prompts.items()},
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


# ---- from plain options ---------------------------------------------------------------------------------------------------------


def nano_request(
    weights: str = "int8",
    *,
    target: str = "executorch",
    options: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    steps: int | None = None,
    plan: str | None = None,
    weights_file: Path | None = None,
    warn: Callable[[str], None] = print,
) -> ExportRequest:
    """The built-in model's student, its teacher where one of the teacher's plans is named, or what a weights file holds. `weights`:
    a preset of recipes or a recipe file; `size`: (height, width). A student takes so many steps as it was taught: the shipped one
    two by default, others the most.

    Raises:
        ConfigError: an option is unknown, out of range, or not what a student was taught.
        CheckpointError: the weights file is not one of nano's.
    """
    compiler = target_of(target)
    recipe = read_recipe(weights)
    height, width = size or (NANO_CLIP.height, NANO_CLIP.width)
    clip = ClipSpec(height, width, frames or NANO_CLIP.frames)
    if (height, width) != (NANO_CLIP.height, NANO_CLIP.width):
        raise ConfigError(
            f"nano was trained at {NANO_CLIP.height}x{NANO_CLIP.width}; its portrait encoder reads no other size than that."
        )
    if plan is not None:
        check_choice("plan", plan, NANO_PLANS)
    shipped = plan is None and weights_file is None
    file = student_path() if shipped else weights_file
    source, student, played = NanoSource(file), read_passport(file), PLAN_PRESETS[plan or "nano"]
    if student is not None:
        from ...quantize.distill.rounding import exported_recipe
        from ...quantize.distill.run import TEACHER, student_options

        if played != TEACHER:
            raise ConfigError(
                f"The plan is {plan!r}, and a student goes by the one that it was taught. Leave it, or take its teacher."
            )
        steps = steps or (STUDENT_STEPS if shipped else student.allowed[-1])
        played = student_options(student, steps)
        recipe, said = exported_recipe(student, source.config, recipe)
        if said is not None:
            warn(said)
    return ExportRequest(
        source, (clip,), plan_of(played, clip, steps), recipe, (demo_material(clip, whole=True),),
        demo_material(clip, whole=True, number=1), target, compiler.options(**(options or {})), ("full",), source.config.text_len,
        student=student,
    )  # fmt: skip


def checkpoint_request(
    folder: str | Path,
    model: str | None = None,
    weights: str = "int8",
    *,
    target: str = "executorch",
    options: Mapping[str, Any] | None = None,
    clips: Sequence[ClipSpec] = (ClipSpec(256, 256, 25),),
    steps: int | None = None,
    decoders: tuple[str, ...] = ("full", "tiny"),
    prompts: str | Path | None = None,
    text_rows: int = TEXT_ROWS,
    context_seconds: float = CONTEXT_SECONDS,
    warn: Callable[[str], None] = print,
) -> ExportRequest:
    """A checkpoint of the released model, or of its student. `clips`: the shapes, the main one first; `prompts`: a pack of prompt
    embeddings; `steps`: of a student so many as it was taught, most of them by default.

    Raises:
        CheckpointError: the folder is not one of released weights.
        ConfigError: an option is unknown or out of range, or not what a student was taught.
        InputError: a prompt is too long, or the plan needs one that is not there.
    """
    from ...core.model.architecture import Architecture

    compiler = target_of(target)
    opened = Checkpoint.open(folder, model)
    sizes, student = Architecture(opened.config()), opened.passport
    config, recipe, played = sizes.transformer, read_recipe(weights), PLAN_PRESETS[opened.config().variant]
    if student is not None:
        from ...quantize.distill.rounding import exported_recipe
        from ...quantize.distill.run import student_options

        steps = steps or student.allowed[-1]
        played = student_options(student, steps, played)
        recipe, said = exported_recipe(student, config, recipe)
        if said is not None:
            warn(said)
    pack = read_prompts(Path(prompts), config.text_dim) if prompts is not None else {}
    longest = max((len(rows) for rows in pack.values()), default=0)
    if longest >= text_rows:
        raise InputError(f"A prompt of {prompts} has {longest} tokens; --text-rows {text_rows} reads up to {text_rows - 1}.")
    plan = plan_of(played, clips[0], steps)
    lost = [text for text in plan.texts.values() if pack and text not in pack]
    if lost:
        raise InputError(
            f"The guidance of {config.name} needs the prompt {lost[0]!r}, which {prompts} does not hold. Make the pack with: "
            "`echoedge checkpoint prompts`."
        )
    if not pack:
        warn(f"The bundle will have no text encoder and no prompts: it plays with --prompts PACK alone. Make one with: {PACK}.")
    source = CheckpointSource(str(folder), model, sizes)
    materials = tuple(demo_material(clip, whole=False) for clip in clips)
    return ExportRequest(
        source, tuple(clips), plan, recipe, materials, demo_material(clips[0], whole=False, number=1), target,
        compiler.options(**(options or {})), decoders, text_rows, context_seconds, pack, student,
    )  # fmt: skip


def plan_of(options: PlanOptions, clip: ClipSpec, steps: int | None) -> SamplingPlan:
    """The plan in windows of the clip's length.

    Raises:
        ConfigError: the clip is too short for a window.
    """
    if clip.latent_frames < 2:
        raise ConfigError(f"--frames is {clip.frames}; a window needs 5 frames at least.")
    window = options.window or WindowRule(length=clip.latent_frames, overlap=min(OVERLAP, clip.latent_frames - 1))
    window = window.model_copy(update={"length": clip.latent_frames, "overlap": min(window.overlap, clip.latent_frames - 1)})
    return build_plan(replace(options, steps=steps or options.steps, window=window))
