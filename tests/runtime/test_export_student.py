"""export of a student's weights file: its own steps and weights, what is refused, what a bundle says and plays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from echoedge import api
from echoedge.core.bundle import Bundle
from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.plan import WindowRule
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.weights.nano import load_nano, nano_digest, save_nano, student_path
from echoedge.core.weights.passport import Passport
from echoedge.quantize.distill.lessons import Lessons
from echoedge.quantize.distill.run import passport_of, student_options
from echoedge.quantize.distill.student import student_of
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.request import nano_request
from echoedge.runtime.play.player import PlayerConfig
from echoedge.runtime.registry import REGISTRY

from ..bundles import HOLLOW, changed_bundle
from ..commands import Run
from ..inline import Inline

TAUGHT = PRESETS["int4"].nearest()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of nano that has learnt nothing yet, through 4 bits."""
    model, path = load_nano(), tmp_path_factory.mktemp("student") / "student.safetensors"
    assert model.encoders is not None
    save_nano(
        path, student_of(model.dit), model.vae, model.encoders, passport_of(nano_digest(), PLAN_PRESETS["nano"], Lessons(), TAUGHT)
    )
    return path


@pytest.fixture(scope="module")
def bundle(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In two steps, programs that no runtime can play."""
    path = tmp_path_factory.mktemp("bundle") / "student.echoedge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "JobRunner", Inline)
        patch.setitem(REGISTRY, "hollow", HOLLOW)
        said: list[str] = []
        api.export(path, weights="int4", weights_file=file, target="hollow", steps=2, frames=5, warn=said.append)
        assert not any("taught" in line for line in said)
    return path


def test_a_student_takes_the_steps_that_it_was_taught(file: Path) -> None:
    said: list[str] = []
    request = nano_request("int4", weights_file=file, warn=said.append)
    assert (request.plan.steps, len(request.plan.branches), request.plan.evaluations) == (4, 1, 4)
    assert request.recipe == TAUGHT != PRESETS["int4"] and said == []
    assert request.source.digests(()) == {"weights": nano_digest(file)} != {"weights": nano_digest()}
    whole = nano_request("int4", weights_file=file, steps=1)
    assert whole.student is not None and whole.plan.sigmas == pytest.approx((*whole.student.levels[1], 0.0), abs=1e-6)
    with pytest.raises(ConfigError, match=r"This student takes 1 or 2 or 4 steps, not 8\."):
        nano_request("int4", weights_file=file, steps=8)
    with pytest.raises(ConfigError, match="The plan is 'nano-png', and a student goes by the one that it was taught"):
        nano_request("int4", weights_file=file, plan="nano-png")
    teachers = nano_request("int4", plan="nano")
    assert teachers.student is None and teachers.recipe == PRESETS["int4"] and len(teachers.plan.branches) == 2


def test_the_student_that_ships_is_what_is_exported_unless_its_teacher_is_asked_for() -> None:
    student, teacher = nano_request("int8"), nano_request("int8", plan="nano")
    assert student.source.digests(()) == {"weights": nano_digest(student_path())} != teacher.source.digests(())
    assert (student.plan.evaluations, teacher.plan.evaluations) == (2, 16) and student.student is not None
    assert student.student.teacher == teacher.source.digests(())["weights"]
    assert nano_request("int8", steps=4).plan.evaluations == 4
    with pytest.raises(ConfigError, match=r"not 8\. Its teacher takes any number \(of the built-in model: --plan nano"):
        nano_request("int8", steps=8)
    assert nano_request("int8", plan="nano-png").plan.evaluations == 24


def test_a_weights_file_is_nanos(file: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        nano_request("int4", weights_file=file.with_name("none.safetensors"))


def test_other_weights_are_told(file: Path) -> None:
    for weights in ("int8", "fp32"):
        said: list[str] = []
        assert nano_request(weights, weights_file=file, warn=said.append).recipe == PRESETS[weights]
        assert len(said) == 1 and f"was taught through int4 weights, and {weights} rounds them anew" in said[0]


def test_a_bundle_says_what_its_student_was_taught(bundle: Path, run: Run) -> None:
    opened = Bundle.open(bundle)
    settings = opened.manifest.weights.settings
    student = Passport.of_bundle(settings)
    assert student == passport_of(nano_digest(), PLAN_PRESETS["nano"], Lessons(), TAUGHT)
    assert {rule["rounding"] for rule in settings["rules"]} == {"nearest"}  # type: ignore[union-attr, index]
    assert PlayerConfig.of(opened).plan.steps == 2
    assert student is not None
    told = student.model_copy(update={"figures": {2: {"psnr_db": 41.66, "lowest_db": 38.0}, 1: {"psnr_db": 36.04}}}).sentence()
    assert told == (
        f"of the teacher with SHA-256 {nano_digest()[:16]}…; 1 or 2 or 4 steps of one forward, audio guidance 1.5 in them; taught "
        "through int4 weights; from its teacher's clips: 36.0 dB at 1, 41.7 dB at 2"
    )
    shown = " ".join(run("inspect", bundle).out.split())
    assert f"student {student.sentence()}" in shown and "from its teacher's clips" not in shown
    given = {"image": "a.png", "audio": "a.wav", "out": "a.mp4"}
    for wrong, words in (({"steps": 3}, "takes 1 or 2 or 4 steps, not 3"), ({"audio_guidance": 3.0}, "was taught 1.5, in one")):
        with pytest.raises(ConfigError, match=words):
            api.animate(bundle, **given, settings=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a bundle has it fixed"):
        api.animate(bundle, **given, settings={"steps": 4})  # type: ignore[arg-type]


def test_a_plan_that_was_not_taught_is_refused(bundle: Path, tmp_path: Path) -> None:
    student = passport_of(nano_digest(), PLAN_PRESETS["nano"], Lessons(), TAUGHT)
    shifted = student_options(student.model_copy(update={"levels": {2: (1.0, 0.4)}}), 2)
    for options, words in (
        (PLAN_PRESETS["nano"], "takes 1 or 2 or 4 steps, not 8"),
        (replace(PLAN_PRESETS["nano"], steps=2), r"has 2 branches of guidance, and this student was taught 1\.5, in one forward"),
        (shifted, r"noise levels are 1\.000, 0\.400, and this student was taught 1\.000, 0\.500"),
    ):
        plan = build_plan(replace(options, window=WindowRule(length=2, overlap=1)))
        changed = changed_bundle(bundle, tmp_path / str(options.shift) / str(plan.steps), "plan.json", plan.to_json().encode())
        with pytest.raises(ConfigError, match=words):
            PlayerConfig.of(Bundle.open(changed))


def test_weights_files_are_nanos(file: Path) -> None:
    with pytest.raises(ConfigError, match="it goes with nano, and flash comes from --checkpoint"):
        api.export("a.echoedge", model="flash", weights_file=file, checkpoint="none")
    with pytest.raises(CheckpointError, match="The bundle holds a student's passport that cannot be read"):
        Passport.of_bundle({"student": json.loads('{"format": "echoedge.student/9"}')})
