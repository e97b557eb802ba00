"""runtime/studies/steps_study.py: a student beside its teacher, row by row, kept and not measured again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoedge.cli.app import app
from echoedge.core.errors import ConfigError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.plan.samplers import PLAN_PRESETS, NoGuidance, build_plan
from echoedge.core.train.evaluate import held_out
from echoedge.core.train.generate import sample_and_decode
from echoedge.core.weights.nano import load_nano, nano_digest, save_nano
from echoedge.quantize.distill.lessons import Lessons
from echoedge.quantize.distill.rounding import grids_of
from echoedge.quantize.distill.run import passport_of
from echoedge.quantize.distill.student import student_of
from echoedge.quantize.recipes import PRESETS
from echoedge.quantize.roundings.nearest import nearest
from echoedge.runtime.studies import steps_study
from echoedge.runtime.studies.steps_study import Asked, as_table, compared, study_steps, ways

TEACHER = PLAN_PRESETS["nano"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untaught: its teacher in one branch."""
    path, model = tmp_path_factory.mktemp("student") / "copy.safetensors", load_nano()
    assert model.encoders is not None
    save_nano(path, student_of(model.dit), model.vae, model.encoders, passport_of(nano_digest(), TEACHER, Lessons(steps=(1,))))
    return path


@pytest.fixture(scope="module")
def measured(student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, list[dict[str, object]]]:
    asked = Asked(None, [student], tmp_path_factory.mktemp("study"), ("t2v",), clips=2, seeds=(0, 1000))
    return asked, as_table(study_steps(asked, lambda _: None))


def test_rows_are_what_the_plans_play(measured: tuple[Asked, list[dict[str, object]]]) -> None:
    _, rows = measured
    found = {row["way"]: row for row in rows}
    assert {name: row["forwards"] for name, row in found.items()} == {
        "teacher 8×2": 8, "teacher 4×1": 4, "teacher 2×1": 2, "teacher 1×1": 1, "copy 1×1": 1,
    }  # fmt: skip
    model, people = load_nano(), held_out(2)
    base = replace(TEACHER, guidance=NoGuidance())
    runs = {
        n: [
            sample_and_decode(model, people, build_plan(replace(base, steps=n)), seed=seed, task="t2v").videos for seed in (0, 1000)
        ]
        for n in (8, 2)
    }
    pairs = [(a, b) for full, few in zip(runs[8], runs[2], strict=True) for a, b in zip(full, few, strict=True)]
    assert found["teacher 2×1"]["reference_psnr_db"] == pytest.approx(np.mean([psnr(a, b, 255.0) for a, b in pairs]), abs=1e-3)
    apart = [np.abs(a.astype(float) - b).mean() for a, b in zip(*runs[8], strict=True)]
    assert found["teacher 8×2"]["diversity"] == pytest.approx(np.mean(apart), abs=1e-3)
    assert "reference_psnr_db" not in found["teacher 8×2"]


def test_an_untaught_student_is_its_teacher_at_one_step(measured: tuple[Asked, list[dict[str, object]]]) -> None:
    found = {row["way"]: row for row in measured[1]}
    assert found["copy 1×1"]["motion"] == pytest.approx(found["teacher 1×1"]["motion"], rel=0.02)
    assert found["teacher 4×1"]["reference_psnr_db"] > found["copy 1×1"]["reference_psnr_db"] + 5  # type: ignore[operator]


def test_two_ways_are_compared_clip_by_clip(measured: tuple[Asked, list[dict[str, object]]]) -> None:
    """A figure of one number a clip, so that means tell the difference; the other way round it is the opposite."""
    asked, rows = measured
    mean = {row["way"]: row["reference_psnr_db"] for row in rows if "reference_psnr_db" in row}
    found = compared(asked.out, "t2v", "copy 1×1", "teacher 4×1")["reference_psnr_db"]["difference"]
    assert found == pytest.approx(mean["teacher 4×1"] - mean["copy 1×1"], abs=1e-3)  # type: ignore[operator]
    assert compared(asked.out, "t2v", "teacher 4×1", "copy 1×1")["reference_psnr_db"]["difference"] == -found
    same = compared(asked.out, "t2v", "copy 1×1", "copy 1×1")
    assert {each["difference"] for each in same.values()} <= {0.0, None}
    with pytest.raises(ConfigError, match="no figures of 'copy 2×1'"):
        compared(asked.out, "t2v", "copy 1×1", "copy 2×1")


