"""quantize/distill/: lessons are the teacher's own trajectories, a student learns steps of them, killed runs repeat themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from echoedge.core.config import NANO_CLIP
from echoedge.core.errors import CheckpointError, ConfigError, InputError
from echoedge.core.model.transformer import DiT
from echoedge.core.plan.samplers import PLAN_PRESETS, NoGuidance, build_plan
from echoedge.core.train.generate import sample
from echoedge.core.train.optimisers import Optimiser
from echoedge.core.train.puppets import draw_clip
from echoedge.core.train.train_dit import mouth_latent_mask
from echoedge.core.weights.nano import load_nano, nano_digest, read_passport, read_world, save_nano
from echoedge.core.weights.passport import Passport
from echoedge.quantize.distill import lessons as module
from echoedge.quantize.distill import run as run_module
from echoedge.quantize.distill import training as trainer
from echoedge.quantize.distill.lessons import (
    FIELDS,
    FIRST_NOISE,
    FIRST_SEED,
    Drawn,
    Lessons,
    alone,
    draw_lessons,
    guided,
    kept_points,
    stops,
)
from echoedge.quantize.distill.monitor import Monitoring
from echoedge.quantize.distill.run import distill_nano, passport_of, student_options, teacher_options
from echoedge.quantize.distill.student import Student, error_in_steps, in_steps, student_of
from echoedge.quantize.distill.training import Distilling, train_student

from ..core.tiny import randomised
from ..core.tiny_training import CONFIG

SHORT = replace(PLAN_PRESETS["nano"], steps=3, window=None)
FEW = Lessons(shards=2, tasks=(("i2v+a2v", 0.5), ("t2v", 0.5)), steps=(1, 2), shard=3)
LEVELS = (1.0, 0.75, 0.5, 0.3, 0.0)


# ---- lessons ---------------------------------------------------------------------------------------------------------------------


def test_students_go_by_the_levels_nearest_to_equal_parts() -> None:
    levels = build_plan(PLAN_PRESETS["nano"]).sigmas  # 1, .954, .900, .833, .750, .642, .500, .300, 0
    assert [stops(levels, count) for count in (1, 2, 4)] == [(0, 8), (0, 6, 8), (0, 4, 6, 7, 8)]
    assert kept_points(levels, (1, 2, 4)) == (0, 4, 6, 7, 8)
    with pytest.raises(ConfigError, match="A student of 7 steps cannot go by 9 noise levels"):
        stops(levels, 7)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Drawn]:
    folder = tmp_path_factory.mktemp("lessons")
    return folder, draw_lessons(folder, FEW, options=SHORT)


def test_a_lesson_ends_where_the_teacher_does(few: tuple[Path, Drawn]) -> None:
    _, drawn = few
    model, plan = load_nano(), build_plan(SHORT)
    for row in (0, 5):
        task = drawn.names[int(drawn.arrays["task"][row])]
        clip = draw_clip(FIRST_SEED + row)
        wanted = sample(model, [clip], plan, seed=FIRST_NOISE + row, task=task)[0]
        found = drawn.arrays["states"][row, -1].astype(np.float32)
        assert np.abs(found - wanted).max() < 4e-3  # half precision: 2e-3 at 3
        other = sample(model, [clip], plan, seed=FIRST_NOISE + row + 1, task=task)[0]
        assert np.abs(found - other).max() > 0.1
    assert {drawn.names[k] for k in drawn.arrays["task"]} == {"i2v+a2v", "t2v"}


def test_without_speech_one_branch_says_what_two_do() -> None:
    model, clips, plan = load_nano(), [draw_clip(FIRST_SEED)], build_plan(SHORT)
    assert len(alone(plan).branches) == 1 < len(plan.branches)
    both, one = (sample(model, clips, each, task="t2v") for each in (plan, alone(plan)))
    assert np.abs(both - one).max() < 1e-4
    both, one = (sample(model, clips, each, task="i2v+a2v") for each in (plan, alone(plan)))
    assert np.abs(both - one).max() > 1e-2


def test_lessons_have_the_guidance_that_is_asked_for(few: tuple[Path, Drawn], tmp_path: Path) -> None:
    """A scale of 1 is no guidance, in one branch; the passport tells the scale, and one of no range is refused."""
    unguided = teacher_options(1.0)
    assert guided(build_plan(teacher_options(1.25))) and guided(build_plan(teacher_options())) and not guided(build_plan(unguided))
    drawn = draw_lessons(tmp_path, replace(FEW, shards=1), options=replace(SHORT, guidance=unguided.guidance))
    plan, task = build_plan(replace(SHORT, guidance=NoGuidance())), drawn.names[int(drawn.arrays["task"][0])]
    wanted = sample(load_nano(), [draw_clip(FIRST_SEED)], plan, seed=FIRST_NOISE, task=task)[0]
    found = drawn.arrays["states"][0, -1].astype(np.float32)
    assert np.abs(found - wanted).max() < 4e-3
    assert np.abs(found - few[1].arrays["states"][0, -1].astype(np.float32)).max() > 0.02  # the same lesson, guided
    assert passport_of("", unguided, Lessons()).audio_guidance == 1.0
    with pytest.raises(ConfigError, match="audio guidance scale"):
        teacher_options(-1.0)


def test_shards_are_drawn_once_and_may_be_added_to(
    few: tuple[Path, Drawn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, drawn = few
    original, seen = module._draw_shard, []

    def broken(shard: int) -> None:
        seen.append(shard)
        if len(seen) == 1:
            raise KeyboardInterrupt
        original(shard)

    monkeypatch.setattr(module, "_draw_shard", broken)
    with pytest.raises(KeyboardInterrupt):
        draw_lessons(tmp_path, FEW, options=SHORT)
    draw_lessons(tmp_path, replace(FEW, shards=1), options=SHORT)
    again = draw_lessons(tmp_path, FEW, options=SHORT)
    assert seen == [0, 0, 1]
    for name in FIELDS:
        assert np.array_equal(again.arrays[name], drawn.arrays[name]), name
    with pytest.raises(ConfigError, match="holds lessons of another teacher, plan or mixture"):
        draw_lessons(tmp_path, replace(FEW, seed=1), options=SHORT)


def test_lessons_are_of_a_world(few: tuple[Path, Drawn], tmp_path: Path) -> None:
    """Calm ones are what they were before there was another world; lively ones show the teacher lively mouths and portraits."""
    folder, drawn = few
    basis = json.loads(json.loads((folder / "lessons.json").read_text())["basis"])
    assert set(basis) == {"teacher", "plan", "tasks", "steps", "shard", "seed"}
    with pytest.raises(ConfigError, match="holds lessons of another teacher, plan or mixture"):
        draw_lessons(folder, replace(FEW, world="lively"), options=SHORT)
    lively = draw_lessons(tmp_path, replace(FEW, shards=1, world="lively"), options=SHORT)
    clips = [draw_clip(FIRST_SEED + row, world="lively") for row in range(3)]
    boxes = mouth_latent_mask(np.array([clip.mouth_box for clip in clips]), NANO_CLIP).numpy()
    assert np.array_equal(lively.arrays["mouth"], boxes.astype(np.uint8))
    # Portrait and voice are the same in both worlds, so what the teacher is given and makes of it is.
    assert np.array_equal(lively.arrays["audio"], drawn.arrays["audio"][:3]) and lively.made_from != drawn.made_from
    with pytest.raises(InputError, match="no world 'busy'"):
        replace(FEW, world="busy")


def test_a_student_is_of_its_teachers_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher's file says which world that is; one that says nothing is calm."""
    model, seen, told = load_nano(), [], []
    assert model.encoders is not None

    class EnoughError(Exception):
        pass

    def drawn(_folder: Path, lessons: Lessons, *_: object, **__: object) -> None:
        seen.append(lessons.world)
        raise EnoughError

    monkeypatch.setattr(run_module, "draw_lessons", drawn)
    for world in ("calm", "lively"):
        path = tmp_path / f"{world}.safetensors"
        save_nano(path, model.dit, model.vae, model.encoders, world=world)
        assert read_world(path) == world
        with pytest.raises(EnoughError):
            distill_nano(tmp_path / world, tmp_path / "student.safetensors", weights=path, report=told.append)
    assert seen == ["calm", "lively"] and read_world() == "calm"


