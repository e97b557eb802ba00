"""runtime/distill: videos become windows, features, lessons and a student's folder; what cannot be learnt from says why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import echoedge
from echoedge.core import memory
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import CheckpointError, ConfigError, InputError, OutputError, ResourceError
from echoedge.core.plan import noise
from echoedge.core.plan.samplers import build_plan
from echoedge.core.train.distributed import World
from echoedge.core.train.puppets import draw_clip
from echoedge.core.weights.checkpoints import Checkpoint, load_transformer
from echoedge.core.weights.random_checkpoint import write_random_checkpoint
from echoedge.quantize.distill.run import student_options
from echoedge.quantize.distill.student import Student, student_of
from echoedge.runtime.distill import cache as cache_module
from echoedge.runtime.distill import lessons as lessons_module
from echoedge.runtime.distill import run as run_module
from echoedge.runtime.distill.clips import Checks, cut_folder, cut_video
from echoedge.runtime.distill.lessons import FIRST_NOISE, ClipLessons
from echoedge.runtime.distill.run import Asked, distill_checkpoint, held_back, mix_of, usual_training
from echoedge.runtime.distill.student_folder import passport_of_options, write_student
from echoedge.runtime.play.clips import ClipWriter, read_clip, sound_of, stream_frames
from echoedge.runtime.play.reference import Reference, Settings, plan_options

from ..commands import Run, complaint
from ..core.tiny_checkpoint import playable_sizes

pytest.importorskip("skimage", reason="the extra face is not installed")

CLIP = ClipSpec(32, 32, 9)
PEOPLE = (1, 15)  # drawn heads in which the cascade sees one face; of the second one in nearly every frame
SAID = "a woman talks"
LOOSE = Checks(least_sync=0.0, least_speech=0.1)
FEW = ClipLessons(noises=2, steps=(1, 2))
SHORT = usual_training(steps=3, batch=2, rate=1e-3, warmup=1, mix=mix_of((1, 2)))


def film(path: Path, seed: int, frames: int = 27, sound: bool = True, fps: int = 25, blank: bool = False, late: int = 0) -> Path:
    """A drawn head that speaks, 256 pixels a side. `late`: samples by which the voice comes after the mouth."""
    clip = draw_clip(seed, frames, 256)
    wave = np.roll(clip.waveform, late) if sound else None
    with ClipWriter(path, height=256, width=256, fps=fps, audio=wave) as writer:
        for frame in clip.frames:
            writer.write(np.full_like(frame, 128) if blank else frame)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in PEOPLE:
        film(folder / f"person{seed}.mp4", seed, 25 if seed == 15 else 18)
    return folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("prompts") / "pack.safetensors"
    dim = playable_sizes("flash").transformer.text_dim
    negative = dict(plan_options("preview", Settings()).texts).values()
    save_file({text: rng.normal(size=(5, dim)).astype(np.float32) for text in (SAID, *negative)}, path)
    return path


def asked(folder: Path, videos: Path, pack: Path, **changes: Any) -> Asked:
    given = {"clip": CLIP, "checks": LOOSE, "lessons": FEW, "training": SHORT, "teacher_steps": 4}
    return Asked(folder, videos, pack, **given | changes)  # type: ignore[arg-type]


def distilled(wanted: Asked, base: Path, variant: Variant = "flash", **options: Any) -> list[str]:
    said: list[str] = []
    given: dict[str, Any] = {"threads": 1, "sizes": playable_sizes(variant), "report": said.append, "save_every": 1}
    distill_checkpoint(wanted, base / "work", base / "student", **given | options)
    return said


# ---- videos ----------------------------------------------------------------------------------------------------------------------


def test_frames_come_one_by_one_as_read_together(videos: Path) -> None:
    path = videos / "person15.mp4"
    together, streamed = read_clip(path), list(stream_frames(path, 25))
    assert np.array_equal(np.stack(streamed), together.frames)
    sound = sound_of(path, 16000)
    assert sound is not None and together.audio is not None and np.array_equal(sound, together.audio)


@pytest.mark.parametrize(("fps", "frames"), [(50, 20), (10, 8)])
def test_other_rates_come_at_25_a_second(fps: int, frames: int, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 1, frames, fps=fps)
    found, whole = list(stream_frames(path, 25)), read_clip(path).frames
    wanted = [whole[int(tick * fps / 25 + 1e-9)] for tick in range(frames * 25 // fps)]
    assert len(found) == len(wanted)
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_windows_show_a_speaking_face(videos: Path) -> None:
    cuts = cut_video(videos / "person15.mp4", "person15.mp4", "ab", replace(CLIP, frames=25), Checks())
    (row,) = cuts.taken
    drawn = draw_clip(15, 25, 256)
    assert row["first"] == 0 and row["sync"] > 0.6 and row["speech"] > 0.3
    y0, y1, x0, x1 = (8 * edge for edge in cuts.mouths[0])  # the clip's 32 pixels are the video's 256
    m0, m1, n0, n1 = drawn.mouth_box
    overlap = max(0, min(y1, m1) - max(y0, m0)) * max(0, min(x1, n1) - max(x0, n0))
    assert overlap > 0.6 * (m1 - m0) * (n1 - n0)
    assert cuts.portraits.shape == (1, 32, 32, 3) and cuts.voices.shape == (1, 16000)


def reasons(path: Path, checks: Checks | None = None, clip: ClipSpec | None = None) -> list[str | None]:
    cuts = cut_video(path, path.name, "ab", clip or replace(CLIP, frames=25), checks or Checks())
    return [row["reason"] for row in cuts.rows]


def test_what_is_not_taken_says_why(tmp_path: Path, videos: Path) -> None:
    assert reasons(film(tmp_path / "mute.mp4", 15, 9, sound=False)) == ["no sound"]
    assert reasons(film(tmp_path / "wall.mp4", 15, 25, blank=True)) == ["no face"]
    assert reasons(film(tmp_path / "short.mp4", 15, 20)) == ["too short"]
    assert reasons(film(tmp_path / "late.mp4", 15, 25, late=4800), Checks(least_speech=0.0)) == ["mouth and voice apart"]
    assert reasons(videos / "person15.mp4", Checks(least_face=0.9)) == ["a small face"]
    assert reasons(videos / "person15.mp4", Checks(least_speech=1.0)) == ["no speech"]
    (tmp_path / "notes.mp4").write_text("dear")
    assert reasons(tmp_path / "notes.mp4") == ["unreadable"]
    assert reasons(videos / "person15.mp4") == [None]


def test_two_faces_are_one_too_many(tmp_path: Path) -> None:
    clip = draw_clip(15, 25, 256)
    with ClipWriter(tmp_path / "two.mp4", height=256, width=512, fps=25, audio=clip.waveform) as writer:
        for frame in clip.frames:
            writer.write(np.concatenate([frame, frame], 1))
    assert reasons(tmp_path / "two.mp4") == ["several faces"]


def test_a_crop_keeps_the_face(tmp_path: Path) -> None:
    """Of a wide picture whose face is on the right, the right side is kept."""
    clip = draw_clip(15, 25, 256)
    with ClipWriter(tmp_path / "wide.mp4", height=256, width=768, fps=25, audio=clip.waveform) as writer:
        for frame in clip.frames:
            writer.write(np.concatenate([np.full((256, 512, 3), 90, np.uint8), frame], 1))
    cuts = cut_video(tmp_path / "wide.mp4", "wide.mp4", "ab", replace(CLIP, frames=25), Checks())
    (row,) = cuts.taken
    assert 420 < row["left"] <= 512 and row["width"] == 256, row


def test_a_folder_without_anything_to_learn_from_counts_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        cut_folder(tmp_path / "none", tmp_path / "w", CLIP, LOOSE)
    (tmp_path / "v").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        cut_folder(tmp_path / "v", tmp_path / "w", CLIP, LOOSE)
    film(tmp_path / "v" / "a.mp4", 1, 18, sound=False)
    (tmp_path / "v" / "b.mp4").write_bytes((tmp_path / "v" / "a.mp4").read_bytes())
    film(tmp_path / "v" / "c.mp4", 1, 18, blank=True)
    told = r"None of 3 videos .* 1 × a copy, 1 × no sound, 2 × no face\. The first: a\.mp4: it has no sound track"
    with pytest.raises(InputError, match=told):
        cut_folder(tmp_path / "v", tmp_path / "w", CLIP, Checks(least_speech=0.0))


# ---- the whole way ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(
    folders: dict[Variant, Path], videos: Path, pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    base = tmp_path_factory.mktemp("whole")
    return base, distilled(asked(folders["flash"], videos, pack), base)


def shelved(base: Path, wanted: Asked) -> Any:
    """The lessons of a finished run, read again."""
    from echoedge.runtime.distill.run import _prepared, _teacher
    from echoedge.runtime.play.prompts import read_prompts

    checkpoint, sizes = Checkpoint.open(wanted.folder), playable_sizes("flash")
    teacher = _teacher(wanted, checkpoint, sizes, read_prompts(wanted.pack, sizes.transformer.text_dim), World())
    return _prepared(wanted, checkpoint, teacher, base / "work", lambda _: None)[0]


def test_videos_become_a_students_folder(whole: tuple[Path, list[str]], folders: dict[Variant, Path]) -> None:
    base, said = whole
    manifest = json.loads((base / "work" / "clips" / "clips.json").read_text())
    assert {row["file"] for row in manifest["windows"]} == {f"person{seed}.mp4" for seed in PEOPLE}
    assert all(row["prompt"] == SAID and len(row["sha256"]) == 64 and "sync" in row for row in manifest["windows"])
    assert set(manifest["shapes"]) == set(cache_module.FEATURES) and manifest["versions"]
    student, teacher = Checkpoint.open(base / "student"), Checkpoint.open(folders["flash"])
    passport = student.passport
    assert passport is not None and passport.allowed == (1, 2) and passport.tasks == ("i2v+a2v",)
    assert student.config().flow_map and not teacher.config().flow_map and teacher.passport is None
    for name in ("vae", "clip", "wav2vec2", "text_encoder", "tiny_vae"):
        assert [path.resolve() for path in student.paths[name]] == [path.resolve() for path in teacher.paths[name]]  # type: ignore[index]
    assert any("Forecast of memory" in line for line in said) and any(" of 3 steps" in line for line in said)


def test_a_students_folder_plays_as_it_was_taught(whole: tuple[Path, list[str]], pack: Path) -> None:
    from echoedge.runtime.play.prompts import read_prompts

    base, _ = whole
    sizes = playable_sizes("flash")
    sizes = replace(sizes, transformer=replace(sizes.transformer, flow_map=True))
    prompts = read_prompts(pack, sizes.transformer.text_dim)
    portrait = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    voice = (0.1 * np.random.default_rng(0).standard_normal(9 * 640)).astype(np.float32)
    played = Reference(Checkpoint.open(base / "student"), CLIP, Settings(steps=2), sizes, prompts)
    frames = list(played.frames(portrait, voice, SAID))
    assert len(frames) == 9 and played.evaluations == 2
    for wrong, said in (
        ({"steps": 3}, "takes 1 or 2 steps, not 3"), ({"audio_guidance": 1.0}, "was taught"),
        ({"solver": "unipc"}, "Euler's steps"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            Reference(Checkpoint.open(base / "student"), CLIP, Settings(**wrong), sizes, prompts)  # type: ignore[arg-type]


def test_lessons_are_what_the_reference_plays(whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path) -> None:
    """The last state is what `animate --checkpoint` makes of the window's portrait and voice; another noise makes others."""
    from echoedge.runtime.play.pictures import to_signed
    from echoedge.runtime.play.prompts import read_prompts

    base, _ = whole
    wanted, sizes = asked(folders["flash"], videos, pack), playable_sizes("flash")
    drawn = shelved(base, wanted)
    cuts = cut_folder(videos, base / "work" / "cuts", CLIP, LOOSE)
    prompts = read_prompts(pack, sizes.transformer.text_dim)
    played = Reference(Checkpoint.open(folders["flash"]), CLIP, Settings(steps=4), sizes, prompts)
    for lesson in (0, 3):
        window = lesson // FEW.noises
        portrait, voice = to_signed(cuts[0].portraits[window]), cuts[0].voices[window]
        made = played.player.generate(portrait, voice, SAID, FIRST_NOISE + lesson)
        states = drawn.states(lesson).astype(np.float32)
        assert np.abs(states[0] - noise(FIRST_NOISE + lesson, states[0].shape)).max() < 2e-3
        scale = np.abs(made.latents).max()
        assert np.abs(states[-1] - made.latents).max() < 5e-3 * scale  # features and states are in half precision
        other = played.player.generate(portrait, voice, SAID, FIRST_NOISE + lesson + 1)
        assert np.abs(states[-1] - other.latents).max() > 5e-2 * scale


