"""core/weights/difference.py: a student is what its difference from its teacher says, to half a step of each row."""

from __future__ import annotations

import pytest
import torch

from echoedge.core.errors import CheckpointError
from echoedge.core.weights.difference import SIZE, STEPS, differences, restored


def test_a_matrix_comes_back_to_half_a_step_of_its_row() -> None:
    torch.manual_seed(0)
    teacher = {"a": torch.randn(6, 5, 2), "bias": torch.randn(6)}
    student = {"a": teacher["a"] + torch.randn(6, 5, 2) * torch.logspace(-3, 0, 6).view(6, 1, 1), "bias": torch.randn(6)}
    student |= {"new": torch.randn(4, 3)}
    student["a"][3] = teacher["a"][3]  # a row that was not moved
    kept = differences(student, teacher)
    assert {name: value.dtype for name, value in kept.items()} == {
        "a" + STEPS: torch.int8, "a" + SIZE: torch.float16, "bias": torch.float16, "new": torch.float16,
    }  # fmt: skip
    found = restored(kept, teacher)
    largest = (student["a"] - teacher["a"]).flatten(1).abs().amax(1)
    apart = (found["a"] - student["a"]).flatten(1).abs().amax(1)
    assert (apart <= 0.51 * largest / 127 + 1e-6).all() and (apart > 0.05 * largest / 127).sum() >= 5
    assert torch.equal(found["a"][3], teacher["a"][3])
    assert torch.equal(found["bias"], student["bias"].half().float()) and torch.equal(found["new"], student["new"].half().float())


@pytest.mark.parametrize("lost", ["size", "teacher"])
def test_half_a_difference_is_refused(lost: str) -> None:
    teacher = {"a": torch.randn(6, 5)}
    kept = differences({"a": torch.randn(6, 5)}, teacher)
    if lost == "size":
        del kept["a" + SIZE]
    with pytest.raises(CheckpointError, match="The difference of a from the teacher's is not whole"):
        restored(kept, teacher if lost == "size" else {})