# ---- a student -------------------------------------------------------------------------------------------------------------------


def teacher() -> DiT:
    torch.manual_seed(0)
    return randomised(DiT(CONFIG))


def drawn_lessons(count: int = 80) -> Drawn:
    """Trajectories that bend: x(σ) = σ² · noise + (1 - σ²) · the mean of y's latents."""
    rng, latent = np.random.default_rng(0), (3, 4, 4)
    noise = rng.normal(size=(count, 16, *latent))
    y = rng.normal(size=(count, 20, *latent)).astype(np.float16)
    clean = y[:, 4:].astype(np.float64)
    states = np.stack([s * s * noise + (1 - s * s) * clean for s in LEVELS], 1).astype(np.float16)
    arrays = {
        "states": states, "y": y, "audio": rng.normal(size=(count, 9, 1, 8)).astype(np.float16),
        "image": rng.normal(size=(count, 16, 8)).astype(np.float16), "text": rng.normal(size=(count, 64, 8)).astype(np.float16),
        "mouth": np.zeros((count, 1, 1, 4, 4), np.uint8), "task": np.zeros(count, np.uint8),
    }  # fmt: skip
    return Drawn(LEVELS, np.ones((5, 3, 3), np.float32), ("i2v",), arrays, "drawn by hand")


TRAINING = Distilling(steps=12, batch=4, rate=3e-3, warmup=2, monitor=Monitoring(0))  # lessons and teacher do not fit each other


