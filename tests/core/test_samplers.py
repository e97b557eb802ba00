"""core/plan/samplers.py: plans against diffusers' schedulers, guidance, and upstream's reuse decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.core.errors import ConfigError
from echoedge.core.plan import SamplingPlan, WindowRule, advance, guide
from echoedge.core.plan.phases import Phase, PhaseWeights
from echoedge.core.plan.samplers import (
    PLAN_PRESETS,
    SCHEDULES,
    SOLVERS,
    TEACACHE_COEFFICIENTS,
    TEACACHE_LIMITS,
    AudioGuidance,
    FeatureReuse,
    NoGuidance,
    PlanOptions,
    TextAudioGuidance,
    build_plan,
    dynamic_scale,
    reuse_decisions,
    scheduler_for,
    upstream_reuse_decisions,
    upstream_trajectory,
)
from echoedge.core.train.preference import Captions

from ..upstream.checks_schedulers import options_of, velocity_of
from ..upstream.goldens import golden

TEACACHE = (
    "teacache_flash_thr0.1_skip5",
    "teacache_flash_thr1.7_skip2_poly1",
    "teacache_preview_thr1_skip1_poly1",
    "teacache_preview_thr2.9_skip3_poly2",
)


def velocity(x: np.ndarray, timestep: float) -> np.ndarray:
    """Some nonlinear velocity, in float32."""
    u = np.float32(timestep / 1000)
    three, two = np.float32(3), np.float32(2)
    return np.float32(0.7) * x + np.float32(0.3) * np.sin(three * x) - np.float32(0.5) * np.cos(two * u) + np.float32(0.2) * u * x


def bfloat16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().float().numpy()


def same(x: np.ndarray) -> np.ndarray:
    return x


def replay(plan: SamplingPlan, start: np.ndarray, cast: Any = same) -> list[np.ndarray]:
    """The n+1 states of a plan with `velocity`; `cast` rounds states and velocities, as a pipeline of that type stores them."""
    states, history = [start], [start]
    for step, timestep in enumerate(plan.timesteps):
        history.append(cast(velocity(states[-1], timestep)))
        states.append(cast(advance(plan, step, history)))
    return states


def with_perturbed_solver(plan: SamplingPlan, by: float = 1e-3) -> SamplingPlan:
    """The plan with one coefficient of its last row moved."""
    last = (*plan.solver[-1][:-1], plan.solver[-1][-1] + by)
    return plan.model_copy(update={"solver": (*plan.solver[:-1], last)})


# ---- solver tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_plan_replays_the_scheduler_it_was_read_from(solver: str, schedule: str) -> None:
    start = np.random.default_rng(3).normal(size=(1, 2, 3, 4)).astype(np.float32)
    for steps in (1, 2, 4, 5, 8, 25):
        for shift in (1.0, 3.0, 5.0):
            plan = build_plan(PlanOptions(solver=solver, schedule=schedule, steps=steps, shift=shift, guidance=NoGuidance()))
            scheduler = scheduler_for(solver, schedule, steps, shift)
            np.testing.assert_array_equal(plan.timesteps, scheduler.timesteps.double().numpy())
            np.testing.assert_array_equal(plan.sigmas, scheduler.sigmas.double().numpy())
            states = replay(plan, start)
            x = torch.from_numpy(start)
            for i, timestep in enumerate(scheduler.timesteps):
                v = torch.from_numpy(velocity(x.numpy(), float(timestep)))
                x = scheduler.step(v, timestep, x, return_dict=False)[0]
                error = abs(states[i + 1] - x.numpy()).max() / abs(x.numpy()).max()
                assert error < 1e-5, (steps, shift, i)  # measured at most 5.4e-7
            off = replay(with_perturbed_solver(plan), start)[-1]
            assert abs(off - x.numpy()).max() / abs(x.numpy()).max() > 1e-5


def test_the_table_is_read_in_float64() -> None:
    # A float32 step anywhere in the reading would leave errors of 1e-7 in what constant velocities must give.
    for solver in SOLVERS:
        plan = build_plan(PlanOptions(solver=solver, steps=25, guidance=NoGuidance()))
        for i, row in enumerate(plan.solver):
            assert row[0] == pytest.approx(1.0, abs=1e-12)
            assert sum(row[1:]) == pytest.approx(plan.sigmas[i + 1] - plan.sigmas[0], abs=1e-12)  # measured 2.2e-16


def half_velocity(x: Tensor, timestep: float) -> Tensor:
    """`velocity` for latents of any type."""
    return torch.from_numpy(velocity(x.float().numpy(), timestep)).to(x.dtype)


@pytest.mark.parametrize("solver", SOLVERS)
def test_upstreams_arithmetic_in_float32_is_the_plan(solver: str) -> None:
    noise = torch.randn(2, 3, 4)
    for steps in (1, 5, 25):
        options = PlanOptions(solver=solver, steps=steps, guidance=NoGuidance())
        theirs = upstream_trajectory(options, noise, half_velocity)
        assert theirs.shape == (steps + 1, 2, 3, 4)
        ours = np.stack(replay(build_plan(options), noise.numpy()))
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)  # measured: 4.8e-7 of 2.6
        off = replay(with_perturbed_solver(build_plan(options)), noise.numpy())[-1]
        assert abs(off - theirs[-1].numpy()).max() > 1e-4


def test_bfloat16_unipc_of_upstream_is_diffusers_to_the_bit() -> None:
    case = golden("sched_unipc_shift5_bf16")
    recorded = case.tensors()
    for steps in case.call["steps"]:
        ours = upstream_trajectory(options_of(case, steps), recorded["in/x0"], velocity_of(case))
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, recorded[f"out/steps{steps}/x"])


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_is_nearer_to_float32_than_upstreams_bfloat16_is(seed: int) -> None:
    """Both keep latents and velocities in bfloat16; the plan's table is played in float32, upstream's UniPC computes in it."""
    noise = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(seed)).bfloat16()
    for steps in (8, 25):
        options = PlanOptions(steps=steps, guidance=NoGuidance())
        exact = upstream_trajectory(options, noise.float(), half_velocity)[-1].numpy()
        table = replay(build_plan(options), noise.float().numpy(), bfloat16)[-1]
        theirs = upstream_trajectory(options, noise, half_velocity)[-1].float().numpy()
        rms = [np.sqrt(np.mean((states - exact) ** 2)) for states in (table, theirs)]
        assert 2 * rms[0] < rms[1]  # measured: 4.8 times at 8 steps, 11 at 25, at least


def test_the_shifted_constructor_moves_what_it_moves_upstream() -> None:
    # Preview with DPM++ shifts twice; UniPC only moves the first sigma.
    double = build_plan(PlanOptions(solver="dpmpp", constructor_shift=5.0, guidance=NoGuidance()))
    assert double.timesteps[:5] == (1000.0, 994.0, 986.0, 976.0, 961.0)
    assert build_plan(PlanOptions(solver="dpmpp", guidance=NoGuidance())).timesteps[:3] != double.timesteps[:3]
    assert build_plan(PlanOptions(guidance=NoGuidance())).timesteps == (999.0, 972.0, 937.0, 892.0, 833.0, 749.0, 624.0, 416.0)


# ---- guidance -------------------------------------------------------------------------------------------------------------------


def small(guidance: Any, steps: int = 4, **options: Any) -> SamplingPlan:
    return build_plan(PlanOptions(steps=steps, guidance=guidance, **options))


def weights(plan: SamplingPlan, step: int) -> dict[str, float]:
    return {plan.branches[b].name: plan.guidance[step][b] for b in plan.evaluated(step)}


def test_no_guidance_is_one_branch() -> None:
    plan = small(NoGuidance())
    assert [branch.name for branch in plan.branches] == ["prompt"]
    assert plan.evaluations == plan.steps == 4


def mixed(plan: SamplingPlan, step: int, **by_name: float) -> float:
    arrays = {name.replace("__", "/").replace("_", "-"): np.float32([value]) for name, value in by_name.items()}
    return float(guide(plan, step, arrays)[0])


def test_flash_and_preview_guidance_are_upstreams_formulas() -> None:
    with_audio, without, negative = 0.7, -0.3, 1.9
    flash = small(AudioGuidance(2.5))
    values = {"prompt": with_audio, "prompt__no_audio": without}
    assert mixed(flash, 1, **values) == pytest.approx(without + 2.5 * (with_audio - without), rel=1e-6)
    assert mixed(flash, 1, prompt=without, prompt__no_audio=with_audio) != pytest.approx(without + 2.5 * (with_audio - without))
    preview = small(TextAudioGuidance(text=4.0, audio=2.5))
    expected = negative + 4.0 * (without - negative) + 2.5 * (with_audio - without)
    assert mixed(preview, 1, **values, negative__no_audio=negative) == pytest.approx(expected, rel=1e-6)
    conditions = {branch.name: (branch.text, branch.image, branch.audio, branch.text_scale) for branch in preview.branches}
    assert conditions["negative/no-audio"] == ("negative", True, False, 1.0)


def test_a_branch_that_cancels_out_is_not_evaluated() -> None:
    assert set(weights(small(TextAudioGuidance(text=3.0, audio=3.0)), 0)) == {"prompt", "negative/no-audio"}
    assert set(weights(small(TextAudioGuidance(text=1.0, audio=1.0)), 0)) == {"prompt"}
    assert [branch.name for branch in small(AudioGuidance(1.0)).branches] == ["prompt"]


def test_dynamic_guidance_falls_from_its_scale_to_half_of_it() -> None:
    scales = [dynamic_scale(4.0, i, 25) for i in range(25)]
    assert scales[0] == 4.0
    assert scales[-1] == pytest.approx(2.0, abs=1e-12)
    assert scales == sorted(scales, reverse=True)


def test_dynamic_guidance_has_a_switch_for_text_and_one_for_audio() -> None:
    text_only = small(TextAudioGuidance(text=4.0, audio=2.9, dynamic_text=True))
    rows = golden("dynamic_guidance").results["N4_gs4_ags2.9"]
    for i, (text, audio) in enumerate(rows):
        assert weights(text_only, i)["negative/no-audio"] == pytest.approx(1 - text, rel=1e-9)
        assert weights(text_only, i)["prompt"] == pytest.approx(2.9)
        both = weights(small(TextAudioGuidance(text=4.0, audio=2.9, dynamic_text=True, dynamic_audio=True)), i)
        assert both["prompt"] == pytest.approx(audio, rel=1e-9)
        assert weights(small(AudioGuidance(2.9, dynamic=True)), i)["prompt"] == pytest.approx(audio, rel=1e-9)


def test_skipping_guidance_follows_upstreams_calls() -> None:
    case = golden("pipe_flash_cfgskip")
    calls = [(call["t"], call["audio_nonzero"][0]) for call in case.results["calls"]]
    plan = small(AudioGuidance(2.5, skip_ratio=0.5))
    assert [(t, plan.branches[b].audio) for i, t in enumerate(plan.timesteps) for b in plan.evaluated(i)] == calls
    assert small(AudioGuidance(2.5, skip_ratio=0.25)).evaluations == len(calls) + 1
    for ratio, guided in ((0.0, 10), (0.1, 9), (0.3, 7), (0.7, 3), (1.0, 0)):
        assert small(AudioGuidance(2.5, skip_ratio=ratio), steps=10).evaluations == 10 + guided


def test_upstreams_cumulative_negative_scale() -> None:
    case, plain = golden("pipe_preview_neg"), golden("pipe_preview_plain")
    call = case.call
    unscaled = plain.results["calls"][0]["text_absmean"][0]
    theirs = [entry["text_absmean"][0] / unscaled for entry in case.results["calls"]]
    common: dict[str, Any] = {"neg_scale": call["neg_scale"], "neg_steps": call["neg_steps"]}

    def scales(plan: SamplingPlan) -> list[float]:
        return [
            plan.branches[b].text_scale for i in range(plan.steps) for b in plan.evaluated(i) if plan.branches[b].text == "negative"
        ]

    np.testing.assert_allclose(scales(small(TextAudioGuidance(upstream_compat=True, **common))), theirs, rtol=1e-6)
    correct = [call["neg_scale"] if i < call["neg_steps"] else 1.0 for i in range(4)]
    assert scales(small(TextAudioGuidance(**common))) == correct
    assert not np.allclose(correct, theirs)


def test_scaled_negatives_are_branches_of_their_own() -> None:
    plan = small(TextAudioGuidance(neg_scale=1.5, neg_steps=2, upstream_compat=True))
    assert [branch.name for branch in plan.branches] == [
        "prompt", "prompt/no-audio", "negative*1.5/no-audio", "negative*2.25/no-audio", "negative*3.375/no-audio",
    ]  # fmt: skip
    assert plan.evaluations == 3 * 4


# ---- PNG and PhDA in a plan -----------------------------------------------------------------------------------------------------


def test_png_adds_to_guidance_in_its_phase_only() -> None:
    phases = (Phase(1.0, 0.9, negatives=(("bad hands", 0.5),)), Phase(0.7, 0.0, negatives=(("blurry", 0.25),), audio_negative=1.0))
    plan = small(AudioGuidance(3.0), phases=phases)  # τ = 0.999, 0.937, 0.833, 0.624
    assert weights(plan, 0) == weights(plan, 1) == {"prompt": 3.5, "prompt/no-audio": -2.0, "bad hands": -0.5}
    assert weights(plan, 2) == {"prompt": 3.0, "prompt/no-audio": -2.0}
    assert weights(plan, 3) == {"prompt": 4.25, "prompt/no-audio": -3.0, "blurry": -0.25}
    alone = small(NoGuidance(), phases=phases[:1])
    value = mixed(alone, 0, **{"prompt": 0.8, "bad hands": -0.4})
    assert value == pytest.approx(0.8 + 0.5 * (0.8 + 0.4), rel=1e-6)
    assert weights(alone, 3) == {"prompt": 1.0}


def test_png_phases_follow_the_noise_level_not_the_step_count() -> None:
    phases = (Phase(1.0, 0.9, negatives=(("bad hands", 0.5),)),)
    for steps in (4, 8, 25):
        plan = small(NoGuidance(), steps=steps, phases=phases)
        for i, timestep in enumerate(plan.timesteps):
            assert ("bad hands" in weights(plan, i)) == (timestep > 900.0)


def test_a_phase_that_no_step_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"No step falls into the phase 0.3..0.1"):
        small(NoGuidance(), phases=(Phase(0.3, 0.1, audio_negative=1.0),))


def test_modality_weights_reach_the_plan() -> None:
    plan = small(NoGuidance(), modality=PhaseWeights(((1.0, (1.0, 1.0, 0.6)),)))
    np.testing.assert_array_equal(plan.modality(3, 2), np.float32([[1, 1], [1, 1], [0.6, 0.6]]))
    ramp = PhaseWeights(positions=((0.0, (1.0, 1.0, 0.0)), (1.0, (1.0, 1.0, 1.0))))
    framed = small(NoGuidance(), modality=ramp, window=WindowRule(length=3, overlap=1))
    np.testing.assert_array_equal(framed.modality(0, 3)[2], np.float32([0.0, 0.5, 1.0]))
    with pytest.raises(ConfigError, match="give the plan a window"):
        small(NoGuidance(), modality=ramp)


# ---- feature reuse --------------------------------------------------------------------------------------------------------------


def table_of(distances: list[float]) -> np.ndarray:
    """Modulation vectors whose successive relative changes are `distances` (of steps 1, 2, ...)."""
    return np.cumprod(np.concatenate([[1.0], 1.0 + np.array(distances)]))[:, None] * np.array([[1.0, -2.0, 3.0]])


@pytest.mark.parametrize("name", TEACACHE)
def test_upstreams_shared_counters(name: str) -> None:
    case = golden(name)
    call, results = case.call, case.results
    coefficients = call["coefficients"] or TEACACHE_COEFFICIENTS["wan2.1-fun-1.3b"]
    entries = [entry for entry in results["log"] if entry["phase"] == 0][1:]
    distances = [entry["rel_l1"] or 0.0 for entry in entries]  # upstream does not measure it in the steps it always computes
    arguments = (coefficients, call["rel_l1_thresh"], call["num_skip_start_steps"])
    ours = upstream_reuse_decisions(table_of(distances), *arguments, calls_per_step=call["calls_per_step"])
    assert [int(not reused) for step in ours for reused in step] == results["computed"]
    other = upstream_reuse_decisions(
        table_of(distances), coefficients, 0.0, len(results["computed"]), calls_per_step=call["calls_per_step"]
    )
    assert [int(not reused) for step in other for reused in step] != results["computed"]
    if call["calls_per_step"] == 1:  # upstream has no fault then, and the plan's rule agrees
        assert [int(not reused) for reused in reuse_decisions(table_of(distances), *arguments)] == results["computed"]


@pytest.mark.parametrize("name", TEACACHE)
def test_upstreams_decisions_from_real_modulation_vectors(name: str) -> None:
    case = golden(name)
    w, call = case.weights(), case.call
    timesteps = case.tensors()["in/t"].double()
    half = case.config["freq_dim"] // 2
    angles = timesteps[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    e = torch.cat([angles.cos(), angles.sin()], dim=1).float()  # [n, freq_dim]
    for layer in ("time_embedding.0", "time_embedding.2", "time_projection.1"):
        e = torch.nn.functional.linear(
            e if layer == "time_embedding.0" else torch.nn.functional.silu(e), w[f"{layer}.weight"], w[f"{layer}.bias"]
        )
    arguments = (call["coefficients"], call["rel_l1_thresh"], call["num_skip_start_steps"], call["calls_per_step"])
    ours = upstream_reuse_decisions(e.double().numpy(), *arguments)
    assert [int(not reused) for step in ours for reused in step] == case.results["computed"]
    still = upstream_reuse_decisions(torch.ones_like(e).double().numpy(), *arguments)
    if call["coefficients"] == [1.0, 0.0]:  # with the others, these vectors too compute nothing after the first steps
        assert [int(not reused) for step in still for reused in step] != case.results["computed"]


def test_each_branch_counts_for_itself() -> None:
    # Upstream's second call has distance 0 and so always reuses; on its own counters it decides as the first.
    table = table_of([0.45] * 7)
    mine = reuse_decisions(table, (1.0, 0.0), 1.0, 1)
    assert mine == [False, True, True, False, True, True, False, True]
    upstream = upstream_reuse_decisions(table, (1.0, 0.0), 1.0, 1, calls_per_step=2)
    assert all(second for _, second in upstream)
    assert [first for first, _ in upstream] != mine


def test_a_branch_is_computed_when_it_enters() -> None:
    table = table_of([0.01] * 7)
    evaluated = [False, False, False, True, True, False, False, True]
    decisions = reuse_decisions(table, (1.0, 0.0), 0.035, 1, evaluated=evaluated)
    assert decisions == [
        False,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
    ]  # 4 steps of change since step 3, so step 7 computes
    assert reuse_decisions(table, (1.0, 0.0), 0.5, 1, evaluated=evaluated)[7]


def test_a_change_outside_of_the_fit_is_computed() -> None:
    coefficients, limit = TEACACHE_COEFFICIENTS["wan2.1-fun-1.3b"], TEACACHE_LIMITS["wan2.1-fun-1.3b"]
    assert np.polyval(np.polyder(coefficients), limit) == pytest.approx(0.0, abs=0.2)  # the peak; the slope is 15 at 0
    assert np.polyval(coefficients, 0.3) < 0.0  # upstream takes such a change for less than none and reuses
    table = table_of([0.3, 0.3, 0.3])
    assert reuse_decisions(table, coefficients, 0.1, 1, max_distance=limit) == [False] * 4
    assert reuse_decisions(table, coefficients, 0.1, 1) == [False, True, True, True]


def test_reuse_in_a_plan_never_lacks_a_residual() -> None:
    guidance = TextAudioGuidance(skip_ratio=0.25, neg_scale=1.5, neg_steps=3)
    option = FeatureReuse(threshold=0.1, skip_first=2, coefficients=(1.0, 0.0))
    options = PlanOptions(steps=8, guidance=guidance, phases=(Phase(0.8, 0.5, negatives=(("blurry", 0.5),)),), reuse=option)

    def slow(timesteps: Any) -> np.ndarray:
        return 1.0 + np.array(timesteps)[:, None] / 100_000.0

    plan = build_plan(options, modulation=slow)  # SamplingPlan itself refuses a reuse without a residual
    assert plan.evaluations == len(plan.branches) + 3  # each branch once, and the three that are there at the start twice
    assert build_plan(PlanOptions(steps=8, guidance=guidance)).evaluations == 3 * 6 + 2
    with pytest.raises(ConfigError, match="needs the model's modulation vectors"):
        build_plan(options)
    with pytest.raises(ConfigError, match="modulation gave 7 vectors for 8"):
        build_plan(options, modulation=lambda timesteps: slow(timesteps)[1:])


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        (np.ones((4, 2)), {"skip_first": 0}, "skip_first is 0"),
        (np.ones((4, 2)), {"threshold": float("nan")}, "threshold is nan"),
        (np.ones((4, 2)), {"coefficients": ()}, "coefficients are ()"),
        (np.ones(4), {}, "got shape (4,)"),
        (np.full((4, 2), np.inf), {}, "finite"),
        (np.zeros((4, 2)), {}, "step 0 is all zero"),
        (np.ones((4, 2)), {"evaluated": [True]}, "evaluated has 1 steps"),
    ],
)
def test_bad_reuse_arguments_are_refused(table: np.ndarray, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reuse_decisions(table, **{"coefficients": (1.0, 0.0), "threshold": 0.1, "skip_first": 1, **arguments})
    assert message in str(caught.value)


# ---- options --------------------------------------------------------------------------------------------------------------------


def test_nanos_negatives_are_captions_that_training_knows() -> None:
    late = PLAN_PRESETS["nano-png"].phases[1]
    assert {name for name, _ in late.negatives} <= {kind.value for kind in Captions().kinds}
    branches = [branch.name for branch in build_plan(PLAN_PRESETS["nano-png"]).branches]
    assert branches == ["prompt", "prompt/no-audio", "prompt/audio+8", "still mouth"]


@pytest.mark.parametrize("name", sorted(PLAN_PRESETS))
def test_presets_give_plans_that_survive_the_trip_through_json(name: str) -> None:
    plan = build_plan(PLAN_PRESETS[name])
    assert SamplingPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlanOptions(solver="uni-pc"), "Did you mean 'unipc'?"),
        (lambda: PlanOptions(solver="heun"), "Choose from: euler, unipc, dpmpp."),
        (lambda: PlanOptions(schedule="wam"), "Did you mean 'wan'?"),
        (lambda: PlanOptions(steps=0), "steps is 0"),
        (lambda: PlanOptions(steps=1001), "steps is 1001"),
        (lambda: PlanOptions(steps=8.0), "steps is 8.0"),  # type: ignore[arg-type]
        (lambda: PlanOptions(shift=0.0), "shift is 0.0"),
        (lambda: PlanOptions(shift=float("nan")), "shift is nan"),
        (lambda: PlanOptions(solver="euler", constructor_shift=5.0), "euler with the wan schedule has one shift only"),
        (lambda: PlanOptions(schedule="diffusers", constructor_shift=5.0), "unipc with the diffusers schedule has one shift only"),
        (lambda: PlanOptions(guidance=3.0), "guidance is 3.0"),  # type: ignore[arg-type]
        (lambda: PlanOptions(seed=-1), "The seed is -1"),
        (lambda: AudioGuidance(scale=-1.0), "audio guidance scale is -1.0"),
        (lambda: AudioGuidance(skip_ratio=1.5), "skip_ratio is 1.5"),
        (lambda: TextAudioGuidance(neg_steps=-1), "neg_steps is -1"),
        (lambda: TextAudioGuidance(neg_scale=11.0), "neg_scale is 11.0"),
        (lambda: TextAudioGuidance(negative="prompt"), "The negative text is 'prompt'"),
        (lambda: FeatureReuse(skip_first=0), "skip_first is 0"),
        (lambda: FeatureReuse(max_distance=0.0), "max_distance is 0.0"),
    ],
)
def test_bad_options_are_refused_with_the_value(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("shift", [0.01, 0.1, 1.3, 100.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_extreme_shifts_give_plans_in_range(solver: str, shift: float) -> None:
    # Euler's float32 shift gives 1000.0953 at 0.01; a plan holds 1000 at most, or its own validation would refuse it.
    for steps in (1, 2, 100):
        plan = build_plan(PlanOptions(solver=solver, steps=steps, shift=shift, guidance=NoGuidance()))
        assert max(plan.timesteps) <= 1000.0
        assert max(plan.sigmas) <= 1.0
