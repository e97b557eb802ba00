"""runtime/play/player.py: what it plays is what the model computes, for clips of any length, on any engine."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from echoedge.core.bundle import CONDITION_PROGRAMS, Bundle, ClipRecord, shaped_name
from echoedge.core.errors import BundleError, InputError
from echoedge.core.model.masks import Task, mask_latents, task_mask
from echoedge.core.plan import SamplingPlan, WindowRule, advance, blend, noise, windows
from echoedge.core.plan.phases import Phase
from echoedge.core.plan.samplers import FeatureReuse, NoGuidance, PlanOptions, TextAudioGuidance, build_plan, scheduler_for
from echoedge.core.sampling.front import Front, windows_under_way
from echoedge.core.sampling.inputs import frame_windows
from echoedge.runtime.play.player import STAGES, Generated, Player, PlayerConfig

from ..bundles import CLIP, OPTIONS, small_engine, small_model, small_plan, small_player_config
from ..core.tensors import byte_ids, pad_text
from .engines_for_tests import Joined, Recording

SAMPLES = CLIP.samples_per_frame
PROMPT = "a man nods"
LATENT = (16, CLIP.latent_frames, CLIP.latent_height, CLIP.latent_width)


def voice(frames: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness comes and goes, float32 [n]."""
    rng = np.random.default_rng(seed)
    count = round(frames * SAMPLES)
    return (0.2 * rng.standard_normal(count) * np.abs(np.sin(np.arange(count) / 900))).astype(np.float32)


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (3, CLIP.height, CLIP.width)).astype(np.float32)


@pytest.fixture
def engine() -> Recording:
    return Recording(small_engine())


@pytest.fixture
def player(engine: Recording) -> Player:
    return Player(small_player_config(), engine)


def video(player: Player, made: Generated) -> np.ndarray:
    return np.stack(list(player.frames_of(made)))


# ---- one window: the player against a loop of its own kind -----------------------------------------------------------------------