def test_controls_may_be_left_out(student: Path) -> None:
    names = [way.name for way in ways(load_nano(), nano_digest(), [student], controls=False)]
    assert names == ["teacher 8×2", "copy 1×1"]
    assert len(ways(load_nano(), nano_digest(), [student])) > len(names)


def test_the_teacher_may_be_measured_alone(
    measured: tuple[Asked, list[dict[str, object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command, whose rows are those of a study with students, without these."""
    asked, rows = measured
    given = [
        "distill",
        "study",
        "--out",
        str(asked.out),
        "--task",
        "t2v",
        "--clips",
        "2",
        "--seeds",
        "2",
        "--threads",
        "1",
        "--json",
    ]
    with pytest.raises(SystemExit) as ended:
        app(given)
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and [row["way"] for row in told] == [row["way"] for row in rows if row["way"] != "copy 1×1"]


def test_what_is_kept_is_not_measured_again(measured: tuple[Asked, list[dict[str, object]]]) -> None:
    asked, rows = measured
    said: list[str] = []
    path = asked.out / "t2v-copy-1×1.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"forwards": 99}))
    again = as_table(study_steps(asked, said.append))
    assert said == [] and {row["way"]: row["forwards"] for row in again}["copy 1×1"] == 99
    path.write_text(json.dumps({name: value for name, value in record.items() if name != "values"}))
    assert as_table(study_steps(asked, said.append)) == rows and said.pop() == "t2v: copy 1×1 …" and not said
    path.write_text(json.dumps(record | {"basis": "another"}))
    assert as_table(study_steps(asked, said.append)) == rows and said == ["t2v: copy 1×1 …"]


def test_a_name_is_one_students(student: Path, tmp_path: Path) -> None:
    for students, name in (([student, tmp_path / student.name], "copy"), ([tmp_path / "teacher.safetensors"], "teacher")):
        with pytest.raises(ConfigError, match=f"'{name}' is taken. Rename the file"):
            Asked(None, students, tmp_path)


def test_a_student_is_played_through_the_weights_that_it_was_taught_through(student: Path, tmp_path: Path) -> None:
    model = load_nano(path=student)
    assert model.encoders is not None
    rounded = tmp_path / "rounded.safetensors"
    passport = passport_of(nano_digest(), TEACHER, Lessons(steps=(1,)), PRESETS["int4"].nearest())
    save_nano(rounded, model.dit, model.vae, model.encoders, passport)
    plain, taught = (ways(load_nano(), nano_digest(), [path])[-1].model.dit for path in (student, rounded))
    layer = "blocks.0.ffn.0"
    x = torch.randn(3, plain.config.dim)
    found, exact = (dit.get_submodule(layer)(x) for dit in (taught, plain))
    grid = grids_of(plain.config, PRESETS["int4"])[layer]
    linear = plain.get_submodule(layer)
    wanted = torch.nn.functional.linear(x, nearest(linear.weight, grid).values(), linear.bias)
    assert torch.allclose(found, wanted, atol=1e-5) and not torch.allclose(found, exact, atol=1e-3)


def test_people_are_of_the_teachers_world(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(steps_study, "read_world", lambda _: "lively")
    monkeypatch.setattr(steps_study, "held_out", lambda *_, world: seen.append(world) or [])
    study_steps(Asked(None, [student], tmp_path, tasks=()))
    assert seen == ["lively"]


def test_students_of_others_and_teachers_are_refused(student: Path, tmp_path: Path) -> None:
    model = load_nano()
    assert model.encoders is not None
    teacher = tmp_path / "no-student.safetensors"
    save_nano(teacher, model.dit, model.vae, model.encoders)
    with pytest.raises(ConfigError, match="holds a teacher, and not a student"):
        study_steps(Asked(None, [teacher], tmp_path))
    model.dit.head.head.bias.add_(1.0)
    save_nano(teacher, model.dit, model.vae, model.encoders)
    with pytest.raises(ConfigError, match="is a student of another teacher"):
        study_steps(Asked(teacher, [student], tmp_path))
