"""A student in training: the teacher's transformer, told how far each step goes, and the features that its encoders made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...core.config import ModelConfig
from ...core.errors import ConfigError
from ...core.model.transformer import DiT
from ...core.plan.samplers import AudioGuidance, PlanOptions
from ...core.sampling.inputs import frame_windows


def student_config(teacher: ModelConfig) -> ModelConfig:
    return replace(teacher, flow_map=True)


def folded_scale(options: PlanOptions) -> float:
    """The scale of the guidance that a student's one forward holds.

    Raises:
        ConfigError: the teacher's guidance is not one that a student folds in.
    """
    if not isinstance(options.guidance, AudioGuidance) or options.guidance.dynamic or options.phases:
        raise ConfigError(f"A student folds in audio guidance of one scale; the teacher's plan has {options.guidance}.")
    return options.guidance.scale


def student_of(teacher: DiT | Callable[[], DiT]) -> DiT:
    """A student that does what its teacher does in one branch, whatever the length of its steps: nothing is learnt yet.
    `teacher`: or what loads it, where memory is to hold it no longer than this takes."""
    if not isinstance(teacher, DiT):
        teacher = teacher()
    student = DiT(student_config(teacher.config))
    known = teacher.state_dict()
    student.load_state_dict({name: known.get(name, value) for name, value in student.state_dict().items()})
    return student


class Student(nn.Module):
    """The average velocity of a step, of a batch of lessons."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(self, latents: Tensor, begin: Tensor, end: Tensor, modality: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """latents [B, C, F, h, w]; begin, end: [B] noise levels; modality [B, 3, F] -> velocity of the shape of latents."""
        audio = frame_windows(batch["audio"]) if self.dit.config.audio_path.per_frame else batch["audio"]
        return self.dit(
            latents, 1000 * begin, batch["y"], batch["text"], batch["image"], audio, modality, spans=1000 * (begin - end)
        )


def in_steps(student: Student, noise: Tensor, levels: Tensor, modality: Tensor, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """noise [B, C, F, h, w]; levels [n + 1]; modality [n, 3, F] -> the n states behind it, the last one the clip's latents."""
    states, size = [noise], len(noise)
    for step in range(len(levels) - 1):
        begin, end = levels[step].expand(size), levels[step + 1].expand(size)
        velocity = student(states[-1], begin, end, modality[step].expand(size, -1, -1), batch)
        states.append(states[-1] + (levels[step + 1] - levels[step]) * velocity)
    return states[1:]


@torch.no_grad()
def error_in_steps(student: Student, batch: Mapping[str, Tensor], levels: Tensor, points: Sequence[int], modality: Tensor) -> float:
    """Root mean square of what separates the student's latents from the teacher's, from the same noise. `points`: of the states
    and `levels` that it goes by."""
    found = in_steps(student, batch["states"][:, 0].float(), levels[list(points)], modality[list(points[:-1])], batch)[-1]
    return float((found - batch["states"][:, -1].float()).square().mean().sqrt())