@torch.no_grad()
def sampled(portrait: np.ndarray, speech: np.ndarray, prompt: str, seed: int, options: PlanOptions = OPTIONS) -> torch.Tensor:
    """The clip's latents by `DiT.forward` and diffusers' scheduler: no plan, no tables, no programs, no hoisting."""
    model = small_model()
    encoders, config = model.encoders, model.config
    assert encoders is not None
    padded = torch.nn.functional.pad(torch.from_numpy(speech)[None], (0, encoders.audio.context_samples))
    features = encoders.audio(padded)
    ids, length = byte_ids(prompt, config.text_len)
    text = pad_text([encoders.text(ids)[0, :length]], config.text_len)
    given = torch.zeros(CLIP.frames, 3, CLIP.height, CLIP.width)
    given[0] = torch.from_numpy(portrait)
    y = torch.cat([mask_latents(task_mask(frozenset({Task.I2V}), CLIP), *LATENT[2:])[None], model.vae.encode(given[None])], 1)
    inputs = {"y": y, "text": text, "image": encoders.image(torch.from_numpy(portrait)[None])}
    scheduler = scheduler_for(options.solver, options.schedule, options.steps, options.shift, options.constructor_shift)
    x = torch.from_numpy(noise(seed, LATENT))[None].double()
    for timestep in scheduler.timesteps:
        both = [
            model.dit(x.float(), timestep.view(1), audio=frame_windows(features * heard), **inputs).double() for heard in (0.0, 1.0)
        ]
        x = scheduler.step(both[0] + options.guidance.scale * (both[1] - both[0]), timestep, x, return_dict=False)[0]
    return x[0].float()


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_a_clip_of_one_window_is_what_the_model_samples(solver: str, portrait: np.ndarray) -> None:
    options = replace(OPTIONS, solver=solver, steps=4)
    made = Player(small_player_config(options), small_engine()).generate(portrait, voice(CLIP.frames), PROMPT, 5)
    expected = sampled(portrait, voice(CLIP.frames), PROMPT, 5, options).numpy()
    np.testing.assert_allclose(made.latents, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    other = sampled(portrait, voice(CLIP.frames, seed=1), PROMPT, 5, options).numpy()
    assert np.abs(made.latents - other).max() > 0.01


def test_streamed_frames_are_the_decoded_latents(player: Player, portrait: np.ndarray) -> None:
    made = player.generate(portrait, voice(17))
    with torch.no_grad():
        whole = small_model().vae.decode(torch.from_numpy(made.latents)[None])[0]
    expected = ((whole + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    frames = video(player, made)
    assert frames.dtype == np.uint8
    assert frames.shape == (17, CLIP.height, CLIP.width, 3)
    differing = frames.astype(int) - expected
    assert np.abs(differing).max() <= 1  # a value half-way between two bytes
    assert (differing != 0).mean() < 0.001
    assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 10


def test_what_is_told_about_a_take(player: Player, portrait: np.ndarray) -> None:
    made = player.generate(portrait, voice(CLIP.frames))
    assert made.frames == CLIP.frames
    assert made.latents.shape == LATENT
    assert made.evaluations == 4  # 2 steps, 2 branches
    assert tuple(made.seconds) == STAGES
    assert made.seconds["decode"] == 0
    video(player, made)
    assert all(seconds > 0 for seconds in made.seconds.values())


def test_progress_reaches_the_end_of_every_stage(engine: Recording, portrait: np.ndarray) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    player = Player(small_player_config(), engine, lambda stage, done, total: told.setdefault(stage, []).append((done, total)))
    video(player, player.generate(portrait, voice(17)))
    assert tuple(told) == STAGES
    for steps in told.values():
        assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


# ---- any length ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "frames"), [(1, 1), (1.9, 2), (4, 4), (5, 5), (8.99, 9), (9, 9), (12, 12), (13, 13), (16.5, 17), (27, 27)]
)
def test_the_clip_is_as_long_as_the_speech_up_to_whole_frames(
    available: float, frames: int, player: Player, portrait: np.ndarray
) -> None:
    made = player.generate(portrait, voice(available))
    assert made.frames == frames
    assert len(video(player, made)) == frames


def test_the_last_syllable_is_heard(player: Player, portrait: np.ndarray) -> None:
    """What lies behind the last whole group of four frames, and behind the last whole frame."""
    speech = voice(15.6)
    frames = video(player, player.generate(portrait, speech))
    assert len(frames) == 16
    for cut in (13, 15):
        shorter = video(player, player.generate(portrait, speech[: cut * SAMPLES]))
        assert len(shorter) == cut
        silent = np.pad(speech[: cut * SAMPLES], (0, len(speech) - cut * SAMPLES))
        assert np.abs(video(player, player.generate(portrait, silent)).astype(int) - frames).max() > 0


def test_a_short_clip_is_the_beginning_of_a_window_with_silence_behind(player: Player, portrait: np.ndarray) -> None:
    short = player.generate(portrait, voice(5))
    silence = np.zeros(4 * SAMPLES, np.float32)
    padded = player.generate(portrait, np.concatenate([voice(5), silence]))
    np.testing.assert_array_equal(short.latents, padded.latents)
    np.testing.assert_array_equal(video(player, short), video(player, padded)[:5])


@pytest.mark.parametrize("samples", [0, 1, SAMPLES - 1])
def test_speech_shorter_than_a_frame_is_refused(samples: int, player: Player, portrait: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"The speech lasts 0\.0\d+ s; one frame is 0\.040 s\."):
        player.generate(portrait, np.ones(samples, np.float32))


def test_a_long_clip_is_played_in_windows(player: Player, engine: Recording, portrait: np.ndarray) -> None:
    made = player.generate(portrait, voice(25), seed=3)
    spans = windows(7, OPTIONS.window)
    assert [span.start for span in spans] == [0, 2, 4]
    assert made.latents.shape[1] == 7
    assert made.evaluations == len(engine.of("denoise")) == 3 * 2 * 2
    start = noise(3, (16, 7, *LATENT[2:]))
    calls = engine.of("denoise")
    first_step = [call for call in calls if np.array_equal(call.inputs[1], calls[0].inputs[1])]
    assert len(first_step) == 3 * 2
    for span, calls in zip(spans, [first_step[i : i + 2] for i in (0, 2, 4)], strict=True):
        for call in calls:
            np.testing.assert_array_equal(call.inputs[0][0], start[:, span.start : span.start + 3])


def test_windows_are_blended_at_every_step(engine: Recording, portrait: np.ndarray) -> None:
    """Euler's first step, by hand: x + (σ1 - σ0) · v, where v blends the windows' guided velocities."""
    options = replace(OPTIONS, solver="euler")
    made = Player(small_player_config(options), engine).generate(portrait, voice(17), seed=3)
    plan, spans = small_plan(options), windows(5, OPTIONS.window)
    calls = engine.of("denoise")[:4]
    velocity = np.zeros((16, 5, *LATENT[2:]))
    for span, (heard, deaf) in zip(spans, (calls[:2], calls[2:]), strict=True):
        guided = deaf.outputs[0][0] + OPTIONS.guidance.scale * (heard.outputs[0][0] - deaf.outputs[0][0])
        velocity[:, span.start : span.start + 3] += np.asarray(span.weights)[:, None, None] * guided
    expected = noise(3, velocity.shape) + (plan.sigmas[1] - plan.sigmas[0]) * velocity
    second = engine.of("denoise")[4].inputs[0][0]
    np.testing.assert_allclose(second, expected[:, :3], rtol=0, atol=1e-5 * np.abs(expected).max())
    assert made.latents.shape[1] == 5


def front_of(plan: SamplingPlan, rule: WindowRule, start: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """What the front makes of a made-up model, and how many windows were under way at each turn."""
    front, under_way = Front(plan, rule, start), []
    while (turn := front.next()) is not None:
        step, position, span = turn
        front.take(step, span, made_up(front.latents(step, span), step, position))
        under_way.append(front.taken[0] - front.taken[-1])
    return front.result, under_way


def made_up(latents: np.ndarray, step: int, position: int) -> np.ndarray:
    """A velocity that depends on all frames of the window, on the step and on the window."""
    return np.tanh(latents + latents.mean(axis=1, keepdims=True) + 0.1 * step - 0.03 * position).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "frames"),
    [
        (WindowRule(length=7, overlap=3), 7), (WindowRule(length=7, overlap=3), 40), (WindowRule(length=7, overlap=0), 40),
        (WindowRule(length=3, overlap=2), 11), (WindowRule(length=5, overlap=1), 23),
        (WindowRule(length=5, overlap=2, upstream_compat=True), 19),
    ],
)  # fmt: skip
def test_windows_as_a_front_are_windows_step_by_step(rule: WindowRule, frames: int) -> None:
    plan = build_plan(PlanOptions(solver="euler", steps=4, guidance=NoGuidance()))
    start = noise(5, (2, frames, 2, 2))
    history, x = [start], start
    for step in range(plan.steps):
        spans = windows(frames, rule, step)
        history.append(blend([(s, made_up(x[:, s.start : s.end], step, i)) for i, s in enumerate(spans)]))
        x = advance(plan, step, history)
    result, under_way = front_of(plan, rule, start)
    np.testing.assert_array_equal(result, x)
    assert len(under_way) == len(spans) * plan.steps


def test_windows_under_way_do_not_grow_with_the_clip() -> None:
    plan, rule = build_plan(PlanOptions(steps=4, guidance=NoGuidance())), WindowRule(length=7, overlap=3)
    most = [max(front_of(plan, rule, noise(5, (1, frames, 1, 1)))[1]) for frames in (31, 63, 255)]
    assert most == [plan.steps, plan.steps, plan.steps]
    assert most[0] <= windows_under_way(plan.steps, rule) < 2 * most[0]
    assert max(front_of(plan, WindowRule(length=7, overlap=0), noise(5, (1, 63, 1, 1)))[1]) == 1  # nothing to wait for


def test_finished_windows_leave_their_conditions(portrait: np.ndarray) -> None:
    held: list[int] = []
    alive: list[weakref.ref[np.ndarray]] = []

    class Counting(Recording):
        def run(self, program: str, method: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            outputs = self.engine.run(program, method, inputs)
            if program == "audio_conditions":
                alive.append(weakref.ref(outputs[0]))
                held.append(sum(one() is not None for one in alive))
            return outputs

    Player(small_player_config(), Counting(small_engine())).generate(portrait, voice(100))
    assert len(held) > 10
    assert max(held) <= small_plan(OPTIONS).steps + 2  # of windows under way, and silence


# ---- conditions: what a clip's windows and branches have in common is made once --------------------------------------------------


@pytest.mark.parametrize(("frames", "spans"), [(9, 1), (25, 3), (57, 7)])
def test_text_and_portrait_are_encoded_once_and_speech_once_a_window(frames: int, spans: int, portrait: np.ndarray) -> None:
    engine = Recording(small_engine())
    Player(small_player_config(), engine).generate(portrait, voice(frames), PROMPT)
    assert len(small_plan().branches) == 2  # one hears the voice, one silence; both read the prompt and see the portrait
    calls = {program: len(engine.of(program)) for program in CONDITION_PROGRAMS}
    assert calls == {"text_conditions": 1, "image_conditions": 1, "patch_conditions": 1, "audio_conditions": spans + 1}


def test_windows_that_know_what_the_clip_knows_have_patches_of_their_own(portrait: np.ndarray) -> None:
    engine = Recording(small_engine())
    rule = WindowRule(length=3, overlap=1, anchor="clip")
    Player(small_player_config(replace(OPTIONS, window=rule)), engine).generate(portrait, voice(25), PROMPT)
    assert len(engine.of("patch_conditions")) == 3
    known = [call.inputs[0][0, 0].any() for call in engine.of("patch_conditions")]
    assert known == [True, False, False]


@pytest.mark.parametrize("frames", [9, 25])
def test_split_conditions_are_the_joint_ones(frames: int, portrait: np.ndarray) -> None:
    split, joint = Recording(small_engine()), Recording(Joined(small_engine()))
    clips = [Player(small_player_config(), engine).generate(portrait, voice(frames), PROMPT) for engine in (split, joint)]
    np.testing.assert_array_equal(clips[0].latents, clips[1].latents)
    assert joint.of("text_conditions") == []
    assert len(joint.of("encode_conditions")) == 2 * len(windows((frames - 1) // 4 + 1, OPTIONS.window))
    deaf = Joined(small_engine(), deaf=True)
    assert (
        np.abs(Player(small_player_config(), deaf).generate(portrait, voice(frames), PROMPT).latents - clips[0].latents).max()
        > 1e-3
    )


def test_every_window_hears_its_own_speech(player: Player, engine: Recording, portrait: np.ndarray) -> None:
    player.generate(portrait, voice(25))
    features = player.listen(voice(25), 25)
    heard = [call.inputs[0][0] for call in engine.of("audio_conditions") if call.inputs[0].any()]
    assert len(heard) == 3
    for start, given in zip((0, 8, 16), heard, strict=True):
        for slot, offset in enumerate(range(-2, 3)):
            rows = np.clip(np.arange(start, start + 9) + offset, 0, 24)
            np.testing.assert_array_equal(given[:, slot], features[rows])


def test_without_a_window_rule_windows_meet_without_overlap(engine: Recording, portrait: np.ndarray) -> None:
    player = Player(small_player_config(replace(OPTIONS, window=None)), engine)
    assert player.generate(portrait, voice(21)).latents.shape[1] == 6
    assert len(engine.of("denoise")) == 2 * 2 * 2


# ---- seeds and conditions --------------------------------------------------------------------------------------------------------


def test_the_same_seed_plays_the_same_clip(portrait: np.ndarray) -> None:
    clips = [Player(small_player_config(), small_engine()).generate(portrait, voice(13), PROMPT, 7) for _ in range(2)]
    np.testing.assert_array_equal(clips[0].latents, clips[1].latents)


@pytest.mark.parametrize("change", ["seed", "prompt", "speech", "portrait"])
def test_everything_given_matters(change: str, player: Player, portrait: np.ndarray) -> None:
    given: dict[str, Any] = {"portrait": portrait, "speech": voice(9), "prompt": PROMPT, "seed": 7}
    other = {"seed": 8, "prompt": "a woman", "speech": voice(9, seed=2), "portrait": -portrait}
    difference = player.generate(**given).latents - player.generate(**given | {change: other[change]}).latents
    assert np.abs(difference).max() > 1e-3


def test_inputs_are_left_alone(player: Player, portrait: np.ndarray) -> None:
    speech, face = voice(9), portrait.copy()
    player.generate(face, speech)
    np.testing.assert_array_equal(face, portrait)
    np.testing.assert_array_equal(speech, voice(9))


def test_branches_get_the_conditions_of_the_plan(engine: Recording, portrait: np.ndarray) -> None:
    guidance = TextAudioGuidance(text=4.0, audio=2.0, negative="negative", neg_scale=1.5, neg_steps=2)
    options = replace(OPTIONS, guidance=guidance)
    player = Player(small_player_config(options), engine)
    player.generate(portrait, voice(9), PROMPT)
    branches, texts, voices = small_plan(options).branches, engine.of("text_conditions"), engine.of("audio_conditions")
    assert [(branch.text, branch.text_scale, branch.audio) for branch in branches] == [
        ("prompt", 1.0, True), ("prompt", 1.0, False), ("negative", 1.5, False)
    ]  # fmt: skip
    for branch, call in zip((branches[0], branches[2]), texts, strict=True):
        rows = player.read(PROMPT if branch.text == "prompt" else branch.text)[0]
        np.testing.assert_allclose(call.inputs[0], branch.text_scale * rows, rtol=1e-6)
    assert [bool(call.inputs[0].any()) for call in voices] == [True, False]
    first = engine.of("denoise")[:3]
    for call, text, sound in zip(first, (texts[0], texts[0], texts[1]), (voices[0], voices[1], voices[1]), strict=True):
        np.testing.assert_array_equal(call.inputs[5], text.outputs[0])
        np.testing.assert_array_equal(call.inputs[10], sound.outputs[0])
    assert len(engine.of("denoise")) == 3 * 2


def test_a_misaligned_branch_hears_the_windows_speech_late(engine: Recording, portrait: np.ndarray) -> None:
    options = replace(OPTIONS, guidance=NoGuidance(), phases=(Phase(1.0, 0.0, misaligned=0.5, misaligned_by=3),))
    Player(small_player_config(options), engine).generate(portrait, voice(9), PROMPT)
    own, late = (call.inputs[0] for call in engine.of("audio_conditions"))
    np.testing.assert_array_equal(late[:, 3:], own[:, :-3])
    np.testing.assert_array_equal(late[:, :3], own[:, -3:])
    assert np.abs(late - own).max() > 1e-3
    denoise = engine.of("denoise")
    assert len(denoise) == 2 * 2  # the window's held conditions of one branch are not taken for the other's
    assert any(np.abs(np.subtract(a, b)).max() > 1e-6 for a, b in zip(denoise[0].inputs[4:], denoise[1].inputs[4:], strict=True))


# ---- 1. listen -------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_listening_in_chunks_is_listening_at_once(player: Player, engine: Recording) -> None:
    encoder = small_model().encoders.audio  # type: ignore[union-attr]
    speech = voice(27)
    whole = encoder(torch.nn.functional.pad(torch.from_numpy(speech)[None], (0, encoder.context_samples)))[0].numpy()
    np.testing.assert_allclose(player.listen(speech, 27), whole, rtol=0, atol=1e-5 * np.abs(whole).max())
    assert len(engine.of("audio_encoder")) == 3


@torch.no_grad()
def test_a_chunk_without_its_context_would_hear_its_last_frame_wrong(player: Player) -> None:
    encoder = small_model().encoders.audio  # type: ignore[union-attr]
    cut = torch.nn.functional.pad(torch.from_numpy(voice(27)[: 9 * SAMPLES])[None], (0, encoder.context_samples))
    difference = np.abs(encoder(cut)[0].numpy() - player.listen(voice(27), 9)).max((1, 2))
    assert difference[8] > 1e-3
    assert difference[:8].max() < 1e-5


def test_silence_is_heard_behind_the_end(player: Player) -> None:
    longer = np.concatenate([voice(5), np.zeros(20 * SAMPLES, np.float32)])
    np.testing.assert_array_equal(player.listen(voice(5), 17), player.listen(longer, 17))


# ---- 2. look and read ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_portrait_is_encoded_as_the_vae_encodes_it(player: Player, portrait: np.ndarray) -> None:
    given = torch.zeros(1, CLIP.frames, 3, CLIP.height, CLIP.width)
    given[0, 0] = torch.from_numpy(portrait)
    expected = small_model().vae.encode(given).numpy()
    y, image = player.look(portrait[None], CLIP.latent_frames), player.recognise(portrait)
    np.testing.assert_allclose(y[:, 4:], expected, rtol=0, atol=1e-4)
    assert y[0, :4, 0].min() == 1
    assert not y[0, :4, 1:].any()
    np.testing.assert_allclose(image, small_model().encoders.image(torch.from_numpy(portrait)[None]).numpy(), atol=1e-5)  # type: ignore[union-attr]


@torch.no_grad()
def test_a_prompt_is_read_by_the_text_encoder(player: Player) -> None:
    rows, bias = player.read("a man")
    ids, length = byte_ids("a man", 12)
    encoded = small_model().encoders.text(ids)[0].numpy()  # type: ignore[union-attr]
    assert length == 5
    np.testing.assert_allclose(rows[0, :5], encoded[:5], atol=1e-6)
    assert not rows[0, 5:].any()
    np.testing.assert_allclose(bias[0], [0] * 5 + [np.log(7)] + [-1e9] * 6, rtol=1e-6)


def test_a_prompt_pack_goes_before_the_text_encoder(engine: Recording) -> None:
    embedding = np.random.default_rng(0).standard_normal((4, 20)).astype(np.float32)
    player = Player(small_player_config(prompts={"a man": embedding}), engine)
    np.testing.assert_array_equal(player.read("a man")[0][0, :4], embedding)
    assert engine.of("text_encoder") == []


def test_a_pack_of_the_encoders_rows_plays_like_the_encoder(portrait: np.ndarray) -> None:
    encoded = Player(small_player_config(), small_engine()).generate(portrait, voice(9), "a man").latents
    texts = {"a man": Player(small_player_config(), small_engine()).read("a man")[0][0, :5]}
    mute = Recording(small_engine(), without=["text_encoder"])
    np.testing.assert_array_equal(
        Player(small_player_config(prompts=texts), mute).generate(portrait, voice(9), "a man").latents, encoded
    )


@pytest.mark.parametrize(("packs", "known"), [({}, "none"), ({"b": None, "a": None}, "'a', 'b'")])
def test_without_an_encoder_an_unknown_prompt_is_refused_with_the_list(
    packs: dict[str, Any], known: str, portrait: np.ndarray
) -> None:
    mute = Recording(small_engine(), without=["text_encoder"])
    prompts = {name: np.zeros((1, 20), np.float32) for name in packs}
    with pytest.raises(InputError, match=rf"no text encoder here; the known prompts are {known}, not 'a man'\."):
        Player(small_player_config(prompts=prompts), mute).generate(portrait, voice(9), "a man")


@pytest.mark.parametrize("prompt", ["", "微笑", "😀", "a very long prompt that goes on and on", "\n\t\0"])
def test_a_prompt_in_any_language_and_length_plays(prompt: str, player: Player, portrait: np.ndarray) -> None:
    assert np.isfinite(player.generate(portrait, voice(1), prompt).latents).all()


# ---- 4. feature reuse ------------------------------------------------------------------------------------------------------------

REUSING = replace(OPTIONS, steps=4, reuse=FeatureReuse(threshold=1e9, skip_first=2, max_distance=1e9))


def test_a_plan_that_reuses_features_evaluates_less(portrait: np.ndarray) -> None:
    engine = Recording(small_engine(reuse=True))
    made = Player(small_player_config(REUSING), engine).generate(portrait, voice(17))
    assert made.evaluations == len(engine.of("denoise")) == 2 * 2 * 2  # windows, branches, the steps that are computed
    assert len(engine.of("denoise_reusing")) == 2 * 2 * 2
    assert small_plan(REUSING).evaluations < small_plan(replace(OPTIONS, steps=4)).evaluations


def test_each_window_and_branch_reuses_its_own_residual(portrait: np.ndarray) -> None:
    engine = Recording(small_engine(reuse=True))
    Player(small_player_config(REUSING), engine).generate(portrait, voice(17))
    second_step = engine.of("denoise")[4:]
    residuals = [call.outputs[1] for call in second_step]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in pairwise(residuals))
    for step in (engine.of("denoise_reusing")[:4], engine.of("denoise_reusing")[4:]):
        for call, computed in zip(step, second_step, strict=True):
            np.testing.assert_array_equal(call.inputs[2], computed.outputs[1])
            np.testing.assert_array_equal(call.inputs[3], computed.inputs[4])  # patch bias


def test_reuse_stays_near_the_full_computation_but_is_not_it(portrait: np.ndarray) -> None:
    def played(options: PlanOptions, seed: int = 0) -> np.ndarray:
        return Player(small_player_config(options), small_engine(reuse=True)).generate(portrait, voice(9), seed=seed).latents

    computed = replace(OPTIONS, steps=4)
    reused, full, other = played(REUSING), played(computed), played(computed, seed=1)
    assert 1e-3 < np.abs(reused - full).mean() < 0.5 * np.abs(other - full).mean()


# ---- 5. decode -------------------------------------------------------------------------------------------------------------------


def test_frames_leave_before_the_next_chunk_is_decoded(player: Player, engine: Recording, portrait: np.ndarray) -> None:
    frames: Iterator[np.ndarray] = player.frames_of(player.generate(portrait, voice(17)))
    decoded = []
    for _ in frames:
        decoded.append(len(engine.of("vae_decode")))
    assert decoded == [1, *(1 + (i + 3) // 4 for i in range(1, 17))]
    assert [call.method for call in engine.of("vae_decode")] == ["first", "next", "next", "next", "next"]


def test_nothing_is_decoded_before_it_is_asked_for(player: Player, engine: Recording, portrait: np.ndarray) -> None:
    player.frames_of(player.generate(portrait, voice(9)))
    assert engine.of("vae_decode") == []


def test_what_lies_behind_the_clips_end_is_not_decoded(player: Player, engine: Recording, portrait: np.ndarray) -> None:
    assert len(video(player, player.generate(portrait, voice(1)))) == 1
    assert len(engine.of("vae_decode")) == 1


def test_a_window_rule_belongs_to_the_plan() -> None:
    assert small_plan().window == WindowRule(length=CLIP.latent_frames, overlap=1)


def test_a_bundle_of_several_shapes_is_played_in_the_one_that_is_asked_for(bundle: Bundle) -> None:
    """Programs of the other shape have names of their own; windows are as long as its clips."""
    main = bundle.clip
    other = replace(main, frames=main.frames + 4)
    programs = dict(bundle.manifest.programs)
    programs[shaped_name("denoise", other)] = programs["denoise"].model_copy(update={"clip": str(other)})
    manifest = bundle.manifest.model_copy(update={"clips": (*bundle.manifest.clips, ClipRecord.of(other)), "programs": programs})
    both = replace(bundle, manifest=manifest)
    assert both.clips == (main, other)
    assert both.program_for("denoise", other).clip == f"{other.height}x{other.width}x{other.frames}"
    assert both.program_for("denoise") == both.program_for("denoise", main) == programs["denoise"]
    assert both.program_for("text_conditions", other) == programs["text_conditions"]  # no shape changes it
    with pytest.raises(BundleError, match=rf"no vae_decode for clips of {other}\. It has: {main}\."):
        both.program_for("vae_decode", other)
    programs["audio_encoder"] = programs["audio_encoder"].model_copy(update={"clip": None})
    config = PlayerConfig.of(both, other)
    assert config.clip == other
    assert config.rule(40).length == other.latent_frames
    assert PlayerConfig.of(both).rule(40).length == main.latent_frames
