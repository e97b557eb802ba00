"""core/plan/plan.py: what a plan refuses, its text form, windows, the player's arithmetic and the noise."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echoedge.core.errors import BundleError, ConfigError
from echoedge.core.plan import (
    Branch,
    NoiseRule,
    SamplingPlan,
    Window,
    WindowRule,
    advance,
    blend,
    check_choice,
    guide,
    noise,
    philox,
    windows,
)

GOLDEN_NOISE: dict[str, Any] = {
    "first": [
        "-0x1.a2cf720000000p+0",
        "0x1.72d5880000000p-4",
        "-0x1.9600160000000p+0",
        "0x1.d45b860000000p-1",
        "-0x1.af2b440000000p+0",
        "0x1.18728a0000000p+0",
    ],
    "sha256": "e3fe82dd7f103d6c32aaa4d45588d8394116f304c9be04754ef7d0f68bd01e7e",
}

BRANCHES = [Branch.of("prompt"), Branch.of("prompt", audio=False)]


def fields(**changes: Any) -> dict[str, Any]:
    """A two-step Euler plan with audio guidance that reuses one branch in its second step."""
    base: dict[str, Any] = {
        "solver_name": "euler",
        "schedule": "wan",
        "shift": 1.0,
        "timesteps": [1000.0, 500.0],
        "sigmas": [1.0, 0.5, 0.0],
        "solver": [[1.0, -0.5], [1.0, -0.5, -0.5]],
        "branches": BRANCHES,
        "guidance": [[3.0, -2.0], [3.0, -2.0]],
        "modality_weights": [[[1.0], [1.0], [1.0]], [[1.0], [1.0], [0.5]]],
        "reuse": [[False, False], [False, True]],
    }
    return {**base, **changes}


def plan(**changes: Any) -> SamplingPlan:
    return SamplingPlan(**fields(**changes))


# ---- the record -----------------------------------------------------------------------------------------------------------------


def test_a_plan_tells_what_a_player_asks() -> None:
    p = plan()
    assert (p.steps, p.evaluations, p.evaluated(0)) == (2, 3, (0, 1))
    assert p.format == "echoedge.plan/1"
    assert plan(guidance=[[1.0, 0.0], [3.0, -2.0]], reuse=[[False, False]] * 2).evaluated(0) == (0,)


def test_a_branch_hears_the_speech_as_it_is_late_or_not_at_all() -> None:
    speech = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    np.testing.assert_array_equal(Branch.of("prompt").hear(speech), speech)
    np.testing.assert_array_equal(Branch.of("prompt", audio_shift=2).hear(speech)[0, :, 0], [6, 8, 0, 2, 4])
    np.testing.assert_array_equal(
        Branch.of("prompt", audio_shift=2).hear(speech, 2), Branch.of("prompt", audio_shift=4).hear(speech)
    )
    np.testing.assert_array_equal(Branch.of("prompt", audio=False).hear(speech), np.zeros_like(speech))
    assert Branch.of("bad", audio_shift=8).name == "bad/audio+8"


def test_what_is_not_heard_cannot_be_late() -> None:
    with pytest.raises(ConfigError, match="audio_shift is 3 in a branch without audio"):
        Branch.of("prompt", audio=False, audio_shift=3)


def test_plans_from_before_audio_could_be_late_are_read() -> None:
    text = plan().to_json().replace('"audio_shift": 0, ', "")
    assert "audio_shift" not in text
    assert SamplingPlan.from_json(text) == plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": [[1.0, -0.5]]}, "solver has 1 rows for 2 timesteps"),
        ({"solver": [[1.0, -0.5], [1.0, -1.0]]}, "row 1 has 2 coefficients"),
        ({"solver": [[1.0, -0.5], [1.0, -0.5, -0.4]]}, "belongs to another schedule"),
        ({"solver": [[1.0, -0.5], [0.9, -0.5, -0.5]]}, "weighs the noise by 0.9"),
        ({"solver": [[1.0, math.nan], [1.0, -0.5, -0.5]]}, "solver.0.1 is nan"),
        ({"sigmas": [1.0, 0.5]}, "There are 2 sigmas for 2 timesteps"),
        ({"sigmas": [1.0, 1.0, 0.0]}, "do not fall from 1.0 to 1.0"),
        ({"sigmas": [1.0, 0.5, 0.1]}, "The last sigma is 0.1"),
        ({"sigmas": [1.5, 0.5, 0.0]}, "sigmas.0 is 1.5"),
        ({"timesteps": []}, "timesteps"),
        ({"timesteps": [500.0, 1000.0]}, "timesteps rise from 500.0 to 1000.0"),
        ({"timesteps": [1000.0, "500"]}, "timesteps.1 is '500'"),
        ({"timesteps": [True, 500.0]}, "timesteps.0 is True"),
        ({"branches": []}, "branches"),
        ({"branches": [BRANCHES[0], BRANCHES[0]]}, "Two branches are called 'prompt'"),
        ({"branches": [BRANCHES[0], {"name": "b", "text": "x", "sound": True}]}, "no field 'sound'"),
        ({"guidance": [[3.0, -2.0], [3.0]]}, "Step 1 has 1 guidance weights"),
        ({"guidance": [[3.0, -2.0], [3.0, -1.9]]}, "sum to 1.1"),
        ({"guidance": [[3.0, -2.0], [math.inf, -2.0]]}, "guidance.1.0 is inf"),
        ({"reuse": [[False, True], [False, False]]}, "Step 0 reuses branch 'prompt/no-audio' before any step has computed it"),
        ({"guidance": [[3.0, -2.0], [1.0, 0.0]]}, "whose guidance weight is 0"),
        ({"guidance": [[1.0, 0.0], [3.0, -2.0]]}, "before any step has computed it"),
        ({"reuse": [[False, False], [False, 1]]}, "reuse.1.1 is 1"),
        ({"modality_weights": [[[1.0], [1.0]], [[1.0], [1.0]]]}, "rows of text, image and audio"),
        ({"modality_weights": [[[1.0], [1.0], [1.0, 1.0]], [[1.0], [1.0], [1.0]]]}, "the same P"),
        ({"modality_weights": [[[1.0], [1.0], [-1.0]], [[1.0], [1.0], [1.0]]]}, "is -1.0"),
        ({"modality_weights": [[[1.0] * 4] * 3] * 2, "window": WindowRule(length=5, overlap=1)}, "are for 4 latent frames"),
        ({"window": {"length": 4, "overlap": 4}}, "overlap is 4"),
        ({"noise": {"generator": "mt19937", "seed": 0}}, "'mt19937'"),
        ({"noise": {"seed": 2**64}}, "seed is 18446744073709551616"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"colour": "red"}, "no field 'colour'"),
        ({"format": "echoedge.plan/9"}, "'echoedge.plan/9'"),
    ],
)
def test_a_plan_that_cannot_be_played_is_refused_with_the_bad_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**changes)
    assert message in str(caught.value)


def test_a_missing_field_is_named() -> None:
    incomplete = fields()
    del incomplete["sigmas"]
    with pytest.raises(ConfigError, match=r"SamplingPlan\.sigmas is missing"):
        SamplingPlan(**incomplete)


def test_a_plan_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        plan().shift = 3.0


def test_modality_broadcasts_one_weight_and_keeps_one_per_frame() -> None:
    p = plan()
    assert p.modality(1, 4).dtype == np.float32
    np.testing.assert_array_equal(p.modality(1, 4), [[1.0] * 4, [1.0] * 4, [0.5] * 4])
    ramp = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.5, 0.0]]
    q = plan(modality_weights=[ramp, ramp], window=WindowRule(length=3, overlap=1))
    np.testing.assert_array_equal(q.modality(0, 3), np.float32(ramp))
    with pytest.raises(ConfigError, match="for 3 latent frames; 4 are played"):
        q.modality(0, 4)


def test_choices_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"solver is 'unipcc'. Choose from: euler, unipc. Did you mean 'unipc'\?"):
        check_choice("solver", "unipcc", ("euler", "unipc"))


# ---- the text form --------------------------------------------------------------------------------------------------------------


def test_json_comes_back_equal_and_stable() -> None:
    p = plan(window=WindowRule(length=5, overlap=2), noise=NoiseRule(seed=2**64 - 1))
    text = p.to_json()
    again = SamplingPlan.from_json(text)
    assert again == p
    assert again.to_json() == text == SamplingPlan.from_json(text.encode()).to_json()
    keys = list(json.loads(text))
    assert keys == sorted(keys)


@st.composite
def plans(draw: st.DrawFn) -> SamplingPlan:
    n = draw(st.integers(1, 6))
    levels = sorted(draw(st.sets(st.floats(0.001, 1.0), min_size=n, max_size=n)), reverse=True)
    sigmas = [*levels, 0.0]
    euler = [[1.0, *(after - before for before, after in pairwise(sigmas[: i + 2]))] for i in range(n)]
    weights = [draw(st.floats(-20.0, 20.0)) for _ in range(n)]
    names = draw(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
    strength = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=1)
    modality = st.lists(strength, min_size=3, max_size=3)
    return SamplingPlan(
        solver_name=draw(st.text()),
        schedule="wan",
        shift=draw(st.floats(0.1, 50.0)),
        timesteps=[1000.0 * sigma for sigma in levels],
        sigmas=sigmas,
        solver=euler,
        branches=[Branch(name=name, text=name, text_scale=draw(st.floats(0.0, 9.0))) for name in names],
        guidance=[[weight, 1.0 - weight] for weight in weights],
        modality_weights=[draw(modality) for _ in range(n)],
        reuse=[[False, False]] * n,
        noise=NoiseRule(seed=draw(st.integers(0, 2**64 - 1))),
    )


@settings(max_examples=25, deadline=None)
@given(plans())
def test_every_plan_survives_the_trip_through_json(p: SamplingPlan) -> None:
    assert SamplingPlan.from_json(p.to_json()) == p


def accepted_or_typed(text: str | bytes) -> None:
    """Reads `text`; any exception but the typed one escapes and fails the test."""
    with contextlib.suppress(BundleError):
        SamplingPlan.from_json(text)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -1, 0, 2**64, "prompt", [], {}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mutated_plan_gives_the_typed_error_or_a_plan(data: st.DataObject) -> None:
    tree = json.loads(plan(window=WindowRule(length=3, overlap=1)).to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(tree)[1:]))
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = data.draw(JSON_VALUES)
        else:
            del parent[path[-1]]
    if data.draw(st.booleans()):
        tree[data.draw(st.text(max_size=8))] = data.draw(JSON_VALUES)
    accepted_or_typed(json.dumps(tree))


@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary() | JSON_VALUES.map(json.dumps))
def test_garbage_gives_the_typed_error(text: str | bytes) -> None:
    with pytest.raises(BundleError):
        SamplingPlan.from_json(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_the_typed_error_or_a_plan(data: st.DataObject) -> None:
    raw = bytearray(plan().to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    accepted_or_typed(bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "sampling plan"),
        ('{"format": "echoedge.plan/1", "format": "echoedge.plan/1"}', "'format' appears twice"),
        ('{"format": "echoedge.plan/1", "self": 1}', "sampling plan"),
        ('{"format": "echoedge.plan/1", "\\ud800": 1}', "sampling plan"),
        ('{"format": "echoedge.plan/1", "shift": NaN}', "NaN"),
        ('{"format": "echoedge.plan/1", "shift": 1' + "0" * 5000 + "}", "sampling plan"),
        ('{"format": "echoedge.plan/2"}', "'echoedge.plan/2'"),
        ("{}", "None"),
        ("[1]", "[1]"),
        (b"\xff\xfe", "sampling plan"),
    ],
)
def test_hostile_text_gives_the_typed_error(text: str | bytes, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        SamplingPlan.from_json(text)
    assert message in str(caught.value)


# ---- windows --------------------------------------------------------------------------------------------------------------------


def shares(total: int, rule: WindowRule) -> np.ndarray:
    result = np.zeros((0, total))
    for window in windows(total, rule):
        row = np.zeros(total)
        row[window.start : window.start + window.length] = window.weights
        result = np.vstack([result, row])
    return result


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_windows_cover_every_frame_with_shares_that_sum_to_one(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 12))
    rule = WindowRule(length=length, overlap=data.draw(st.integers(0, length - 1)))
    total = data.draw(st.integers(length, 80))
    cut = windows(total, rule)
    assert all(window.length == length == len(window.weights) for window in cut)
    assert cut[0].start == 0
    assert cut[-1].start + length == total
    assert all(0 < after.start - before.start <= length - rule.overlap for before, after in pairwise(cut))
    parts = shares(total, rule)
    assert parts.min() >= 0.0
    np.testing.assert_allclose(parts.sum(axis=0), 1.0, atol=1e-12, rtol=0)


def test_windows_fade_as_upstream_where_its_windows_are_equal() -> None:
    # 11 latent frames, window 5, overlap 2: upstream's own windows all have 5 frames, so the sequential cross-fade must agree.
    velocities = np.random.default_rng(0).normal(size=(3, 5))
    upstream, rise = np.zeros(11), np.linspace(0.0, 1.0, 2)
    for i, start in enumerate((0, 3, 6)):
        new = velocities[i].copy()
        if i:
            new[:2] = new[:2] * rise + upstream[start : start + 2] * (1 - rise)
        upstream[start : start + 5] = new
    cut = windows(11, WindowRule(length=5, overlap=2))
    assert [window.start for window in cut] == [0, 3, 6]
    ours = blend([(window, np.float32(v)[None, :, None, None]) for window, v in zip(cut, velocities, strict=True)])
    np.testing.assert_allclose(ours[0, :, 0, 0], upstream, atol=1e-7)
    flat = blend(
        [(Window(w.start, 5, (1.0,) * 5), np.float32(v)[None, :, None, None]) for w, v in zip(cut, velocities, strict=True)]
    )
    assert abs(flat[0, :, 0, 0] - upstream).max() > 0.1  # without the fade the overlaps add up


def test_the_first_frame_of_an_overlap_stays_with_the_earlier_windows() -> None:
    cut = windows(9, WindowRule(length=5, overlap=3))
    assert [window.start for window in cut] == [0, 2, 4]
    assert cut[1].weights[0] == 0.0
    assert cut[1].weights[1:3] == (0.5, 1.0 * (1 - 0.0))
    one = windows(8, WindowRule(length=4, overlap=1))
    assert [window.start for window in one] == [0, 3, 4]  # the last one is shifted left and overlaps more
    assert one[0].weights == (1.0, 1.0, 1.0, 1.0)
    assert one[1].weights[0] == 0.0
    none = windows(8, WindowRule(length=4, overlap=0))
    assert [window.weights for window in none] == [(1.0,) * 4] * 2


def test_one_window_is_the_whole_clip_and_a_short_clip_is_refused() -> None:
    assert windows(5, WindowRule(length=5, overlap=2)) == [Window(0, 5, (1.0,) * 5)]
    with pytest.raises(ConfigError, match="has 4 latent frames; a window needs 5"):
        windows(4, WindowRule(length=5, overlap=2))


# ---- the player's arithmetic ----------------------------------------------------------------------------------------------------


def arrays(count: int, shape: tuple[int, ...] = (2, 3)) -> list[np.ndarray]:
    return [np.float32(array) for array in np.random.default_rng(1).normal(size=(count, *shape))]


def test_advance_is_the_row_of_the_table_rounded_once() -> None:
    history = arrays(3)
    result = advance(plan(), 1, history)
    exact = history[0].astype(float) + -0.5 * history[1].astype(float) + -0.5 * history[2].astype(float)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, exact.astype(np.float32))
    with pytest.raises(ConfigError, match="needs a history of 3 arrays"):
        advance(plan(), 1, history[:2])
    with pytest.raises(ConfigError, match="float64"):
        advance(plan(), 1, [history[0], history[1].astype(float), history[2]])


def test_guide_takes_names_or_positions_and_leaves_out_zero_weights() -> None:
    conditioned, silent = arrays(2)
    expected = (3.0 * conditioned.astype(float) - 2.0 * silent.astype(float)).astype(np.float32)
    by_name = {"prompt": conditioned, "prompt/no-audio": silent}
    np.testing.assert_array_equal(guide(plan(), 0, by_name), expected)
    np.testing.assert_array_equal(guide(plan(), 0, [conditioned, silent]), expected)
    assert abs(guide(plan(), 0, [silent, conditioned]) - expected).max() > 0.1
    off = plan(guidance=[[3.0, -2.0], [1.0, 0.0]], reuse=[[False, False]] * 2)
    np.testing.assert_array_equal(guide(off, 1, {"prompt": conditioned}), conditioned)
    with pytest.raises(ConfigError, match="needs the velocity of branch 'prompt/no-audio'"):
        guide(off, 0, {"prompt": conditioned})
    with pytest.raises(ConfigError, match="There are 1 velocities for 2 branches"):
        guide(off, 0, [conditioned])


def test_blend_refuses_what_does_not_fit() -> None:
    cut = windows(5, WindowRule(length=5, overlap=0))
    with pytest.raises(ConfigError, match="does not fit a window of 5"):
        blend([(cut[0], np.zeros((1, 4, 2, 2), np.float32))])
    with pytest.raises(ConfigError, match="no windows"):
        blend([])


# ---- noise ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors of Random123 1.14 for philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    assert tuple(philox(np.array(counter)[:, None], key)[:, 0]) == expected
    assert tuple(philox(np.array(counter)[:, None], (key[0] ^ 1, key[1]))[:, 0]) != expected


def test_noise_is_the_documented_formula() -> None:
    # An independent, scalar reading of the docstring of `noise`, with the C library's log, cos and sin.
    seed, (channels, height, width), frame = 0x0123456789ABCDEF, (3, 2, 5), 7
    latents = noise(seed, (channels, 1, height, width), first_frame=frame)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                e = (channel * height + row) * width + column
                words = philox(np.array([e // 4, frame, 0, 0])[:, None], (seed % 2**32, seed // 2**32))[:, 0]
                pair = (e % 4) // 2 * 2
                first, second = ((int(word) + 0.5) / 2**32 for word in words[pair : pair + 2])
                radius, turn = math.sqrt(-2.0 * math.log(first)), 2.0 * math.pi * second
                value = radius * (math.sin(turn) if e % 2 else math.cos(turn))
                assert latents[channel, 0, row, column] == pytest.approx(value, rel=3e-7, abs=1e-7)


def test_noise_keeps_its_golden_bits() -> None:
    # Written once by this generator; the Kotlin and Swift players carry the same vector.
    latents = noise(42, (2, 2, 2, 3), first_frame=1)
    golden = GOLDEN_NOISE
    assert [value.hex() for value in latents.reshape(-1).astype(float).tolist()[:6]] == golden["first"]
    assert hashlib.sha256(noise(42, (16, 3, 8, 8)).astype("<f4").tobytes()).hexdigest() == golden["sha256"]
    assert hashlib.sha256(noise(43, (16, 3, 8, 8)).astype("<f4").tobytes()).hexdigest() != golden["sha256"]


def test_noise_of_a_frame_does_not_depend_on_the_length_of_the_clip() -> None:
    long = noise(5, (4, 6, 3, 3))
    np.testing.assert_array_equal(long[:, :2], noise(5, (4, 2, 3, 3)))
    np.testing.assert_array_equal(long[:, 4:], noise(5, (4, 2, 3, 3), first_frame=4))
    assert not np.array_equal(long[:, 4:], noise(5, (4, 2, 3, 3), first_frame=3))


def test_noise_is_standard_normal() -> None:
    latents = noise(2**64 - 1, (16, 8, 40, 40)).astype(float)  # 204,800 values: the standard error of the mean is 0.0022
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1.0) < 0.007
    assert abs((latents**3).mean()) < 0.04
    assert abs((latents**4).mean() - 3.0) < 0.1
    flat = latents.reshape(-1)
    assert abs((flat[:-1] * flat[1:]).mean()) < 0.01  # neighbours, among them the pairs that share a radius
    assert abs((latents[:, 0] * latents[:, 1]).mean()) < 0.02  # frames
    inside = (abs(latents) < 1.0).mean()
    assert abs(inside - 0.682689) < 0.004


def test_log_and_turns_are_accurate_at_the_ends_of_the_range() -> None:
    from mpmath import mp, mpf

    from echoedge.core.plan.normals import cos_sin_turns, log

    mp.dps = 40
    words = [0, 1, 2**29, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 1, *range(12345, 2**32, 2**32 // 500)]
    uniform = (np.array(words, dtype=np.float64) + 0.5) / 2**32
    cosine, sine = cos_sin_turns(uniform)
    for index, word in enumerate(words):
        exact = (mpf(word) + mpf("0.5")) / 2**32
        assert abs(mpf(log(uniform)[index]) / mp.log(exact) - 1) < 4e-16  # measured 2.8e-16
        assert abs(mpf(cosine[index]) - mp.cos(2 * mp.pi * exact)) < 4e-16  # measured 1.6e-16
        assert abs(mpf(sine[index]) - mp.sin(2 * mp.pi * exact)) < 4e-16


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "7", None, True])
def test_a_bad_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="The seed is"):
        noise(seed, (1, 1, 1, 1))


@pytest.mark.parametrize("seed", [0, 2**32, 2**64 - 1, np.int64(7)])
def test_any_64_bit_seed_is_taken(seed: Any) -> None:
    assert np.isfinite(noise(seed, (1, 1, 1, 3))).all()
    assert not np.array_equal(noise(seed, (1, 1, 1, 3)), noise(int(seed) ^ 1, (1, 1, 1, 3)))


def test_the_ends_and_the_middle_of_the_range_are_six_noises() -> None:
    made = [noise(seed, (4, 2, 3, 3)).tobytes() for seed in (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)]
    assert len(set(made)) == 6


@pytest.mark.parametrize(("shape", "frame"), [((1, 1, 1), 0), ((1, 0, 1, 1), 0), ((1, 1, 1, 1), -1), ((1, 1, 1, 1), 2**32)])
def test_a_bad_shape_is_refused(shape: tuple[int, ...], frame: int) -> None:
    with pytest.raises(ConfigError, match="Noise of shape"):
        noise(0, shape, first_frame=frame)
