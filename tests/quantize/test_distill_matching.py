"""quantize/distill/matching.py: a student's clips move to where the teacher's lie; the fake learns them; killed runs repeat
themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.core.errors import ConfigError
from echoedge.core.model.transformer import DiT
from echoedge.core.plan.samplers import PLAN_PRESETS, PlanOptions, build_plan
from echoedge.core.train.distributed import World
from echoedge.core.train.generate import Given, sample_given
from echoedge.core.train.loop import Run, run_training
from echoedge.quantize.distill.lessons import Drawn, alone
from echoedge.quantize.distill.matching import Matcher, Matching, guided, matching_gradient, matching_loss, noised
from echoedge.quantize.distill.monitor import Monitoring
from echoedge.quantize.distill.student import Student, student_of
from echoedge.quantize.distill.training import Distilling, train_student

from .test_distill import TRAINING, drawn_lessons, repeats_itself, teacher

NANO = PLAN_PRESETS["nano"]
SHAPE = (512, 4, 3, 2, 2)


# ---- the gradient, where scores are known ----------------------------------------------------------------------------------------


def gaussian_velocity(at: Tensor, level: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Of clips whose numbers are independent N(mean, spread²): E[ε - x₀ | x], by the rule for joint Gaussians."""
    s = level.view(-1, 1, 1, 1, 1)
    variance = (1 - s) ** 2 * spread**2 + s**2
    return (at - (1 - s) * mean) * (s - (1 - s) * spread**2) / variance - mean


def descend(direction: float, steps: int = 250) -> tuple[float, float]:
    """-> mean and spread of a student that starts as N(-1, 0.2²), of a teacher who is N(2, 0.7²)."""
    generator = torch.Generator().manual_seed(0)
    mean, log = torch.tensor(-1.0, requires_grad=True), torch.tensor(0.2).log().requires_grad_(True)
    optimiser = torch.optim.Adam([mean, log], lr=0.03)
    for _ in range(steps):
        clips = mean + log.exp() * torch.randn(SHAPE, generator=generator)
        level = torch.rand(SHAPE[0], generator=generator) * 0.96 + 0.02
        with torch.no_grad():
            at = noised(clips, torch.randn(SHAPE, generator=generator), level)
            real = gaussian_velocity(at, level, torch.tensor(2.0), torch.tensor(0.7))
            fake = gaussian_velocity(at, level, mean, log.exp())
            gradient = direction * matching_gradient(clips, at, level, real, fake)
        optimiser.zero_grad()
        matching_loss(clips, gradient).backward()
        optimiser.step()
    return float(mean.detach()), float(log.detach().exp())


def test_a_gaussian_student_becomes_its_teacher() -> None:
    """Both its mean and, what a regression to the mean would not give, its spread."""
    mean, spread = descend(1.0)
    assert abs(mean - 2.0) < 0.05 and abs(spread - 0.7) < 0.05, (mean, spread)
    mean, _ = descend(-1.0, steps=60)
    assert mean < -1.5  # the other way round it flees


def test_the_gradient_is_that_of_both_clips() -> None:
    """In closed form: of equal spreads, the fake's clip less the teacher's is the difference of the means, times σ² / variance."""
    generator = torch.Generator().manual_seed(0)
    clips, other = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    level, spread = torch.linspace(0.1, 0.9, SHAPE[0]), torch.tensor(1.0)
    at, means = noised(clips, other, level), (torch.tensor(2.0), torch.tensor(-1.0))
    real, fake = (gaussian_velocity(at, level, mean, spread) for mean in means)
    found = matching_gradient(clips, at, level, real, fake)
    s = level.view(-1, 1, 1, 1, 1)
    size = (clips - (at - s * real)).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    wanted = (means[1] - means[0]) * s**2 / ((1 - s) ** 2 + s**2) / size
    assert torch.allclose(found, wanted.expand_as(found), atol=1e-4)
    assert not matching_gradient(clips, at, level, real, real).any()
    leaf = clips.clone().requires_grad_(True)
    matching_loss(leaf, found).backward()
    assert leaf.grad is not None and torch.allclose(leaf.grad * leaf.numel(), found, rtol=1e-4, atol=1e-5)


