"""A student's transformer as its difference from the teacher that ships: half the bytes, for the file that ships.

A matrix is kept as 8-bit steps of a row's largest difference over 127; what the teacher lacks, and vectors, as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError

STEPS, SIZE = ".steps", ".size"  # of a tensor's name: int8 [rows, …], and float16 [rows], how large one step is
LARGEST = 127


def differences(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file keeps of `student`, float32 by name, beside `teacher`: matrices that both have as steps and their sizes, others
    in half precision."""
    kept: dict[str, Tensor] = {}
    for name, value in student.items():
        base = teacher.get(name)
        if base is None or value.ndim < 2 or base.shape != value.shape:
            kept[name] = value.to(torch.float16).contiguous()
            continue
        rows = (value.float() - base.float()).flatten(1)
        size = (rows.abs().amax(1, keepdim=True) / LARGEST).to(torch.float16)
        size[size == 0] = torch.finfo(torch.float16).tiny  # of a row that is the teacher's
        steps = (rows / size.float()).round().clamp(-LARGEST - 1, LARGEST).to(torch.int8)
        kept |= {name + STEPS: steps.view(value.shape), name + SIZE: size.flatten()}
    return kept


def restored(kept: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `differences` was given, float32, to half a step.

    Raises:
        CheckpointError: steps without their size, or of what the teacher does not have.
    """
    found = {name: value.float() for name, value in kept.items() if not name.endswith((STEPS, SIZE))}
    for name in (name.removesuffix(STEPS) for name in kept if name.endswith(STEPS)):
        steps, size, base = kept[name + STEPS], kept.get(name + SIZE), teacher.get(name)
        if size is None or base is None or base.shape != steps.shape or len(size) != len(steps):
            raise CheckpointError(f"The difference of {name} from the teacher's is not whole. Install the package again.")
        found[name] = base.float() + (steps.flatten(1).float() * size.float()[:, None]).view(steps.shape)
    return found
