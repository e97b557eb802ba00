"""What a student was taught, and what may therefore be asked of it: it travels in its weights file, and in bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ..errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ..plan import SamplingPlan

STUDENT = "student"  # what a passport is called in a weights file's metadata, and among the settings of a bundle's weights
CLOSE = 1e-5  # of noise levels, which plans hold in single precision
Level = Annotated[float, Field(ge=0.0, le=1.0)]


class Passport(BaseModel):
    """teacher: SHA-256 of its weights file. solver, steps, shift, audio_guidance: the teacher's plan, which the student's forward
    holds; text_guidance: of a teacher that has one (preview). levels: by number of steps the noise level before each. tasks: what
    was taught. weights, rules: the recipe whose rounding it was taught through, by name and as a recipe file has it; fp32 is none.
    inputs: whether inputs of those layers were rounded, too, to 8 bits. method: what a forward says; flow-map: the average velocity
    of the step; consistency: the velocity to the clip, (x - x₀) / σ, however far the step goes. Both are played by Euler's steps
    between `levels`, without fresh noise. figures: by number of steps what was measured of it when it was taught."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["echoedge.student/1"] = "echoedge.student/1"
    teacher: str
    solver: str
    steps: int
    shift: float
    audio_guidance: float
    text_guidance: float | None = None
    levels: dict[int, tuple[Level, ...]]
    tasks: tuple[str, ...]
    weights: str = "fp32"
    rules: tuple[dict[str, JsonValue], ...] = ()
    inputs: Literal["float", "int8"] = "float"
    method: Literal["flow-map", "consistency"] = "flow-map"
    figures: dict[int, dict[str, float]] = Field(default_factory=dict)

    @property
    def allowed(self) -> tuple[int, ...]:
        """Numbers of steps, ascending."""
        return tuple(sorted(self.levels))

    def sentence(self) -> str:
        """What a person is told of it."""
        nearness = [f"{each['psnr_db']:.1f} dB at {steps}" for steps, each in sorted(self.figures.items()) if "psnr_db" in each]
        return (
            f"of the teacher with SHA-256 {self.teacher[:16]}…; {_either(self.allowed)} steps of one forward, audio guidance "
            f"{self.audio_guidance:g} in them; taught through {self.weights} weights"
            + (f"; from its teacher's clips: {', '.join(nearness)}" if nearness else "")
        )

    def require(self, steps: int | None = None, audio_guidance: float | None = None, shift: float | None = None) -> None:
        """Refuses what it was not taught.

        Raises:
            ConfigError: names what is allowed.
        """
        if steps is not None and steps not in self.levels:
            raise ConfigError(
                f"This student takes {_either(self.allowed)} steps, not {steps}. Its teacher takes any number (of the built-in "
                "model: --plan nano)."
            )
        if audio_guidance is not None and audio_guidance != self.audio_guidance:
            raise ConfigError(
                f"Audio guidance is {audio_guidance:g}, and this student was taught {self.audio_guidance:g}, in one forward. Leave "
                "it, or take the teacher."
            )
        if shift is not None and shift != self.shift:
            raise ConfigError(
                f"The shift is {shift:g}, and this student goes by its teacher's noise levels, of shift {self.shift:g}. Leave it, "
                "or take the teacher."
            )

    def require_plan(self, plan: SamplingPlan) -> None:
        """Refuses a plan that asks for something else.

        Raises:
            ConfigError: names what is allowed.
        """
        self.require(plan.steps)
        if len(plan.branches) > 1:
            raise ConfigError(
                f"The plan has {len(plan.branches)} branches of guidance, and this student was taught {self.audio_guidance:g}, in "
                "one forward. Export it again, or take the teacher."
            )
        taught = self.levels[plan.steps]
        if any(abs(a - b) > CLOSE for a, b in zip(plan.sigmas, taught, strict=False)):
            found, known = (", ".join(f"{level:.3f}" for level in levels) for levels in (plan.sigmas[:-1], taught))
            raise ConfigError(f"The plan's noise levels are {found}, and this student was taught {known}. Export it again.")

    @classmethod
    def of_bundle(cls, settings: Mapping[str, Any]) -> Passport | None:
        """That of a bundle's student, from the settings of its weights; None of a teacher's.

        Raises:
            CheckpointError: it is of another version.
        """
        return cls.read(json.dumps(settings[STUDENT]), "The bundle") if STUDENT in settings else None

    @classmethod
    def read(cls, text: str, where: str) -> Passport:
        """Raises CheckpointError: the text is no passport of this version."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(
                f"{where} holds a student's passport that cannot be read ({error.errors()[0]['msg']})."
            ) from error


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