def test_an_untaught_student_is_its_teacher_in_one_branch() -> None:
    drawn, model = drawn_lessons(), teacher()
    batch, size = drawn.batch(np.arange(4)), 4
    latents, begin = batch["states"][:, 1].float(), torch.full((size,), 0.75)
    found = Student(student_of(model))(latents, begin, begin - 0.25, torch.ones(size, 3, 3), batch)
    from echoedge.core.sampling.inputs import frame_windows

    wanted = model(latents, 750 * torch.ones(size), batch["y"], batch["text"], batch["image"], frame_windows(batch["audio"]))
    assert torch.equal(found, wanted)


def test_what_is_perfectly_known_is_played_exactly() -> None:
    drawn = drawn_lessons()
    batch = drawn.batch(np.arange(4))
    levels, modality = torch.tensor(LEVELS), torch.ones(5, 3, 3)
    noise, end = batch["states"][:, 0].float(), batch["states"][:, -1].float()

    class Knowing(Student):
        def forward(self, latents, begin, end_level, *_):  # noqa: ANN001, ANN202
            b, e = begin.view(-1, 1, 1, 1, 1), end_level.view(-1, 1, 1, 1, 1)
            return ((e * e - b * b) * (noise - end)) / (e - b)  # of the trajectories above

    student = Knowing(student_of(teacher()))
    for path in ((0, 4), (0, 2, 4), (0, 1, 2, 3, 4)):
        assert error_in_steps(student, batch, levels, path, modality) < 2e-3  # half precision
        states = in_steps(student, noise, levels[list(path)], modality[list(path[:-1])], batch)
        for state, point in zip(states, path[1:], strict=True):
            assert torch.allclose(state, batch["states"][:, point].float(), atol=6e-3)


@pytest.mark.parametrize("on_policy", [0.0, 0.6])
def test_a_student_comes_nearer(on_policy: float, tmp_path: Path) -> None:
    drawn, model = drawn_lessons(), teacher()
    batch, levels, modality = drawn.batch(np.arange(16)), torch.tensor(LEVELS), torch.ones(5, 3, 3)
    trained = Student(train_student(model, drawn, tmp_path, replace(TRAINING, steps=60, on_policy=on_policy)))
    for path in ((0, 4), (0, 1, 2, 3, 4)):
        before = error_in_steps(Student(student_of(model)), batch, levels, path, modality)
        after = error_in_steps(trained, batch, levels, path, modality)
        assert after < 0.9 * before, (path, before, after)  # measured: 0.82 at most


def test_what_is_held_back_teaches_nothing(tmp_path: Path) -> None:
    drawn = drawn_lessons()
    drawn.arrays["states"][-trainer.HELD_BACK :] = np.nan
    dit = train_student(teacher(), drawn, tmp_path, TRAINING)
    assert all(torch.isfinite(x).all() for x in dit.state_dict().values())
    drawn.arrays["states"][0] = np.nan
    with pytest.raises(ConfigError, match="There are 80 lessons, of which 48 are held back; a batch takes 40"):
        train_student(teacher(), drawn, tmp_path / "other", replace(TRAINING, batch=40))


