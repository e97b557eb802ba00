"""quantize/distill/consistency.py, start.py: the control says where a trajectory ends; students begin as others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoedge.core.errors import ConfigError
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.train.checkpoint import fingerprint
from echoedge.core.train.distributed import World
from echoedge.core.weights.nano import load_nano, nano_digest, read_passport, save_nano
from echoedge.core.weights.passport import Passport
from echoedge.quantize.distill.consistency import SLOW, Consistency, clip_of, without_spans
from echoedge.quantize.distill.lessons import Lessons
from echoedge.quantize.distill.matching import Matching
from echoedge.quantize.distill.run import distill_nano, passport_of, student_options
from echoedge.quantize.distill.start import Start, load_start
from echoedge.quantize.distill.student import Student, error_in_steps, in_steps, student_of
from echoedge.quantize.distill.training import train_student

from ..core.tiny import randomised
from .test_distill import LEVELS, TRAINING, drawn_lessons, repeats_itself, teacher

NANO = PLAN_PRESETS["nano"]
CONTROL = replace(TRAINING, method="consistency")


# ---- the function ----------------------------------------------------------------------------------------------------------------


def test_at_the_end_of_a_trajectory_it_is_the_state_itself() -> None:
    """Whatever the network says: the boundary condition."""
    batch, student = drawn_lessons().batch(np.arange(3)), Student(randomised(student_of(teacher()), 5))
    state, modality = batch["states"][:, -1].float(), torch.ones(3, 3, 3)
    with torch.no_grad():
        assert torch.equal(clip_of(student, state, torch.zeros(3), modality, batch), state)
        assert not torch.allclose(clip_of(student, state, torch.full((3,), 0.5), modality, batch), state, atol=1e-2)


def test_one_that_knows_is_played_exactly() -> None:
    """Deterministically, in any number of steps: states between are those of straight lines to the clip."""
    drawn = drawn_lessons()
    batch, levels = drawn.batch(np.arange(4)), torch.tensor(LEVELS)
    noise, end = batch["states"][:, 0].float(), batch["states"][:, -1].float()

    class Knowing(Student):
        def forward(self, latents, begin, *_):  # noqa: ANN001, ANN202
            return (latents - end) / begin.view(-1, 1, 1, 1, 1)

    for path in ([0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        states = in_steps(Knowing(student_of(teacher())), noise, levels[path], torch.ones(len(path), 3, 3), batch)
        assert torch.allclose(states[-1], end, atol=1e-5)
        for state, level in zip(states, levels[path[1:]], strict=True):
            assert torch.allclose(state, level * noise + (1 - level) * end, atol=1e-5)


def test_targets_come_from_a_slow_copy() -> None:
    def build() -> Student:
        return without_spans(Student(student_of(teacher())))

    found, student = Consistency(build, World()), Student(randomised(student_of(teacher()), 5))
    before = build().dit.head.head.weight
    found.follow(student)
    wanted = SLOW * before + (1 - SLOW) * student.dit.head.head.weight
    assert torch.allclose(found.slow.dit.head.head.weight, wanted, atol=1e-6) and not torch.allclose(wanted, before, atol=1e-4)
    batch, level, modality = drawn_lessons().batch(np.arange(3)), torch.full((3,), 0.5), torch.ones(3, 3, 3)
    state = batch["states"][:, 2].float()
    target = found.target(state, level, modality, batch)
    assert not target.requires_grad and torch.equal(target, clip_of(found.slow, state, level, modality, batch))


# ---- a run of it -----------------------------------------------------------------------------------------------------------------


def test_the_control_learns_and_does_not_know_how_far_it_goes(tmp_path: Path) -> None:
    drawn, model = drawn_lessons(), teacher()
    for name in ("control", "flow-map"):
        (tmp_path / name).mkdir()
    batch, levels, ones = drawn.batch(np.arange(16)), torch.tensor(LEVELS), torch.ones(16, 3, 3)
    control = Student(train_student(model, drawn, tmp_path / "control", replace(CONTROL, steps=40)))
    flow_map = Student(train_student(model, drawn, tmp_path / "flow-map", replace(TRAINING, steps=4)))
    for path in ((0, 4), (0, 1, 2, 3, 4)):
        before, after = (
            error_in_steps(each, batch, levels, path, torch.ones(5, 3, 3)) for each in (Student(student_of(model)), control)
        )
        assert after < 0.93 * before, (path, before, after)
    state, begin = batch["states"][:, 1].float(), torch.full((16,), 0.75)
    for student, same in ((control, True), (flow_map, False)):
        with torch.no_grad():
            near, far = (student(state, begin, begin - span, ones, batch) for span in (0.25, 0.75))
        assert torch.equal(near, far) == same


def test_a_control_killed_in_a_step_repeats_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = repeats_itself(teacher(), CONTROL, tmp_path, monkeypatch)
    whole, again = (torch.load(path / "student.pt", weights_only=True) for path in (folder.parent / "whole", folder))
    assert whole["slow"] and all(torch.equal(value, again["slow"][name]) for name, value in whole["slow"].items())
    assert any(not torch.equal(value, whole["average"][name]) for name, value in whole["slow"].items())
    with pytest.raises(ConfigError, match="belongs to a run with method 'consistency', not None"):
        train_student(teacher(), drawn_lessons(), folder, TRAINING)


def test_the_control_says_what_it_cannot_do(tmp_path: Path) -> None:
    for changes in ({"on_policy": 0.2}, {"matching": Matching(share=0.2)}):
        with pytest.raises(ConfigError, match="are a flow map's"):
            replace(CONTROL, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="The method is 'magic'|method is 'magic'"):
        replace(TRAINING, method="magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train in one process, and there are 2"):
        train_student(teacher(), drawn_lessons(), tmp_path, CONTROL, World(0, 2))
    with pytest.raises(ConfigError, match="starts from none of a flow map"):
        without_spans(Student(randomised(student_of(teacher()), 5)))


def test_its_passport_says_so_and_plans_are_the_same() -> None:
    control, usual = (passport_of("ab" * 32, NANO, Lessons(), method=each) for each in ("consistency", "flow-map"))
    assert Passport.read(control.model_dump_json(), "file").method == "consistency" != usual.method
    told = usual.model_dump(mode="json")
    del told["method"]  # files of before there was a control
    assert Passport.model_validate(told) == usual
    assert build_plan(student_options(control, 2)) == build_plan(student_options(usual, 2))


# ---- a student that begins as another --------------------------------------------------------------------------------------------


def test_a_student_begins_as_another_one(tmp_path: Path) -> None:
    other = randomised(student_of(teacher()), 7)
    still = replace(TRAINING, steps=2, rate=1e-12)
    for name in ("other", "none"):
        (tmp_path / name).mkdir()
    found = train_student(teacher(), drawn_lessons(), tmp_path / "other", still, base=Start(other, "aa"))
    plain = train_student(teacher(), drawn_lessons(), tmp_path / "none", still)
    for name, value in other.state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-6), name
    assert fingerprint(plain) != fingerprint(found)
    assert any(not torch.allclose(plain.state_dict()[name], value, atol=1e-3) for name, value in other.state_dict().items())
    with pytest.raises(ConfigError, match="belongs to a run with start 'aa', not 'bb'"):
        train_student(teacher(), drawn_lessons(), tmp_path / "other", still, base=Start(other, "bb"))
    with pytest.raises(ConfigError, match="belongs to a run with start 'aa', not None"):
        train_student(teacher(), drawn_lessons(), tmp_path / "other", still)


def test_only_a_student_of_the_same_teacher_is_a_start(tmp_path: Path) -> None:
    model, usual = load_nano(), passport_of(nano_digest(), NANO, Lessons())
    assert model.encoders is not None
    path, dit = tmp_path / "student.safetensors", randomised(student_of(model.dit), 3)

    def write(**changes: object) -> None:
        save_nano(path, dit, model.vae, model.encoders, usual.model_copy(update=changes))  # type: ignore[arg-type]

    write()
    found = load_start(path, usual)
    assert found.digest == nano_digest(path) and read_passport(path) == usual
    assert torch.equal(found.dit.span_embedding[-1].weight, dit.span_embedding[-1].weight.half().float())
    load_start(path, usual.model_copy(update={"weights": "int4", "tasks": ("t2v",)}))  # later stages may differ in these
    for changes, said in (
        ({"teacher": "cd" * 32}, "is a student of the teacher cdcdcdcdcdcd, and not of"),
        ({"method": "consistency"}, "is a consistency student, and not a flow-map one"),
        ({"levels": usual.levels | {2: (usual.levels[2][0], 0.75)}}, "takes 2 steps at the noise levels 1.000, 0.750"),
        ({"levels": {8: tuple(np.linspace(1, 0.1, 8).tolist())}}, r"takes \(8,\) steps, and these lessons are for \(1, 2, 4\)"),
    ):
        write(**changes)
        with pytest.raises(ConfigError, match=said):
            load_start(path, usual)
    save_nano(path, model.dit, model.vae, model.encoders)
    with pytest.raises(ConfigError, match="holds a teacher, and not a student to start from"):
        distill_nano(tmp_path / "work", tmp_path / "out.safetensors", start=path)
    assert not (tmp_path / "work").exists()  # refused before anything is drawn


def test_what_is_asked_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to the run."""
    from typer.testing import CliRunner

    from echoedge.cli.app import app
    from echoedge.quantize.distill import run as module

    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "distill_nano", lambda *given: seen.append(given) or {})
    command = ["distill", "nano", "--workdir", str(tmp_path)]
    asked = ["--start", "other.safetensors", "--matching", "0.25", "--fakes", "5", "--monitor", "0"]
    for options in ([], asked, ["--method", "consistency"], ["--audio-guidance", "1.25"]):
        assert CliRunner().invoke(app, command + options).exit_code == 0
    plain, matched, control, _ = (given[3] for given in seen)
    assert (plain.matching.share, plain.monitor.every, plain.method, seen[0][-3]) == (0.0, 50, "flow-map", None)  # type: ignore[attr-defined]
    assert (matched.matching.share, matched.matching.fakes, matched.monitor.every) == (0.25, 5, 0)  # type: ignore[attr-defined]
    assert seen[1][-3] == Path("other.safetensors") and control.method == "consistency"  # type: ignore[attr-defined]
    scales = [given[-1].guidance.scale for given in seen]  # type: ignore[attr-defined]
    assert scales == [1.5, 1.5, 1.5, 1.25]
    assert CliRunner().invoke(app, [*command, "--method", "magic"]).exit_code != 0
    assert CliRunner().invoke(app, [*command, "--audio-guidance", "101"]).exit_code != 0