@torch.no_grad()
def test_an_untaught_student_opens_as_its_teachers_branch(
    whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path, tmp_path: Path
) -> None:
    base, _ = whole
    teacher = Checkpoint.open(folders["flash"])
    config = playable_sizes("flash").transformer
    dit = load_transformer(teacher, torch.float32, config=config)
    passport = passport_of_options("ab" * 32, plan_options("flash", Settings(steps=4)), (1, 2))
    write_student(tmp_path / "student", teacher, student_of(dit), passport, copy=True)
    opened = Checkpoint.open(tmp_path / "student")
    assert opened.passport == passport and not any(path.is_symlink() for path in (tmp_path / "student").rglob("*"))
    again = load_transformer(opened, torch.float32, config=replace(config, flow_map=True))
    batch = shelved(base, asked(folders["flash"], videos, pack)).batch(np.array([0, 3]))
    latents, level = batch["states"][:, 0].float(), torch.full((2,), 0.9)
    found = Student(again)(latents, level, level - 0.5, torch.ones(2, 3, 3), batch)
    from echoedge.core.sampling.inputs import frame_windows

    wanted = dit(latents, 900 * torch.ones(2), batch["y"], batch["text"], batch["image"], frame_windows(batch["audio"]))
    assert torch.allclose(found, wanted, atol=1e-6)
    taught = load_transformer(Checkpoint.open(base / "student"), torch.float32, config=replace(config, flow_map=True))
    assert not torch.allclose(Student(taught)(latents, level, level - 0.5, torch.ones(2, 3, 3), batch), wanted, atol=1e-5)
    with pytest.raises(OutputError, match="exists"):
        write_student(tmp_path / "student", teacher, student_of(dit), passport)


