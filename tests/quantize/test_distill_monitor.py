"""quantize/distill/monitor.py: a run whose clips leave the teacher's range ends, and says where; one that learns does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.core.errors import ConfigError, TrainingError
from echoedge.core.model.transformer import DiT
from echoedge.quantize.distill import monitor as module
from echoedge.quantize.distill.lessons import Drawn
from echoedge.quantize.distill.matching import Matching
from echoedge.quantize.distill.monitor import Found, Monitor, Monitoring, figures, require, told
from echoedge.quantize.distill.student import Student, in_steps, student_of
from echoedge.quantize.distill.training import HELD_BACK, Distilling, train_student

from .test_distill import LEVELS, drawn_lessons
from .test_distill import teacher as harsh_teacher

WATCHED = Distilling(steps=12, batch=4, rate=3e-4, warmup=2, ema=0.5, monitor=Monitoring(4))


def teacher() -> DiT:
    """Whose trajectories hardly bend: few untaught steps are near to many."""
    made = harsh_teacher()
    with torch.no_grad():
        made.head.head.weight.mul_(0.3)
        made.head.head.bias.mul_(0.3)
    return made


def lessons_of_teacher() -> Drawn:
    """Whose clips are those of the tiny teacher, so that an untaught student is near them."""
    drawn = drawn_lessons()
    batch, model, fine = drawn.batch(np.arange(80)), Student(student_of(teacher())), torch.linspace(1, 0, 21)
    with torch.no_grad():
        passed = in_steps(model, batch["states"][:, 0].float(), fine, torch.ones(21, 3, 3), batch)
    states = [passed[k - 1] for k in (5, 10, 14, 20)]
    drawn.arrays["states"][:, 1:] = torch.stack(states, 1).numpy().astype(np.float16)
    assert np.allclose(fine[[0, 5, 10, 14, 20]].numpy(), LEVELS)
    return drawn


# ---- figures ---------------------------------------------------------------------------------------------------------------------


def looked(clips: Tensor, theirs: Tensor, monkeypatch: pytest.MonkeyPatch, began: Tensor | None = None) -> list[Found]:
    """What a monitor whose teacher made `theirs` says to a student that plays `clips`, and `began` before it was taught."""
    batch, student = {"states": torch.stack([theirs, theirs], 1)}, Student(student_of(teacher()))
    monkeypatch.setattr(module, "in_steps", lambda *_: [theirs if began is None else began])
    monitor = Monitor(batch, torch.tensor([1.0, 0.5, 0.0]), torch.ones(3, 3, 3), {1: (0, 2), 2: (0, 1, 2)}, student)
    monkeypatch.setattr(module, "in_steps", lambda *_: [clips])
    return monitor.look(student.state_dict())


def some_clips() -> Tensor:
    """[16, 4, 5, 6, 6]; each with colours of its own, about a mean that channels have."""
    generator = torch.Generator().manual_seed(0)
    noise, colours = torch.randn(16, 4, 5, 6, 6, generator=generator), torch.randn(16, 4, 1, 1, 1, generator=generator)
    return noise.cumsum(2) / 2 + colours + torch.arange(4.0).view(1, 4, 1, 1, 1)


def test_figures_are_numpys() -> None:
    clips = some_clips()
    x, found = clips.numpy().astype(np.float64), figures(clips)
    assert np.allclose(found["variance"][3, 2], x[3, 2].var(ddof=1), rtol=1e-4)
    assert np.allclose(found["colour"][3, 2], x[3, 2].mean(), rtol=1e-4)
    assert np.allclose(found["motion"][3, 0], np.abs(np.diff(x[3], axis=1)).mean(), rtol=1e-4)


def test_the_teachers_own_clips_are_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = some_clips()
    found = looked(clips, clips, monkeypatch)
    assert len(found) == 2 * (4 + 1 + 4) and all(each.within for each in found)
    assert all(each.value == pytest.approx(0.0 if each.figure == "colour" else 1.0, abs=1e-4) for each in found)
    assert told(found)["2"] == {"variance": [1.0, 1.0], "motion": 1.0, "colour": 0.0}
    assert all(each.within for each in looked(clips[torch.randperm(16)] * 1.05, clips, monkeypatch))
    reach = 4 * math.sqrt(2 / 16)  # of 16 clips: what the module says of ranges
    assert all((each.low, each.high) == pytest.approx((-reach, reach)) for each in found if each.figure == "colour")
    spread = figures(clips)["variance"][:, 1]
    high = max(1.4, math.exp(reach * float(spread.std() / spread.mean())))
    (variance,) = [each for each in found if (each.figure, each.channel, each.steps) == ("variance", 1, 2)]
    assert (variance.low, variance.high) == pytest.approx((min(1 / high, 1 / 1.1), max(high, 1.1)), rel=1e-4)


def test_each_collapse_is_told_by_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = some_clips()
    tinted, unknown = clips.clone(), clips.clone()
    tinted[:, 3] += 4.0
    unknown[2, 1, 0, 0, 0] = math.nan
    for wrong, said in (
        (clips.mean(dim=(2, 3, 4), keepdim=True).expand_as(clips), r"variance of channel \d at 1 step is 0 of the teacher's"),
        (clips[:, :, :1].expand_as(clips), "motion at 1 step is 0 of the teacher's, and may be 0.7"),
        (tinted, r"colour of channel 3 at 1 step is [34]\.\d+ spreads of the teacher's .* own, and may be -1.41 to 1.41"),
        (unknown, "is nan"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=said) as error:
            require(looked(wrong, clips, monkeypatch), 150, 100)
        assert "Step 150: " in str(error.value) and "The checkpoint of step 100 stays" in str(error.value)
    require(looked(clips, clips, monkeypatch), 150, 100)


def test_what_a_run_began_with_is_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few untaught steps may be outside; they are not to get worse."""
    clips = some_clips()
    mean = clips.mean(dim=2, keepdim=True)
    slower, still = mean + 0.4 * (clips - mean), mean + 0.3 * (clips - mean)
    with pytest.raises(TrainingError, match="motion at 1 step is 0.4 of"):
        require(looked(slower, clips, monkeypatch), 1, 0)
    require(looked(slower, clips, monkeypatch, began=slower), 1, 0)
    with pytest.raises(TrainingError, match="motion at 1 step is 0.3 of the teacher's, and may be 0.364"):
        require(looked(still, clips, monkeypatch, began=slower), 1, 0)