def repeats_itself(model: DiT, training: Distilling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of twelve steps that is killed in its seventh, and goes on, is bit for bit one that was not. -> its folder."""
    drawn = drawn_lessons()
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = train_student(model, drawn, tmp_path / "whole", training, save_every=4)
    original, calls = trainer._segments, []

    def killed(*args: object) -> object:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "_segments", killed)
    with pytest.raises(KeyboardInterrupt):
        train_student(model, drawn, tmp_path / "killed", training, save_every=4)
    found = train_student(model, drawn, tmp_path / "killed", training, save_every=4)
    assert len(calls) == 7 + 8  # six steps and the kill; from the fourth to the twelfth
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in whole.state_dict().items())
    return tmp_path / "killed"


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_run_killed_in_a_step_repeats_itself(optimiser: Optimiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = replace(TRAINING, on_policy=0.3, optimiser=optimiser)
    folder = repeats_itself(teacher(), training, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="belongs to a run with rate 0.003, not 0.01"):
        train_student(teacher(), drawn_lessons(), folder, replace(training, rate=0.01))
    other, known = ("muon", "None") if optimiser == "adamw" else ("adamw", "'muon'")
    with pytest.raises(ConfigError, match=f"belongs to a run with optimiser {known}"):
        train_student(teacher(), drawn_lessons(), folder, replace(training, optimiser=other))  # type: ignore[arg-type]


def test_optimisers_and_rates_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="optimiser is 'sgd'"):
        Distilling(optimiser="sgd")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"rate is 20.0; it must be a number from 0 to 10"):
        Distilling(rate=20.0)


# ---- its passport ----------------------------------------------------------------------------------------------------------------


def test_a_passport_tells_what_is_allowed() -> None:
    passport = passport_of("ab" * 32, PLAN_PRESETS["nano"], Lessons())
    assert passport.allowed == (1, 2, 4) and [len(passport.levels[n]) for n in passport.allowed] == [1, 2, 4]
    passport.require(2, 1.5, 3.0)
    for wrong, said in (
        ({"steps": 8}, "takes 1 or 2 or 4 steps, not 8"),
        ({"audio_guidance": 2.0}, "was taught 1.5, in one forward"),
        ({"shift": 5.0}, "of shift 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            passport.require(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes 1 or 2 or 4 steps, not 3"):
        student_options(passport, 3)
    with pytest.raises(ConfigError, match="folds in audio guidance of one scale"):
        passport_of("ab" * 32, replace(PLAN_PRESETS["nano"], guidance=NoGuidance()), Lessons())


def test_a_student_goes_by_its_teachers_levels() -> None:
    passport = passport_of("ab" * 32, PLAN_PRESETS["nano"], Lessons())
    teachers, plan = build_plan(PLAN_PRESETS["nano"]), build_plan(student_options(passport, 4))
    assert np.allclose(plan.sigmas, [teachers.sigmas[k] for k in (0, 4, 6, 7, 8)], atol=1e-7)
    assert len(plan.branches) == 1 and plan.evaluations == 4
    assert np.allclose(plan.modality(1, 7), teachers.modality(4, 7), atol=1e-3)


def test_a_file_says_that_it_is_a_student(tmp_path: Path) -> None:
    model = load_nano()
    assert read_passport() is None and model.encoders is not None
    passport = passport_of(nano_digest(), PLAN_PRESETS["nano"], Lessons())
    path = tmp_path / "student.safetensors"
    save_nano(path, student_of(model.dit), model.vae, model.encoders, passport)
    assert read_passport(path) == passport and load_nano(path=path).config.flow_map
    with pytest.raises(CheckpointError, match="holds a student's passport that cannot be read"):
        Passport.read('{"format": "echoedge.student/9"}', "file")


def test_a_students_file_tells_what_was_measured_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way of the command, with few lessons and one step."""
    for module_of, name, value in ((trainer, "HELD_BACK", 2), (run_module, "EVALUATED_CLIPS", 1)):
        monkeypatch.setattr(module_of, name, value)
    monkeypatch.setattr(run_module.beside_teacher, "__defaults__", (1, "calm", PLAN_PRESETS["nano"]))
    out, said = tmp_path / "student.safetensors", list[str]()
    training = Distilling(steps=1, batch=2, mix=((1, 0.5), (2, 0.5)))
    metrics = distill_nano(tmp_path / "work", out, FEW, training, processes=1, threads=1, report=said.append)
    passport, told = read_passport(out), json.loads(out.with_suffix(".json").read_text())
    assert passport is not None and {str(count): each for count, each in passport.figures.items()} == metrics == told["steps"]
    assert set(metrics) == {"1", "2"} and all(20 < each["psnr_db"] < 60 for each in metrics.values())
    assert any("1 of 1 steps, in" in line for line in said) and "finished" in (tmp_path / "work" / "progress.html").read_text()
    with Image.open(tmp_path / "work" / "samples.png") as sheet:
        assert sheet.height > 3 * 2 * 64  # teacher, two steps and one, of two clips at least
    assert distill_nano(tmp_path / "work", out, FEW, training, processes=1, threads=1, report=said.append) == metrics


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(tmp_path: Path) -> None:
    """Up to the order of sums. It takes minutes: the compiler does."""
    found = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        found.append(train_student(teacher(), drawn_lessons(), folder, replace(TRAINING, compiled=compiled)).state_dict())
    began = student_of(teacher()).state_dict()
    moved, apart = (max(float((a[name] - b[name]).abs().max()) for name in a) for a, b in ((began, found[0]), found))
    assert apart < 0.02 * moved
