"""The control: a student that says at once where a trajectory ends, by consistency distillation (arXiv 2303.01469).

f(x, σ) is the clip that the state x at the noise level σ leads to: the same all along a trajectory, and x itself at 0. The network
gives the velocity to it, (x - f) / σ, so that f = x - σ · velocity is x at 0 whatever the network says. It learns that f at a state
is what a slow copy of itself says f is at the next state of the same trajectory of the teacher, which the lessons hold; where that
is the end, f is the teacher's clip. The error is counted in velocity, as a flow map's is.

A consistency model is usually played by going to f and adding fresh noise for each further step. Plans hold no noise but the first
one, so that it is played deterministically: a step from σ to r goes (r - σ) · velocity, to where the noise that x and f imply would
be at r. That is the step of a flow map, with a velocity that does not depend on r; what a student is told of r it therefore must
not use: the layers that read it stay as they began, at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...core.train.distributed import World, spread
from .student import Student

SLOW = 0.95  # decay of the copy that gives the targets


def without_spans(student: Student) -> Student:
    """A student whose velocity does not depend on how far a step goes, and stays so in training; in place.

    Raises:
        ConfigError: it depends on it already: it is a flow map.
    """
    if any(bool(value.any()) for value in student.dit.span_embedding[-1].parameters()):
        raise ConfigError("These weights depend on how far a step goes; a consistency student starts from none of a flow map.")
    student.dit.span_embedding.requires_grad_(False)
    return student


def clip_of(student: Student, state: Tensor, level: Tensor, modality: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """f: states [B, C, F, h, w] at levels [B], modality [B, 3, F] -> the clips that they lead to; at level 0 the states."""
    return state - level.view(-1, 1, 1, 1, 1) * student(state, level, torch.zeros_like(level), modality, batch).float()


class Consistency:
    """Targets of a consistency student in training, from a slow copy of it, which the run keeps."""

    def __init__(self, build: Callable[[], Student], world: World) -> None:
        self.slow = spread(build().eval().requires_grad_(False), world)

    @torch.no_grad()
    def follow(self, student: Student) -> None:
        """Moves the copy towards the student as the step before left it."""
        for kept, new in zip(self.slow.parameters(), student.parameters(), strict=True):
            kept.lerp_(new.detach(), 1 - SLOW)

    @torch.no_grad()
    def target(self, state: Tensor, level: Tensor, modality: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The clips that the next states of trajectories, as in `clip_of`, are said to lead to."""
        return clip_of(self.slow, state, level, modality, batch)
