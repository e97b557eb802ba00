"""core/metrics/guidance.py on velocities whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.guidance import guidance_error

WEIGHTS = [[1.5, -0.5], [1.5, -0.5]]
Steps = list[dict[int, np.ndarray]]


def velocities(seed: int = 0) -> Steps:
    dice = np.random.default_rng(seed)
    return [{b: dice.normal(size=(2, 3, 4)).astype(np.float32) for b in range(2)} for _ in range(2)]


def changed(steps: Steps, **by: float) -> Steps:
    return [{b: v * (1 + by.get(f"b{b}", 0.0)) + by.get("add", 0.0) for b, v in step.items()} for step in steps]


def test_equal_velocities_have_no_error() -> None:
    found = guidance_error(WEIGHTS, velocities(), velocities())
    assert (found.velocity, found.guided, found.direction) == (0.0, 0.0, 0.0)


def test_an_error_in_proportion_is_one_in_every_figure() -> None:
    found = guidance_error(WEIGHTS, velocities(), changed(velocities(), b0=0.1, b1=0.1))
    assert (found.velocity, found.guided, found.direction) == pytest.approx((0.01, 0.01, 0.01), rel=1e-4)


def test_what_both_branches_share_leaves_the_direction_alone() -> None:
    steps = velocities()
    found = guidance_error(WEIGHTS, steps, changed(steps, add=0.3))
    size = 2 * 24
    assert found.direction == pytest.approx(0.0, abs=1e-10)
    assert found.guided == pytest.approx(size * 0.09 / sum(((1.5 * s[0] - 0.5 * s[1]) ** 2).sum() for s in steps), rel=1e-4)
    assert found.velocity == pytest.approx(2 * size * 0.09 / sum((v**2).sum() for s in steps for v in s.values()), rel=1e-4)


def test_what_one_branch_alone_does_is_weighed_by_guidance() -> None:
    """d = -0.5 (v1 - v0): an error e of branch 1 is -0.5 e in the direction and in the guided velocity."""
    steps = velocities()
    found = guidance_error(WEIGHTS, steps, changed(steps, b1=0.2))
    error = sum(((0.5 * 0.2 * s[1]) ** 2).sum() for s in steps)
    assert found.direction == pytest.approx(error / sum(((0.5 * (s[1] - s[0])) ** 2).sum() for s in steps), rel=1e-4)
    assert found.guided == pytest.approx(error / sum(((1.5 * s[0] - 0.5 * s[1]) ** 2).sum() for s in steps), rel=1e-4)


def test_steps_without_guidance_have_no_direction() -> None:
    steps = [{0: s[0]} for s in velocities()]
    found = guidance_error([[1.0, 0.0]] * 2, steps, changed(steps, b0=0.5))
    assert found.direction == 0.0
    assert found.guided == found.velocity == pytest.approx(0.25, rel=1e-4)


def test_velocities_that_do_not_match_are_refused() -> None:
    steps = velocities()
    with pytest.raises(InputError, match="2 steps of weights, 2 of velocities, 1 of measured"):
        guidance_error(WEIGHTS, steps, steps[:1])
    with pytest.raises(InputError, match=r"branches \[0, 1\] were measured as \[0\]"):
        guidance_error(WEIGHTS, steps, [{0: s[0]} for s in steps])
