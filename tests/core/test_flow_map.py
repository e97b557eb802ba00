"""core/model/transformer.py, core/plan/: what a student is told of its steps, and plans of given noise levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from echoedge.core.config import NANO, ModelConfig
from echoedge.core.errors import ConfigError
from echoedge.core.model.transformer import DiT
from echoedge.core.plan import advance
from echoedge.core.plan.samplers import NoGuidance, PlanOptions, build_plan

from .tiny import randomised, tiny_config

LEVELS = (1.0, 0.75, 0.5, 0.3)


def student() -> DiT:
    return randomised(DiT(replace(tiny_config(), flow_map=True)))


def test_a_configuration_of_old_keeps_its_digest() -> None:
    assert "flow_map" not in NANO.to_dict()
    ours = replace(NANO, flow_map=True)
    assert ModelConfig.from_dict(ours.to_dict()) == ours and ours.digest != NANO.digest


def test_a_step_that_is_longer_is_another_one() -> None:
    dit, levels = student(), torch.tensor([750.0, 750.0, 300.0])
    time, modulation = dit.step_tables(levels, torch.tensor([250.0, 450.0, 300.0]))
    half = dit.config.freq_dim // 2
    rates = 10000.0 ** (-np.arange(half) / half)

    def embedded(value: float, layers: torch.nn.Sequential) -> torch.Tensor:
        angle = torch.from_numpy(np.concatenate([np.cos(value * rates), np.sin(value * rates)])).float()
        return layers(angle)

    for row, (level, span) in enumerate(((750.0, 250.0), (750.0, 450.0), (300.0, 300.0))):
        wanted = embedded(level, dit.time_embedding) + embedded(span, dit.span_embedding)
        assert torch.allclose(time[row], wanted, atol=1e-5)  # one row at a time, and together: 1e-6
        assert torch.allclose(modulation[row].flatten(), dit.time_projection(wanted), atol=1e-5)
    assert not torch.allclose(time[0], time[1], atol=1e-3)


def test_a_student_has_to_be_told_and_a_teacher_does_not_listen() -> None:
    with pytest.raises(ConfigError, match="how far each step goes"):
        student().step_tables(torch.tensor([750.0]))
    teacher = randomised(DiT(tiny_config()))
    plain, told = teacher.step_tables(torch.tensor([750.0])), teacher.step_tables(torch.tensor([750.0]), torch.tensor([250.0]))
    assert all(torch.equal(a, b) for a, b in zip(plain, told, strict=True))


def test_an_untaught_student_makes_nothing_of_the_span() -> None:
    dit = DiT(replace(tiny_config(), flow_map=True))
    near, far = (dit.step_tables(torch.tensor([750.0]), torch.tensor([span])) for span in (1.0, 700.0))
    assert torch.equal(near[0], far[0])


def test_given_levels_are_eulers_steps() -> None:
    plan = build_plan(PlanOptions(solver="euler", steps=4, shift=1.0, levels=LEVELS, guidance=NoGuidance()))
    assert np.allclose(plan.sigmas, (*LEVELS, 0.0), atol=1e-7) and np.allclose(plan.timesteps, np.array(LEVELS) * 1000, atol=1e-3)
    assert np.allclose(plan.spans, (250.0, 250.0, 200.0, 300.0), atol=1e-3)
    rng = np.random.default_rng(0)
    history = [rng.normal(size=(2, 3)).astype(np.float32) for _ in range(5)]
    state = history[0].astype(np.float64)
    for step, velocity in enumerate(history[1:]):
        state = state + ((*LEVELS, 0.0)[step + 1] - LEVELS[step]) * velocity
        assert np.allclose(advance(plan, step, history[: step + 2]), state, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"solver": "unipc"}, {"steps": 3}, {"shift": 3.0}])
def test_levels_go_with_eulers_steps_alone(wrong: dict[str, object]) -> None:
    options = {"solver": "euler", "steps": 4, "shift": 1.0, "levels": LEVELS} | wrong
    with pytest.raises(ConfigError, match="They go with Euler's steps, one for each, and with a shift of 1"):
        PlanOptions(**options)  # type: ignore[arg-type]
