"""core/train/preference.py: the sign, the slope and the bound of the negative-only loss; what makes a clip undesired."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from echoedge.core.errors import ConfigError
from echoedge.core.plan.phases import Phase
from echoedge.core.plan.samplers import NoGuidance, PlanOptions, build_plan
from echoedge.core.train.preference import NDPO, Captions, Negative, fade_identity, freeze_latent, freeze_mouth, ndpo_loss
from echoedge.core.train.soup import ModalSoup
from echoedge.core.train.train_dit import NanoModel, assemble, draw, preference_loss, sft_loss, weighted_error

from .tiny import randomised
from .tiny_training import CLIP, CLIPS, CONFIG, tiny_cache, tiny_pool, tiny_training

# ---- the loss --------------------------------------------------------------------------------------------------------------------


def test_the_loss_is_minus_log_sigmoid_of_the_negated_reward() -> None:
    error, reference = torch.tensor([0.2, 0.5, 0.5], dtype=torch.float64), torch.tensor([0.5, 0.5, 0.2], dtype=torch.float64)
    for beta in (1.0, 7.0, 100.0):
        reward = [beta * (b - a) for a, b in zip(error.tolist(), reference.tolist(), strict=True)]
        wanted = [-math.log(1 / (1 + math.exp(r))) for r in reward]
        assert torch.allclose(ndpo_loss(error, reference, beta), torch.tensor(wanted, dtype=torch.float64))


def test_an_equal_model_has_loss_log_two_and_half_the_full_slope() -> None:
    error = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    loss = ndpo_loss(error, torch.tensor([0.3], dtype=torch.float64), 50.0)
    (slope,) = torch.autograd.grad(loss.sum(), error)
    assert loss.item() == pytest.approx(math.log(2)) and slope.item() == pytest.approx(-25.0)


def test_the_loss_is_bounded_below_and_above_and_its_slope_vanishes() -> None:
    reference = torch.full((200,), 0.4, dtype=torch.float64)
    error = torch.linspace(0, 50, 200, dtype=torch.float64).requires_grad_()
    loss = ndpo_loss(error, reference, 10.0)
    (slope,) = torch.autograd.grad(loss.sum(), error)
    assert (loss >= 0).all() and loss.max() <= math.log1p(math.exp(10.0 * 0.4)) + 1e-12  # reached at error 0
    assert (slope <= 0).all() and (slope >= -10.0).all() and slope[-1].abs() < 1e-12


def test_no_gradient_reaches_the_reference() -> None:
    reference = torch.tensor([0.3], requires_grad=True)
    error = torch.tensor([0.2], requires_grad=True)
    ndpo_loss(error, reference, 1.0).sum().backward()
    assert reference.grad is None and error.grad is not None


# ---- a step ----------------------------------------------------------------------------------------------------------------------


def negatives(training):
    cache = tiny_cache()
    drawn = draw(cache, np.random.default_rng(3), training, 0, CLIP.frames)
    batch = assemble(cache, tiny_pool(), drawn, slice(0, training.batch), training, CONFIG, CLIP)
    return batch, torch.randn_like(batch["latents"])


@pytest.mark.parametrize("kind", list(Negative))
def test_preference_steps_raise_the_error_on_negatives_until_the_push_ends(kind: Negative) -> None:
    training = tiny_training(ndpo=NDPO(share=1.0, cycle=1, beta=20.0, kinds=(kind,), least_shift=2))
    batch, noise = negatives(training)
    torch.manual_seed(0)
    model = randomised(NanoModel(CONFIG, CLIP))
    reference = copy.deepcopy(model).requires_grad_(False)
    optimiser = torch.optim.SGD(model.parameters(), lr=5e-4)

    def excess() -> float:
        with torch.no_grad():
            ours, theirs = (weighted_error(m, batch, noise, training).mean().item() for m in (model, reference))
        return ours - theirs

    gains = [excess()]
    for _ in range(20):
        loss = preference_loss(model, reference, batch, noise, training)
        assert loss.item() > 0
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        gains.append(excess())
    assert abs(gains[0]) < 1e-5 < gains[1], gains  # rounding 2e-7 and 5e-7, the first step gains 0.011
    assert gains[-1] > gains[1]
    early, late = gains[1] - gains[0], gains[-1] - gains[-2]
    assert late < early  # the push fades; ascent on the error alone would accelerate


def test_a_supervised_step_on_the_same_batch_lowers_its_error() -> None:
    training = tiny_training(ndpo=NDPO(share=1.0, cycle=1, least_shift=2))
    batch, noise = negatives(training)
    model = randomised(NanoModel(CONFIG, CLIP))
    before = sft_loss(model, batch, noise, training)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
        assert sft_loss(model, batch, noise, training) < before


# ---- cycles ----------------------------------------------------------------------------------------------------------------------


def test_cycles_alternate_and_renew_the_reference_once() -> None:
    ndpo = NDPO(share=0.3, cycle=10, start=5)
    prefers = [ndpo.prefers(step) for step in range(25)]
    assert prefers == [False] * 12 + [True] * 3 + [False] * 7 + [True] * 3
    assert [step for step in range(25) if ndpo.renews(step)] == [12, 22]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"beta": 0.0}, "beta is 0"),
        ({"weight": -1.0}, "weight is -1"),
        ({"share": 0.001, "cycle": 50}, "no step in a cycle of 50"),
        ({"kinds": ()}, "one or more of another voice"),
        ({"kinds": (Negative.IDENTITY, Negative.IDENTITY)}, "each once"),
        ({"kinds": ("out of step",)}, "kinds of negatives are .'out of step'"),
        ({"cycle": 0}, "cycle is 0"),
    ],
)
def test_preference_options_that_cannot_work_are_refused(options: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        NDPO(**options)


# ---- undesired samples -----------------------------------------------------------------------------------------------------------


def one_kind(kind: Negative):
    training = tiny_training(batch=8, ndpo=NDPO(share=1.0, cycle=1, kinds=(kind,), least_shift=2))
    cache, pool = tiny_cache(), tiny_pool()
    drawn = draw(cache, np.random.default_rng(1), training, 0, CLIP.frames)
    return cache, pool, drawn, assemble(cache, pool, drawn, slice(0, 8), training, CONFIG, CLIP)


def test_another_voice_is_another_clips() -> None:
    cache, pool, drawn, batch = one_kind(Negative.OTHER_AUDIO)
    assert torch.equal(batch["latents"], cache.latents[drawn.clip])
    assert (drawn.other != drawn.clip).all()
    expected = pool.waveforms[drawn.other] * drawn.gain[:, None]
    assert np.allclose(batch["waveform"].numpy(), expected)
    assert batch["has_audio"].all()


def test_audio_out_of_step_is_the_clips_own_by_whole_frames() -> None:
    cache, pool, drawn, batch = one_kind(Negative.SHIFTED_AUDIO)
    assert torch.equal(batch["latents"], cache.latents[drawn.clip])
    assert drawn.shift.min() >= 2 and drawn.shift.max() <= CLIP.frames - 2
    frame = CLIP.samples_per_frame
    for row, (i, shift, gain) in enumerate(zip(drawn.clip, drawn.shift, drawn.gain, strict=True)):
        late = batch["waveform"][row].numpy()[shift * frame :] / gain
        assert np.allclose(late, pool.waveforms[i][: len(late)], atol=1e-6)
        assert not np.allclose(batch["waveform"][row].numpy() / gain, pool.waveforms[i], atol=1e-2)


def test_a_still_mouth_comes_from_the_cache_of_frozen_clips() -> None:
    cache, _, drawn, batch = one_kind(Negative.FROZEN_MOUTH)
    assert cache.frozen is not None
    assert torch.equal(batch["latents"], cache.frozen[drawn.clip]) and batch["has_audio"].all()


def test_a_changing_face_begins_as_one_and_ends_as_another() -> None:
    cache, _, drawn, batch = one_kind(Negative.IDENTITY)
    own, other = cache.latents[drawn.clip], cache.latents[drawn.other]
    assert torch.allclose(batch["latents"][:, :, 0], own[:, :, 0])
    assert torch.allclose(batch["latents"][:, :, 1], (own[:, :, 1] + other[:, :, 1]) / 2, atol=1e-6)
    assert torch.allclose(batch["latents"][:, :, 2], other[:, :, 2])


def test_freezing_changes_the_mouth_after_the_first_frame_and_nothing_else() -> None:
    video = torch.randn(2, 5, 3, 16, 16)
    boxes = torch.tensor([[4, 8, 2, 10], [8, 12, 6, 14]])
    frozen = freeze_mouth(video, boxes)
    for i, (y0, y1, x0, x1) in enumerate(boxes.tolist()):
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert torch.equal(frozen[i][..., inside], video[i, :1][..., inside].expand(5, -1, -1))
        assert torch.equal(frozen[i][..., ~inside], video[i][..., ~inside])


def test_repeating_a_latent_changes_the_mouth_alone() -> None:
    latents, mouth = torch.randn(1, 4, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    mouth[..., 2:, 1:3] = 1.0
    frozen = freeze_latent(latents, mouth)
    assert torch.equal(frozen[..., :2, :], latents[..., :2, :])
    assert torch.allclose(frozen[..., 2:, 1:3], latents[:, :, :1, 2:, 1:3].expand(-1, -1, 3, -1, -1), atol=1e-6)


def test_a_fade_of_one_frame_stays() -> None:
    latents = torch.randn(1, 4, 1, 2, 2)
    assert torch.equal(fade_identity(latents, torch.zeros_like(latents)), latents)


def test_captioned_negatives_say_what_they_are_and_the_rest_do_not() -> None:
    training = tiny_training(batch=400, captions=Captions(share=0.25, least_shift=2))
    cache, pool = tiny_cache(), tiny_pool()
    drawn = draw(cache, np.random.default_rng(2), training, 0, CLIP.frames)
    batch = assemble(cache, pool, drawn, slice(0, 400), training, CONFIG, CLIP)
    texts = [bytes(row[row < 256].tolist()).decode() for row in batch["ids"]]
    for text, kind, i, kept in zip(texts, drawn.negative, drawn.clip, drawn.kept[:, 0], strict=True):
        assert text == (kind.value if kind else pool.prompts[i] if kept else "")
    share = sum(kind is not None for kind in drawn.negative) / 400
    assert abs(share - 0.25) < 0.08  # 3.7 standard deviations of 400 draws


def test_preference_batches_keep_the_prompt_and_every_condition() -> None:
    _, pool, drawn, batch = one_kind(Negative.OTHER_AUDIO)
    texts = [bytes(row[row < 256].tolist()).decode() for row in batch["ids"]]
    assert texts == [pool.prompts[i] for i in drawn.clip] and drawn.kept.all()


def test_clips_too_short_to_shift_are_refused() -> None:
    training = tiny_training(ndpo=NDPO(share=1.0, cycle=1, least_shift=CLIP.frames))
    with pytest.raises(ConfigError, match="least_shift"):
        draw(tiny_cache(), np.random.default_rng(0), training, 0, CLIP.frames)


def test_frozen_mouths_have_to_be_encoded_first() -> None:
    training = tiny_training(ndpo=NDPO(share=1.0, cycle=1, kinds=(Negative.FROZEN_MOUTH,), least_shift=2))
    bare = type(tiny_cache())(tiny_cache().latents, tiny_cache().lipsync)
    with pytest.raises(ConfigError, match="cache_extras"):
        draw(bare, np.random.default_rng(0), training, 0, CLIP.frames)
    assert len(bare.latents) == CLIPS


def test_a_plan_can_push_away_from_what_captions_taught() -> None:
    early, late = Negative.SHIFTED_AUDIO, Negative.FROZEN_MOUTH
    phases = (Phase(1.0, 0.5, negatives=((early.value, 0.5),)), Phase(0.5, 0.0, negatives=((late.value, 1.0),)))
    plan = build_plan(PlanOptions(solver="euler", steps=4, shift=1.0, guidance=NoGuidance(), phases=phases))
    texts = [branch.text for branch in plan.branches]
    assert texts == ["prompt", "out of step", "still mouth"] and set(texts[1:]) <= {kind.value for kind in Captions().kinds}
    weights = dict(zip(texts, zip(*plan.guidance, strict=True), strict=True))
    assert weights["out of step"] == (-0.5, -0.5, 0.0, 0.0) and weights["still mouth"] == (0.0, 0.0, -1.0, -1.0)
    assert ModalSoup().unseen(plan.branches) == []
