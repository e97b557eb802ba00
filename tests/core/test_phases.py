"""core/plan/phases.py: PNG phases and PhDA weights over the timestep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.core.errors import ConfigError
from echoedge.core.plan import Branch
from echoedge.core.plan.phases import Phase, PhaseWeights, check_phases, phase_terms

TIMESTEPS = [999.0, 937.0, 833.0, 624.0]  # flash, UniPC, 4 steps, shift 5
ONES = (1.0, 1.0, 1.0)


# ---- PNG ------------------------------------------------------------------------------------------------------------------------


def test_a_phase_holds_from_its_start_down_to_its_end() -> None:
    early, late = Phase(1.0, 0.8), Phase(0.8, 0.0)
    assert [early.holds(t) for t in (1000.0, 999.0, 801.0, 800.0, 0.0)] == [True, True, True, False, False]
    assert [late.holds(t) for t in (801.0, 800.0, 1.0, 0.0)] == [False, True, True, True]


@given(st.floats(0.0, 1000.0), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_adjoining_phases_share_the_range_without_a_gap(timestep: float, border: float) -> None:
    assert Phase(1.0, border).holds(timestep) != Phase(border, 0.0).holds(timestep)


def test_the_terms_push_away_from_each_negative() -> None:
    phase = Phase(1.0, 0.5, negatives=(("bad hands", 0.5), ("blurry", 0.25)), audio_negative=1.0)
    terms = {branch.name: weight for branch, weight in phase.terms() if weight}
    assert terms == {"prompt": 1.75, "bad hands": -0.5, "blurry": -0.25, "prompt/no-audio": -1.0}
    conditions = {branch.name: (branch.text, branch.image, branch.audio) for branch, _ in phase.terms()}
    assert conditions["bad hands"] == ("bad hands", True, True)
    assert conditions["prompt/no-audio"] == ("prompt", True, False)
    late = Phase(1.0, 0.5, misaligned=0.5, misaligned_by=6)
    assert {branch: weight for branch, weight in late.terms() if weight} == {
        Branch.of("prompt"): 0.5, Branch(name="prompt/audio+6", text="prompt", audio_shift=6): -0.5,
    }  # fmt: skip
    assert phase_terms([phase], 500.0) == []  # 0.5 belongs to whatever follows
    assert phase_terms([phase], 501.0) == phase.terms()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phase(1.2, 0.0), "phase start is 1.2"),
        (lambda: Phase(1.0, -0.1), "phase end is -0.1"),
        (lambda: Phase(float("nan"), 0.0), "phase start is nan"),
        (lambda: Phase(0.2, 0.5), "runs from 0.2 to 0.5"),
        (lambda: Phase(0.5, 0.5), "runs from 0.5 to 0.5"),
        (lambda: Phase(1.0, 0.5, negatives=(("prompt", 1.0),)), "clip's own text"),
        (lambda: Phase(1.0, 0.5, negatives=(("bad", 1.0), ("bad", 2.0))), "'bad' appears twice"),
        (lambda: Phase(1.0, 0.5, negatives=(("bad", -1.0),)), "weight of 'bad' is -1.0"),
        (lambda: Phase(1.0, 0.5, audio_negative=21.0), "weight of 'audio_negative' is 21.0"),
        (lambda: Phase(1.0, 0.5, misaligned=-1.0), "weight of 'misaligned' is -1.0"),
        (lambda: Phase(1.0, 0.5, misaligned=1.0, misaligned_by=0), "misaligned_by is 0"),
    ],
)
def test_a_bad_phase_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


def test_phases_must_be_ordered_apart_and_reached() -> None:
    check_phases([Phase(1.0, 0.9), Phase(0.9, 0.0)], TIMESTEPS)
    with pytest.raises(ConfigError, match=r"0.95..0.1 starts before 1.0..0.9 ends"):
        check_phases([Phase(1.0, 0.9), Phase(0.95, 0.1)], TIMESTEPS)
    with pytest.raises(ConfigError, match=r"1.0..0.9 starts before 0.5..0.0 ends"):
        check_phases([Phase(0.5, 0.0), Phase(1.0, 0.9)], TIMESTEPS)
    with pytest.raises(ConfigError, match=r"No step falls into the phase 0.5..0.0; the steps are at 0.999, 0.937, 0.833, 0.624"):
        check_phases([Phase(0.5, 0.0)], TIMESTEPS)


# ---- PhDA -----------------------------------------------------------------------------------------------------------------------


def test_all_ones_is_the_released_model() -> None:
    for timestep in TIMESTEPS:
        np.testing.assert_array_equal(PhaseWeights().at(timestep), [[1.0]] * 3)


def test_linear_weights_interpolate_between_points_and_hold_beyond_them() -> None:
    weights = PhaseWeights(((0.9, (1.0, 1.0, 0.5)), (0.4, (0.5, 1.0, 1.5))))
    np.testing.assert_allclose(weights.at(650.0)[:, 0], (0.75, 1.0, 1.0))
    np.testing.assert_allclose(weights.at(999.0)[:, 0], (1.0, 1.0, 0.5))
    np.testing.assert_allclose(weights.at(0.0)[:, 0], (0.5, 1.0, 1.5))
    assert weights.at(650.0)[2, 0] != PhaseWeights(weights.points, kind="constant").at(650.0)[2, 0]


def test_constant_weights_keep_the_point_already_passed() -> None:
    weights = PhaseWeights(((1.0, (1.0, 1.0, 0.5)), (0.6, ONES), (0.3, (1.0, 1.0, 2.0))), kind="constant")
    audio = [weights.at(timestep)[2, 0] for timestep in (999.0, 601.0, 600.0, 301.0, 299.0, 0.0)]
    assert audio == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]


def test_positions_multiply_per_latent_frame() -> None:
    weights = PhaseWeights(((1.0, (1.0, 1.0, 0.5)),), positions=((0.0, ONES), (1.0, (1.0, 0.0, 2.0))))
    np.testing.assert_allclose(weights.at(500.0, 5), [[1.0] * 5, [1.0, 0.75, 0.5, 0.25, 0.0], [0.5, 0.625, 0.75, 0.875, 1.0]])
    assert weights.at(500.0, 1).shape == (3, 1)
    with pytest.raises(ConfigError, match="give the plan a window"):
        weights.at(500.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": ()}, "at least one point"),
        ({"points": ((1.1, ONES),)}, "point is 1.1"),
        ({"points": ((0.5, ONES), (0.5, ONES))}, "0.5 follows 0.5"),
        ({"points": ((0.2, ONES), (0.5, ONES))}, "0.5 follows 0.2"),
        ({"points": ((1.0, (1.0, 1.0)),)}, "has 2 strengths"),
        ({"points": ((1.0, (1.0, -1.0, 1.0)),)}, "is -1.0"),
        ({"points": ((1.0, (1.0, float("nan"), 1.0)),)}, "is nan"),
        ({"kind": "linaer"}, "Did you mean 'linear'?"),
        ({"positions": ((1.0, ONES), (0.0, ONES))}, "0.0 follows 1.0"),
        ({"positions": ((2.0, ONES),)}, "position is 2.0"),
    ],
)
def test_bad_weights_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PhaseWeights(**arguments)
    assert message in str(caught.value)


def test_a_product_beyond_the_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="reaches 20 at timestep 500"):
        PhaseWeights(((1.0, (5.0, 1.0, 1.0)),), positions=((0.0, (4.0, 1.0, 1.0)),)).at(500.0, 3)