# ---- the teacher's velocity ------------------------------------------------------------------------------------------------------


def requests(drawn: Drawn, rows: int) -> dict[str, Tensor]:
    return drawn.batch(np.arange(rows))


@pytest.mark.parametrize("has_speech", [True, False])
def test_the_guided_velocity_is_the_samplers(has_speech: bool) -> None:
    """The sampler's own way, in one step of Euler's from noise: latents = noise - σ · velocity."""
    model, given = teacher().eval(), requests(drawn_lessons(8), 3)
    plan = build_plan(replace(NANO, solver="euler", steps=1, window=None))
    speech = torch.full((3,), has_speech)
    if not has_speech:
        plan, given["audio"] = alone(plan), torch.zeros_like(given["audio"])
    seen: list[np.ndarray] = []
    asked = Given(given["y"], given["audio"], given["image"], {branch.text: given["text"] for branch in plan.branches})
    clips = sample_given(model, asked, plan, 3, lambda _, x: seen.append(x.copy()))
    noise, level = torch.from_numpy(seen[0]), torch.full((3,), plan.sigmas[0])
    strengths = torch.from_numpy(plan.modality(0, 3)).expand(3, 3, 3)
    with torch.no_grad():
        velocity = guided(Student(model), noise, level, strengths, given, speech, 1.5)
        other = guided(Student(model), noise, level, strengths, given, speech, 3.0)
    assert torch.allclose(noise - plan.sigmas[0] * velocity, torch.from_numpy(clips), atol=1e-4)
    assert torch.allclose(other, velocity, atol=1e-4) != has_speech


def test_each_sample_is_guided_by_its_own_speech() -> None:
    model, given = Student(teacher().eval()), requests(drawn_lessons(8), 4)
    level, strengths, at = torch.full((4,), 0.6), torch.ones(4, 3, 3), torch.randn(4, 16, 3, 4, 4)
    mixed = torch.tensor([True, False, False, True])
    with torch.no_grad():
        both, none, some = (
            guided(model, at, level, strengths, given, each, 1.5) for each in (~mixed | mixed, mixed & ~mixed, mixed)
        )
    assert torch.allclose(some[mixed], both[mixed], atol=1e-5) and torch.allclose(some[~mixed], none[~mixed], atol=1e-5)
    assert not torch.allclose(both[mixed], none[mixed], atol=1e-3)


# ---- the fake --------------------------------------------------------------------------------------------------------------------


def matcher(model: DiT, matching: Matching, options: PlanOptions = NANO) -> Matcher:
    drawn = drawn_lessons()
    paths, shares = [(0, 4), (0, 2, 4)], np.array([0.5, 0.5])
    return Matcher(model, drawn, 32, paths, shares, matching, options, 8, 1, torch.device("cpu"))


def test_the_fake_learns_the_students_clips() -> None:
    model = teacher()
    student = Student(student_of(teacher()))
    found = matcher(model, Matching(share=1.0))
    losses = [found.teach_fake(student, step, 0, 3e-3) for step in range(40)]
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert found.take_losses()["fake"] == pytest.approx(np.mean(losses), abs=1e-3) and not found.take_losses()
    still = matcher(model, Matching(share=1.0))  # that does not learn
    losses = [still.teach_fake(student, step, 0, 0.0) for step in range(20)]
    assert np.mean(losses[-10:]) > 0.9 * np.mean(losses[:10])


