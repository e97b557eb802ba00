"""core/sampling/hearing.py: a voice heard in parts is the voice heard at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from echoedge.core.bundle import Hearing
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import BundleError
from echoedge.core.model.pretrained_speech import SpeechEncoder, SpeechEncoderConfig
from echoedge.core.model.programs import audio_encoder_program, hearing_for
from echoedge.core.sampling.hearing import hear, lengthened, lower_factor, moments, normalised, readings, window_inputs
from echoedge.core.train.speech import synthesise

from .tiny import randomised, tiny_config

CLIP = ClipSpec(height=32, width=32, frames=9)
PER_FRAME = CLIP.samples_per_frame
SPEECH = SpeechEncoderConfig(
    dim=24, layers=2, heads=3, ffn_dim=32, conv_dims=(8,) * 7, position_kernel=8, position_groups=4
)  # fmt: skip


def voice(frames: int, seed: int = 3) -> np.ndarray:
    """Speech of the project's own, with a pause of ten frames in the middle at -60 dBFS."""
    speech = np.resize(synthesise(seed, 8.0).waveform, frames * PER_FRAME).astype(np.float32)
    start = frames // 2 * PER_FRAME
    speech[start : start + 10 * PER_FRAME] = 1e-3 * np.random.default_rng(0).standard_normal(10 * PER_FRAME)
    return speech


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return randomised(SpeechEncoder(SPEECH))


@torch.no_grad()
def at_once(encoder: SpeechEncoder, variant: Variant, speech: np.ndarray, frames: int) -> np.ndarray:
    """As the model itself hears a whole voice: preview with a frame of silence behind it."""
    if variant == "flash":
        return encoder.per_frame(torch.from_numpy(speech)[None], frames)[0].numpy()
    longer = torch.from_numpy(lengthened(speech, (frames + 1) * PER_FRAME))[None]
    return encoder.per_token(longer)[0, : 2 * frames].numpy()


def in_parts(
    encoder: SpeechEncoder, variant: Variant, speech: np.ndarray, frames: int, context: int, hearing: Hearing | None = None
) -> tuple[np.ndarray, int]:
    """As a player hears it with the program, and how often the program ran."""
    program = audio_encoder_program(encoder, CLIP, variant, context)["forward"]
    hearing = hearing or hearing_for(tiny_config(variant), SPEECH, context)
    calls = 0

    def run(inputs: Sequence[np.ndarray]) -> Any:
        nonlocal calls
        calls += 1
        return program.run(*(torch.from_numpy(value) for value in inputs))[0][0].numpy()

    return hear(speech, frames, PER_FRAME, program.inputs["waveform"].shape[1], hearing, run), calls


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


# ---- the whole way ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 9, 24, 25])
@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_voice_that_fits_into_one_reading_is_heard_exactly(encoder: SpeechEncoder, variant: Variant, frames: int) -> None:
    speech, rows = voice(40)[: frames * PER_FRAME], frames * (1 if variant == "flash" else 2)
    features, calls = in_parts(encoder, variant, speech, frames, context=9)
    expected = at_once(encoder, variant, speech, frames)
    assert calls == 1
    assert features.shape == expected.shape
    assert len(features) == rows
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4 * np.abs(expected).max())  # measured: 1e-6


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_long_voice_is_heard_nearly_as_at_once(encoder: SpeechEncoder, variant: Variant) -> None:
    """Random weights attend to everything alike. Measured: 0.984 and 0.991 with 1 s of context, 0.54 and 0.77 with none."""
    speech = voice(300)
    expected = at_once(encoder, variant, speech, 300)
    features, calls = in_parts(encoder, variant, speech, 300, context=25)
    assert calls > 20
    assert lowest_cosine(features, expected) > 0.96
    less, _ = in_parts(encoder, variant, speech, 300, context=1)
    assert lowest_cosine(less, expected) < 0.9


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_part_that_is_normalised_alone_hears_a_pause_as_speech(encoder: SpeechEncoder, variant: Variant) -> None:
    speech = voice(300)
    program = audio_encoder_program(encoder, CLIP, variant)["forward"]
    assert "moments" in program.inputs
    pause, rows = speech[151 * PER_FRAME : 160 * PER_FRAME], 1 if variant == "flash" else 2
    expected = at_once(encoder, variant, speech, 300)[151 * rows : 160 * rows]
    assert lowest_cosine(at_once(encoder, variant, pause, 9), expected) < 0.9