# ---- runs ------------------------------------------------------------------------------------------------------------------------


def logged(folder: Path) -> list[int]:
    return [line["step"] for line in map(json.loads, (folder / "student.log").read_text().splitlines()) if "monitor" in line]


@pytest.mark.parametrize("way", ["regression", "matching"])
def test_a_run_that_learns_passes(way: str, tmp_path: Path) -> None:
    matching = Matching(share=0.5, begin=4, fakes=1) if way == "matching" else Matching()
    train_student(teacher(), lessons_of_teacher(), tmp_path, replace(WATCHED, matching=matching))
    assert logged(tmp_path) == [4, 8, 12]
    lines = (tmp_path / "student.log").read_text()
    assert ('"fake"' in lines) == (way == "matching")


def test_a_run_to_a_flat_colour_is_stopped(tmp_path: Path) -> None:
    """Lessons that end in one colour pull the student's clips there; those held back do not."""
    drawn = lessons_of_teacher()
    states = drawn.arrays["states"]
    for point, level in enumerate(LEVELS):
        states[:-HELD_BACK, point] = level * states[:-HELD_BACK, 0] + (1 - level) * 0.3
    training = replace(WATCHED, steps=200, rate=3e-3, monitor=Monitoring(10))
    with pytest.raises(TrainingError, match=r"Step \d+: the student's .* run is stopped") as error:
        train_student(teacher(), drawn, tmp_path, training, save_every=5)
    step = int(str(error.value).split(":")[0].removeprefix("Step "))
    saved = torch.load(tmp_path / "student.pt", weights_only=True)
    assert logged(tmp_path)[-1] == step and saved["step"] == step - 5 and step < 200
    assert f"The checkpoint of step {step - 5} stays" in str(error.value)
    with pytest.raises(TrainingError, match=f"Step {step}: "):  # the same command comes to the same end
        train_student(teacher(), drawn, tmp_path, training, save_every=5)
    (tmp_path / "unwatched").mkdir()
    train_student(teacher(), drawn, tmp_path / "unwatched", replace(training, steps=step, monitor=Monitoring(0)))


def test_an_absurd_rate_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Step 4: the student's .* No checkpoint was written yet"):
        train_student(teacher(), lessons_of_teacher(), tmp_path, replace(WATCHED, rate=3.0))


def test_looking_changes_nothing(tmp_path: Path) -> None:
    for name in ("seen", "unseen"):
        (tmp_path / name).mkdir()
    drawn = lessons_of_teacher()
    seen = train_student(teacher(), drawn, tmp_path / "seen", replace(WATCHED, steps=4))
    unseen = train_student(teacher(), drawn, tmp_path / "unseen", replace(WATCHED, steps=4, monitor=Monitoring(0)))
    assert all(torch.equal(value, unseen.state_dict()[name]) for name, value in seen.state_dict().items())
    assert logged(tmp_path / "seen") == [4] and logged(tmp_path / "unseen") == []
    with pytest.raises(ConfigError, match="monitor"):
        Monitoring(-1)
