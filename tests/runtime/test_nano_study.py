"""runtime/studies/nano_study.py: figures come from the weights named, kept for them alone, and every part is really turned off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from echoedge.core.errors import ConfigError
from echoedge.core.metrics.seams import seam_jump
from echoedge.core.plan import WindowRule
from echoedge.core.plan.samplers import build_plan
from echoedge.core.train.evaluate import held_out
from echoedge.core.train.generate import sample
from echoedge.core.train.speech import espeak_available
from echoedge.core.weights.nano import load_nano, weights_path
from echoedge.runtime.studies import nano_study as module
from echoedge.runtime.studies.nano_study import PLAN, Study, run_study, seams_of

CLIPS = 2


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same sections on few clips."""
    for name, value in {
        "SEEDS": (0,), "PLAN": replace(PLAN, steps=3), "TEST_CLIPS": CLIPS, "CHOICE_CLIPS": CLIPS, "VAE_SETS": (5000,),
        "SHEET_CLIPS": 1, "LONG_SECONDS": 3, "LONG_CLIPS": 1, "SILENT_CLIPS": 1, "SILENT_SECONDS": (1.0, 2.0, 1.0),
        "BACKGROUNDS": {"silence": None}, "MEMORY_SECONDS": (1,), "GUIDANCE_SCALES": (1.0,), "VOICES": ("en-us",),
        "SENTENCES": ("One two three four.",), "PHASE_CANDIDATES": {"deaf": module.PhaseWeights(((1.0, (1.0, 1.0, 0.0)),))},
    }.items():  # fmt: skip
        monkeypatch.setattr(module, name, value)
    return


def studied(folder: Path, *only: str, weights: Path | None = None, **without: Path) -> dict[str, module.Record]:
    return run_study(Study(weights or weights_path(), folder, without, lambda _: None), only)


def test_figures_are_kept_for_the_weights_they_belong_to(tmp_path: Path) -> None:
    first = studied(tmp_path, "vae")["vae"]
    assert first["mean"]["clips"] == CLIPS
    path = tmp_path / "vae.json"
    assert json.loads(path.read_text()) == first
    path.write_text(json.dumps(first | {"mark": 1}))
    assert "mark" in studied(tmp_path, "vae")["vae"]  # not measured again
    other = {name: value * 0.9 if name.startswith("vae.decoder") else value for name, value in load_file(weights_path()).items()}
    save_file(other, tmp_path / "other.safetensors")
    second = studied(tmp_path, "vae", weights=tmp_path / "other.safetensors")["vae"]
    assert "mark" not in second
    assert second["mean"]["psnr_db"] < first["mean"]["psnr_db"] - 1
    assert (tmp_path / "vae.png").stat().st_size > 10_000


def test_every_task_has_its_figures_its_control_and_its_sheet(tmp_path: Path) -> None:
    record = studied(tmp_path, "tasks")["tasks"]
    tasks, unaided = record["tasks"], record["portrait_and_speech_alone"]
    assert list(tasks) == ["T2V", "I2V", "FLF2V", "lip-sync", "A2V"]
    figures = {name: task["metrics"] for name, task in tasks.items()}
    assert figures["lip-sync"]["outside_mouth_psnr_db"]["mean"] > unaided["outside_mouth_psnr_db"]["mean"] + 2
    assert figures["FLF2V"]["last_frame_psnr_db"]["mean"] > unaided["last_frame_psnr_db"]["mean"] + 0.5
    assert tasks["A2V"]["control"]["lipsync"]["mean"] < figures["A2V"]["lipsync"]["mean"] - 0.3
    assert all((tmp_path / f"{name}.png").exists() for name in ("t2v", "i2v", "flf2v", "lipsync", "a2v"))


def test_a_schedule_that_turns_the_voice_off_is_seen(tmp_path: Path) -> None:
    record = studied(tmp_path, "choices")["choices"]
    assert record["phases"]["deaf"]["lipsync"]["mean"] < record["phases"]["uniform"]["lipsync"]["mean"] - 0.3
    assert record["phases_minus_uniform"]["deaf"]["lipsync"]["difference"] < -0.3