def test_preview_is_taught_its_two_guidances(folders: Any, videos: Path, pack: Path, tmp_path: Path) -> None:
    sizes = playable_sizes("preview")
    assert sizes.transformer.text_dim == playable_sizes("flash").transformer.text_dim
    distilled(asked(folders["preview"], videos, pack), tmp_path, "preview")
    passport = Checkpoint.open(tmp_path / "student").passport
    assert passport is not None and (passport.text_guidance, passport.audio_guidance) == (4.0, 2.9)
    plan = build_plan(student_options(passport, 2, plan_options("preview", Settings())))
    assert len(plan.branches) == 1 and plan.evaluations == 2


# ---- killed, changed, refused ----------------------------------------------------------------------------------------------------


def test_a_killed_run_gives_the_same_bytes(
    whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the encoding, in the lessons and in training; each run goes on with what was finished."""
    base, wanted = whole[0], asked(folders["flash"], videos, pack)
    from echoedge.quantize.distill import training as trainer

    for module, name, at in ((cache_module, "_encoded", 1), (lessons_module, "trajectory", 6), (trainer, "_segments", 3)):
        original, calls = getattr(module, name), list[int]()

        def killed(*args: Any, original: Any = original, calls: list[int] = calls, at: int = at) -> Any:
            calls.append(1)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(*args)

        monkeypatch.setattr(module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            distilled(wanted, tmp_path)
        monkeypatch.setattr(module, name, original)
        assert len(calls) == at
    distilled(wanted, tmp_path)
    files = sorted(path.relative_to(base) for path in base.rglob("*.safetensors") if not path.is_symlink())
    assert len(files) > 5
    for file in files:
        assert (base / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_work_of_other_weights_videos_or_options_is_refused(
    whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path, tmp_path: Path
) -> None:
    base, _ = whole
    wanted = asked(folders["flash"], videos, pack)
    other = tmp_path / "other"
    write_random_checkpoint(other, "flash", ["vae", "transformer", "clip", "wav2vec2"], 5, torch.float32,
                            architecture=playable_sizes("flash"))  # fmt: skip
    out = {"force": True}
    with pytest.raises(ConfigError, match="holds clips of other encoders"):
        distilled(replace(wanted, folder=other), base, **out)
    with pytest.raises(ConfigError, match="holds clips of other windows"):
        distilled(replace(wanted, checks=replace(LOOSE, most_per_file=1)), base, **out)
    with pytest.raises(ConfigError, match="holds lessons of another teacher, plan or mixture, or of other clips"):
        distilled(replace(wanted, teacher_steps=5), base, **out)
    with pytest.raises(ConfigError, match="belongs to a run with rate 0.001, not 0.01"):
        distilled(replace(wanted, training=replace(SHORT, rate=0.01)), base, **out)
    with pytest.raises(OutputError, match="exists"):
        distilled(wanted, base)
    with pytest.raises(ConfigError, match="holds a student. Give its teacher's folder"):
        distilled(replace(wanted, folder=base / "student"), tmp_path)


def test_the_command_teaches_a_student(
    whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clips, features and lessons that are there; the options are those that they were made with."""
    monkeypatch.setattr(run_module, "Architecture", lambda _: playable_sizes("flash"))
    work, out = tmp_path / "work", tmp_path / "student"
    shutil.copytree(whole[0] / "work", work, ignore=shutil.ignore_patterns("student.*", "held-back.json", ".lock"))
    words = ("--checkpoint", folders["flash"], "--data", videos, "--prompts", pack, "--workdir", work, "--out", out)
    made_with = ("--teacher-steps", 4, "--noises", 2, "--least-sync", 0, "--least-speech", 0.1, "--size", "32x32", "--frames", 9)
    taught = ("--student-steps", "1,2", "--steps", 2, "--batch", 2, "--rate", 1e-3, "--threads", 1)
    ended = run("distill", "checkpoint", *words, *made_with, *taught)
    assert ended.status == 0, ended
    assert "Forecast of memory" in ended.out and "2 of 2 steps" in ended.out and "is ready" in ended.out
    passport = Checkpoint.open(out).passport
    assert passport is not None and passport.allowed == (1, 2)
    assert "exists" in complaint(run("distill", "checkpoint", *words, *made_with, *taught))
    ended = run("distill", "checkpoint", *words, *made_with[2:], *taught, "--force")  # a teacher of as many steps as usual
    assert ended.status != 0 and "holds lessons of another teacher, plan or mixture" in " ".join(ended.err.split())


def test_what_cannot_be_taught_is_refused_first(folders: Any, videos: Path, pack: Path, tmp_path: Path) -> None:
    wanted = asked(folders["flash"], videos, pack)
    with pytest.raises(ConfigError, match="A student of 4 steps cannot go by 5 noise levels"):
        distilled(replace(wanted, lessons=ClipLessons(2, (4,)), training=replace(SHORT, mix=((4, 1.0),))), tmp_path)
    with pytest.raises(ConfigError, match="lessons are for"):
        replace(wanted, lessons=ClipLessons(2, (1, 2, 4)))
    lone = tmp_path / "lone"
    lone.mkdir()
    film(lone / "a.mp4", 15, 9)
    with pytest.raises(InputError, match="One window can be learnt from, and one has to be held back"):
        distilled(replace(wanted, data=lone), tmp_path)
    (lone / "a.txt").write_text("a man sings")
    with pytest.raises(InputError, match="asks for the prompt 'a man sings', which the pack does not hold"):
        distilled(replace(wanted, data=lone), tmp_path)
    bare = tmp_path / "bare"
    write_random_checkpoint(bare, "flash", ["transformer"], 5, torch.float32, architecture=playable_sizes("flash"))
    with pytest.raises(CheckpointError, match="has no vae"):
        distilled(replace(wanted, folder=bare), tmp_path)
    assert (held_back(2, 4), held_back(64, 2), held_back(640, 2), held_back(100, 50)) == (4, 8 * 2 // 2, 8, 50)


def test_a_machine_that_is_too_small_is_told_before_anything_is_read(
    folders: Any, videos: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000_000)
    with pytest.raises(ResourceError, match="of memory is needed for features of this student, and 100 MB is available"):
        distilled(asked(folders["flash"], videos, pack), tmp_path)
    assert not (tmp_path / "work").exists()


# ---- two processes ---------------------------------------------------------------------------------------------------------------

STEPS = 20
TOLERANCE = 1e-5  # relative; 1.6e-7 measured, of losses that fall from 3.0 to 0.93


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    whole: tuple[Path, list[str]], folders: Any, videos: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same 20 steps in this process and under torchrun, on the same lessons."""
    for name in ("alone", "pair"):
        shutil.copytree(whole[0] / "work", tmp_path / name / "work", ignore=shutil.ignore_patterns("student.*"))
    one, mean = list[float](), World.mean
    monkeypatch.setattr(World, "mean", lambda own, value: one.append(mean(own, value)) or one[-1])
    distilled(replace(asked(folders["flash"], videos, pack), training=replace(SHORT, steps=STEPS)), tmp_path / "alone")
    worker = str(Path(__file__).with_name("distill_worker.py"))
    paths = [str(Path(echoedge.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", worker]
    given = [str(tmp_path / "pair"), str(folders["flash"]), str(videos), str(pack), str(STEPS)]
    ended = subprocess.run([*command, *given], capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr[-4000:]
    two = [float(line) for line in (tmp_path / "pair" / "losses").read_text().split()]
    assert len(one) == len(two) == STEPS
    assert max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True)) < TOLERANCE
    assert max(abs(a - b) / abs(a) for a, b in zip(one[1:], two[:-1], strict=True)) > 100 * TOLERANCE  # steps differ


def test_an_export_takes_the_steps_that_were_taught(whole: tuple[Path, list[str]]) -> None:
    from echoedge.runtime.export.request import checkpoint_request

    base, said = whole[0], list[str]()
    request = checkpoint_request(base / "student", "flash", "int8", clips=(CLIP,), warn=said.append)
    assert request.student is not None and request.plan.steps == 2 and len(request.plan.branches) == 1
    assert request.source.config.flow_map
    request.student.require_plan(request.plan)
    with pytest.raises(ConfigError, match="takes 1 or 2 steps, not 8"):
        checkpoint_request(base / "student", "flash", "int8", clips=(CLIP,), steps=8, warn=said.append)
