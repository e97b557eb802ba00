"""What a student was taught, and what may therefore be asked of it: it travels in its weights file, and in bundles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import CheckpointError, ConfigError

Level = Annotated[float, Field(ge=0.0, le=1.0)]


class Passport(BaseModel):
    """teacher: SHA-256 of its weights file. solver, steps, shift, audio_guidance: the teacher's plan, which the student's forward
    holds. levels: by number of steps the noise level before each. tasks: what was taught. weights: the scheme whose rounding it was
    taught through; fp32 is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["echoedge.student/1"] = "echoedge.student/1"
    teacher: str
    solver: str
    steps: int
    shift: float
    audio_guidance: float
    levels: dict[int, tuple[Level, ...]]
    tasks: tuple[str, ...]
    weights: str = "fp32"

    @property
    def allowed(self) -> tuple[int, ...]:
        """Numbers of steps, ascending."""
        return tuple(sorted(self.levels))

    def require(self, steps: int | None = None, audio_guidance: float | None = None, shift: float | None = None) -> None:
        """Refuses what it was not taught.

        Raises:
            ConfigError: names what is allowed.
        """
        if steps is not None and steps not in self.levels:
            raise ConfigError(f"This student takes {_either(self.allowed)} steps, not {steps}. Its teacher takes any number.")
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