def test_nothing_moves_but_the_fake_until_it_begins() -> None:
    student, found = Student(student_of(teacher())), matcher(teacher(), Matching(share=1.0, begin=2))
    before = {name: value.clone() for name, value in found.real.state_dict().items()}
    assert found.loss(student, 1, 1e-3) is None
    loss = found.loss(student, 2, 1e-3)
    assert loss is not None
    loss.backward()
    assert any(value.grad is not None and value.grad.any() for value in student.parameters())
    assert all(value.grad is None for value in (*found.real.parameters(), *found.fake.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in found.real.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in found.fake.state_dict().items())


# ---- a run of it -----------------------------------------------------------------------------------------------------------------

MATCHED = replace(TRAINING, steps=12, matching=Matching(share=0.5, begin=2, fakes=1))


def test_a_share_of_none_is_a_run_without(tmp_path: Path) -> None:
    """To the bit, whatever its other options are; and with a share the student is another."""
    for name in ("plain", "none", "some"):
        (tmp_path / name).mkdir()
    plain, none, some = (
        train_student(teacher(), drawn_lessons(), tmp_path / name, training)
        for name, training in (
            ("plain", TRAINING), ("none", replace(TRAINING, matching=Matching(0.0, fakes=7, begin=3))), ("some", MATCHED),
        )
    )  # fmt: skip
    assert all(torch.equal(value, none.state_dict()[name]) for name, value in plain.state_dict().items())
    assert any(not torch.equal(value, some.state_dict()[name]) for name, value in plain.state_dict().items())
    kept = torch.load(tmp_path / "plain" / "student.pt", weights_only=True)["options"]
    assert "matching" not in kept and "method" not in kept  # folders of before go on
    with pytest.raises(ConfigError, match=r"belongs to a run with matching.begin None, not 2"):
        train_student(teacher(), drawn_lessons(), tmp_path / "plain", MATCHED)


def test_a_matching_run_killed_in_a_step_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repeats_itself(teacher(), MATCHED, tmp_path, monkeypatch)
    whole, again = (torch.load(path / "student.pt", weights_only=True) for path in (folder.parent / "whole", folder))
    for part in ("fake", "model"):
        assert all(torch.equal(value, again[part][name]) for name, value in whole[part].items())
    before = teacher().state_dict()
    assert any(not torch.equal(value, before[name.removeprefix("dit.")]) for name, value in whole["fake"].items())
    one, other = whole["fake_optimiser"]["state"], again["fake_optimiser"]["state"]
    assert one and all(torch.equal(x, other[name][key]) for name, row in one.items() for key, x in row.items())
    with pytest.raises(ConfigError, match=r"belongs to a run with matching.fakes 1, not 3"):
        train_student(teacher(), drawn_lessons(), folder, replace(MATCHED, matching=Matching(share=0.5, begin=2, fakes=3)))


def test_a_companions_moments_are_kept(tmp_path: Path) -> None:
    """Without them a resumed run is another one: the loop alone, on a line of one number."""

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    def go(path: Path, steps: int, keep: bool = True) -> Tensor:
        other = Line()
        optimiser = torch.optim.AdamW(other.parameters(), lr=0.1)

        def loss_of(model: Line, step: int) -> tuple[str, Tensor]:
            optimiser.zero_grad()
            ((other.weight - step).square() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
            optimiser.step()
            return "loss", (model.weight - other.weight.detach()).square().sum()

        run = Run(path, tmp_path / "log", "{}", steps, 1, 0.9, lambda _: 0.1, save_every=3)
        run_training(run, Line, loss_of, {"other": other}, {"other": optimiser} if keep else {})
        return other.weight.detach()

    whole = go(tmp_path / "whole.pt", 6)
    go(tmp_path / "cut.pt", 3)
    assert torch.equal(go(tmp_path / "cut.pt", 6), whole)
    go(tmp_path / "forgetful.pt", 3, keep=False)
    assert not torch.equal(go(tmp_path / "forgetful.pt", 6, keep=False), whole)


def test_matching_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train in one process, and there are 2"):
        train_student(teacher(), drawn_lessons(), tmp_path, MATCHED, World(0, 2))
    with pytest.raises(ConfigError, match="share of matching"):
        Matching(share=1.5)
    with pytest.raises(ConfigError, match="trained for nothing"):
        Matching(share=0.5, weight=0.0)
    from echoedge.core.plan.samplers import NoGuidance

    with pytest.raises(ConfigError, match="folds in audio guidance of one scale"):
        matcher(teacher(), Matching(share=1.0), replace(NANO, guidance=NoGuidance()))
    assert Distilling(monitor=Monitoring(0)).matching == Matching()