def test_silence_behind_the_voice_does_not_change_its_level() -> None:
    """A voice that is shorter than a window: the recording's mean and variance are those of what was recorded."""
    short = voice(40)[: 5 * PER_FRAME]
    seen: list[np.ndarray] = []

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        seen.append(inputs[0])
        return np.zeros((9, 1), np.float32)

    hear(short, 9, PER_FRAME, 9 * PER_FRAME, Hearing(window=(10, 5)), run)
    assert seen[0][0, : 5 * PER_FRAME].std() == pytest.approx(1, abs=1e-5)
    assert np.ptp(seen[0][0, 5 * PER_FRAME :]) == 0


# ---- statistics ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["noise", "speech", "tone", "constant"])
def test_moments_give_the_mean_and_variance_of_every_kernel(kind: str) -> None:
    count = np.arange(16000)
    sounds = {
        "noise": np.random.default_rng(0).standard_normal(16000), "speech": voice(25), "tone": np.sin(count / 50),
        "constant": np.full(16000, 0.3),
    }  # fmt: skip
    sound = normalised(sounds[kind].astype(np.float32), 16000)
    kernels = nn.Conv1d(1, 12, 10, 5, bias=False).double()
    with torch.no_grad():
        outputs = kernels(torch.from_numpy(sound).double()[None, None])[0].numpy()  # [12, rows]
    found, weight = moments(sound, 10, 5)[0].astype(np.float64), kernels.weight.detach().numpy()[:, 0]
    np.testing.assert_allclose(weight @ found[0], outputs.mean(1), atol=1e-6)
    np.testing.assert_allclose(((weight @ found[1:].T) ** 2).sum(1), outputs.var(1), rtol=1e-4, atol=1e-7)
    if kind == "speech":  # a part of it has other statistics
        part = moments(sound[:1600], 10, 5)[0].astype(np.float64)
        assert np.abs(((weight @ part[1:].T) ** 2).sum(1) / outputs.var(1) - 1).max() > 0.1


def test_a_triangular_factor_is_cholesky_s() -> None:
    rows = np.random.default_rng(1).standard_normal((10, 10))
    np.testing.assert_allclose(lower_factor(rows @ rows.T), np.linalg.cholesky(rows @ rows.T), rtol=1e-9)
    flat = rows[:, :3] @ rows[:, :3].T  # of rank 3: Cholesky's own stops
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(flat - 1e-9 * np.eye(10))
    factor = lower_factor(flat)
    np.testing.assert_allclose(factor @ factor.T, flat, atol=1e-9)
    assert not lower_factor(np.zeros((4, 4))).any()


# ---- readings --------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(0, 30), st.integers(0, 1), st.integers(1, 40), st.integers(1, 2))
def test_readings_keep_every_frame_once_with_its_context(frames: int, context: int, tail: int, core: int, rows: int) -> None:
    hearing = Hearing(context_frames=context, tail_frames=tail, rows_per_frame=rows)
    reach = core + context + max(context, tail)
    found, total = list(readings(frames, reach, hearing)), frames + tail
    assert [frame for reading in found for frame in range(reading.first, reading.last)] == list(range(frames))
    for reading in found:
        assert reading.end - reading.start == reach
        assert reading.start >= 0
        assert reading.first - reading.start >= min(context, reading.first)
        assert reading.end >= min(reading.last + context, total)


def test_a_program_that_reads_no_more_than_context_is_refused() -> None:
    with pytest.raises(BundleError, match="reads 20 frames at once, 10 of them as context on either side: nothing is left"):
        list(readings(50, 20, Hearing(context_frames=10)))
    assert list(readings(50, 21, Hearing(context_frames=10)))


# ---- windows ---------------------------------------------------------------------------------------------------------------------


def test_a_window_of_preview_hears_three_frames_more_as_far_as_they_go() -> None:
    hearing, rows = Hearing.of(tiny_config("preview")), np.ones((18, 4), np.float32)
    audio, there = window_inputs(rows, hearing, 3)  # 9 frames, and 3 more that the clip does not have
    assert audio.shape == (1, 24, 4)
    assert there[0].tolist() == [1.0] * 18 + [0.0] * 6
    assert not audio[0, 18:].any()
    audio, there = window_inputs(rows, hearing, None)
    assert audio.shape == (1, 18, 4)
    assert there.all()
    (alone,) = window_inputs(rows, Hearing.of(tiny_config("flash")), 3)
    assert alone.shape == (1, 18, 4)
