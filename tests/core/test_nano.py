"""core/weights/nano.py: the weights that ship load strictly, files that are not theirs are refused, and what ships is good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echoedge.core.config import NANO
from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.files import file_sha256
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import Model
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.train.evaluate import ClipMetrics, VAEMetrics, held_out, score_clips, score_vae
from echoedge.core.train.generate import generate
from echoedge.core.train.puppets import HELD_OUT_SEED, draw_clip
from echoedge.core.train.speech import espeak, espeak_available
from echoedge.core.weights.nano import (
    STUDENT_STEPS,
    assets,
    load_nano,
    nano_digest,
    read_passport,
    save_nano,
    student_path,
    weights_path,
)
from echoedge.core.weights.passport import STUDENT
from echoedge.quantize.distill.run import student_options

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_nano()


@pytest.fixture(scope="module")
def shipped() -> Tensors:
    return load_file(weights_path())


# ---- the file --------------------------------------------------------------------------------------------------------------------


def test_the_weights_are_small_enough_to_ship() -> None:
    assert weights_path().stat().st_size < 16_000_000


def test_the_weights_lie_in_the_package() -> None:
    assert weights_path().is_relative_to(assets())
    assert nano_digest() == file_sha256(weights_path())


def test_the_weights_are_finite_halves(shipped: Tensors) -> None:
    assert {tensor.dtype for tensor in shipped.values()} == {torch.float16}
    assert all(bool(tensor.isfinite().all()) for tensor in shipped.values())


# ---- loading ---------------------------------------------------------------------------------------------------------------------


def test_the_model_holds_exactly_the_files_values(nano: Model, shipped: Tensors) -> None:
    assert nano.encoders is not None
    for prefix, module in (("dit", nano.dit), ("vae", nano.vae), ("encoders", nano.encoders)):
        for name, value in module.state_dict().items():
            assert torch.equal(value, shipped.pop(f"{prefix}.{name}").float()), name
    assert not shipped


def test_the_model_is_ready_to_run_and_not_to_train(nano: Model) -> None:
    assert nano.config == NANO
    for module in (nano.dit, nano.vae, nano.encoders):
        assert module is not None
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_what_is_saved_is_loaded(nano: Model, tmp_path: Path) -> None:
    assert nano.encoders is not None
    save_nano(tmp_path / "new" / "copy.safetensors", nano.dit, nano.vae, nano.encoders)
    assert (tmp_path / "new" / "copy.safetensors").stat().st_size < 16_000_000
    again = load_nano(path=tmp_path / "new" / "copy.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(nano.dit.state_dict().values(), again.dit.state_dict().values(), strict=True))


def without(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != "dit.head.head.bias"}


def with_more(tensors: Tensors) -> Tensors:
    return tensors | {"dit.blocks.99.modulation": torch.zeros(1, 6, 192)}


def renamed(tensors: Tensors) -> Tensors:
    return without(tensors) | {"dit.head.bias": tensors["dit.head.head.bias"]}


def misshapen(tensors: Tensors) -> Tensors:
    return tensors | {"dit.head.head.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without, r"1 tensors are missing \(dit\.head\.head\.bias\), 0 are unknown"),
        (with_more, r"0 tensors are missing .*1 are unknown \(dit\.blocks\.99\.modulation\)"),
        (renamed, r"1 tensors are missing \(dit\.head\.head\.bias\), 1 are unknown \(dit\.head\.bias\)"),
        (misshapen, r"head\.head\.bias"),
        (lambda _: {}, r"tensors are missing \("),
    ],
)
def test_other_tensors_are_refused_by_name(change: Callable[[Tensors], Tensors], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(change(load_file(weights_path())), path)
    with pytest.raises(CheckpointError, match=rf"(?s)other\.safetensors.*{complaint}"):
        load_nano(path=path)


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(CheckpointError, match="nano"):
        load_nano(replace(NANO, layers=NANO.layers + 1))


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 14441230\n"])
def test_a_file_that_cannot_be_read_is_refused_with_the_remedy(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "nano.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"nano\.safetensors cannot be read .*echoedge train nano"):
        load_nano(path=path)


# ---- what ships is good: these judge the trained weights, on heads and voices that training never saw ----------------------------


@pytest.fixture(scope="module")
def reconstruction(nano: Model) -> VAEMetrics:
    return score_vae(nano.vae, held_out(32))[0]


@pytest.fixture(scope="module")
def generation(nano: Model) -> ClipMetrics:
    clips = held_out(24)
    return score_clips(generate(nano, clips, build_plan(PLAN_PRESETS["nano"])), clips)


def test_shipped_nano_rebuilds_clips_and_their_mouths(reconstruction: VAEMetrics) -> None:
    assert reconstruction.psnr_db >= 30
    assert reconstruction.mouth_psnr_db >= 27
    assert reconstruction.mouth_correlation >= 0.9


def test_shipped_nano_speaks_in_step_with_the_voice(generation: ClipMetrics, reconstruction: VAEMetrics) -> None:
    assert generation.lipsync >= max(0.85, 0.93 * reconstruction.lipsync)
    assert generation.mouth_amplitude_share >= 0.8


def test_shipped_nano_is_out_of_step_with_other_voices(generation: ClipMetrics) -> None:
    assert abs(generation.lipsync_shuffled) < 0.15


@pytest.mark.skipif(not espeak_available(), reason="espeak-ng is not installed")
def test_shipped_nano_follows_a_voice_that_training_never_heard(nano: Model) -> None:
    speech = espeak("Please tell me when the next train leaves for the city.", "en-us", words_per_minute=130).waveform
    parts = [speech[start : start + 16_000] for start in range(0, len(speech) - 16_000, 8_000)]
    clips = [draw_clip(HELD_OUT_SEED + 5000 + i, waveform=part) for i, part in enumerate(parts)]
    assert len(clips) >= 5
    assert score_clips(generate(nano, clips, build_plan(PLAN_PRESETS["nano"])), clips).lipsync >= 0.7


# ---- the student that ships ------------------------------------------------------------------------------------------------------


def test_a_students_file_leaves_out_what_is_its_teachers(nano: Model, tmp_path: Path) -> None:
    student, passport, path = load_nano(path=student_path()), read_passport(student_path()), tmp_path / "student.safetensors"
    assert passport is not None and passport.teacher == nano_digest() and STUDENT_STEPS in passport.allowed
    assert student.config == replace(NANO, flow_map=True) and nano.encoders is not None and student.encoders is not None
    for ours, theirs in ((student.vae, nano.vae), (student.encoders, nano.encoders)):
        assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    for small, most in ((False, 10_000_000), (True, 5_000_000)):
        save_nano(path, student.dit, nano.vae, nano.encoders, passport, small=small)
        assert all(name.startswith("dit.") for name in load_file(path)) and most / 2 < path.stat().st_size < most
        again = load_nano(path=path).dit.state_dict()
        assert all(torch.allclose(value, again[name], atol=2e-3) for name, value in student.dit.state_dict().items())
    assert student_path().stat().st_size < 5_000_000
    with pytest.raises(ConfigError, match="Only a student of the teacher that ships"):
        save_nano(path, student.dit, nano.vae, nano.encoders, passport.model_copy(update={"teacher": "0" * 64}), small=True)
    save_nano(path, student.dit, nano.vae, nano.encoders, passport.model_copy(update={"teacher": "0" * 64}))
    assert {name.partition(".")[0] for name in load_file(path)} == {"dit", "vae", "encoders"}
    stranger = {STUDENT: passport.model_copy(update={"teacher": "0" * 64}).model_dump_json()}
    save_file(load_file(student_path()), path, stranger)
    with pytest.raises(CheckpointError, match=r"its teacher \(000000000000…\) is not the one that ships .*echoedge distill nano"):
        load_nano(path=path)


def test_shipped_student_ends_where_its_teacher_does(nano: Model) -> None:
    """As few steps of the teacher do not."""
    clips, passport = held_out(4, 5000), read_passport(student_path())
    assert passport is not None
    few = student_options(passport, STUDENT_STEPS)
    wanted = generate(nano, clips, build_plan(PLAN_PRESETS["nano"]))
    student = generate(load_nano(path=student_path()), clips, build_plan(few))
    untaught = generate(nano, clips, build_plan(replace(PLAN_PRESETS["nano"], steps=STUDENT_STEPS)))
    near, far = (np.mean([psnr(a, b, 255.0) for a, b in zip(wanted, made, strict=True)]) for made in (student, untaught))
    assert near > 39 and far < 36