def test_a_run_that_lacked_a_part_is_compared_with_its_own_weights(tmp_path: Path) -> None:
    deaf = load_file(weights_path())
    deaf |= {name: torch.zeros_like(value) for name, value in deaf.items() if name.startswith("encoders.audio.mlp.2")}
    save_file(deaf, tmp_path / "deaf.safetensors")
    record = studied(tmp_path, "parts", ndpo=tmp_path / "deaf.safetensors", captions=weights_path())["parts"]["switches"]
    found, same = record["preference steps (NDPO)"], record["captioned negatives"]
    assert found["off"]["lipsync"]["mean"] < found["on"]["lipsync"]["mean"] - 0.3
    assert found["on"]["margin, another voice"]["mean"] > found["off"]["margin, another voice"]["mean"]
    assert all(row["difference"] == 0.0 for row in same["off_minus_on"].values() if row["difference"] is not None)


def test_long_clips_are_played_both_ways(tmp_path: Path) -> None:
    record = studied(tmp_path, "long")["long"]
    guided, cut = record["long video guidance"], record["hard cuts"]
    assert (guided["window"]["overlap"], cut["window"]["overlap"]) == (3, 0)
    assert guided["mean"]["seam_jump"] != cut["mean"]["seam_jump"]
    assert guided["background_psnr_first_s_db"] != cut["background_psnr_first_s_db"]


@pytest.mark.parametrize(
    ("rule", "latents"),
    [
        (WindowRule(length=7, overlap=3), [5, 6, 9, 10, 13, 14]), (WindowRule(length=7, overlap=0), [7, 13]),
        (WindowRule(length=7, overlap=1), [7, 13]),
    ],
)  # fmt: skip
def test_seams_are_where_the_shares_change(rule: WindowRule, latents: list[int]) -> None:
    frames = 4 * (19 - 1) + 1
    seams = seams_of(frames, rule)
    assert seams == [4 * (latent - 1) + 1 for latent in latents]
    leaping, level = np.zeros((frames, 4, 4, 3), np.uint8), 0
    for frame in range(frames):
        level += 40 * (frame in seams)
        leaping[frame] = level % 250
    assert seam_jump(leaping, seams) > 100
    assert seam_jump(leaping, [seam - 2 for seam in seams]) < 1


def test_memory_is_that_of_the_process_and_not_of_its_parent() -> None:
    held = np.ones(120_000_000, np.int64)  # 960 MB that the process to be measured does not have
    assert module._peak_of(weights_path(), 1) < held.nbytes / 2**20
    del held


def test_a_voice_under_the_silence_is_seen_and_a_silence_is_not(tmp_path: Path) -> None:
    found = studied(tmp_path, "silence")["silence"]
    quiet, chatter = found["backgrounds"]["silence"]["mean"], found["backgrounds"][module.CHATTER]["mean"]
    assert quiet["opening"] < 0.1 < 0.4 < chatter["opening"]
    assert quiet["motion"] < 0.3 < chatter["motion"]
    assert found["drawn"]["opening"] < 0.05
    assert (tmp_path / "silence.png").stat().st_size > 10_000


@pytest.mark.skipif(not espeak_available(), reason="espeak-ng is not installed")
def test_a_voice_from_another_synthesiser_is_followed(tmp_path: Path) -> None:
    record = studied(tmp_path, "voice")["voice"]
    assert record["generated"] > 0.5
    assert record["drawn"] <= 1.0


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no section or part 'vea'"):
        studied(tmp_path, "vea")
    with pytest.raises(ConfigError, match="no section or part 'nothing'"):
        studied(tmp_path, "vae", nothing=weights_path())


# ---- what `sample` gives the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "ignored", "heeded"),
    [("t2v", ("portrait", "voice"), ()), ("i2v", ("voice",), ("portrait",)), ("a2v", ("portrait",), ("voice",)),
     ("i2v+a2v", (), ("portrait", "voice"))],
)  # fmt: skip
def test_a_task_sees_what_it_gives_and_nothing_else(task: str, ignored: tuple[str, ...], heeded: tuple[str, ...]) -> None:
    model, clips, plan = load_nano(), held_out(2), build_plan(replace(PLAN, steps=2))
    made = sample(model, clips[:1], plan, task=task)
    changed = {
        "portrait": replace(clips[0], frames=clips[1].frames), "voice": replace(clips[0], waveform=clips[1].waveform)
    }  # fmt: skip
    for name, clip in changed.items():
        difference = np.abs(sample(model, [clip], plan, task=task) - made).max()
        assert (difference == 0) if name in ignored else (difference > 1e-3), name
    assert set(ignored) | set(heeded) == set(changed)
