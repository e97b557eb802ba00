"""core/model/encoders.py: log-mel energies against numpy's FFT, chunks against the whole, bytes of any language."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import get_window

from echoedge.core.config import NANO, NANO_CLIP
from echoedge.core.model.encoders import LogMel, NanoAudioEncoder, NanoEncoders, NanoImageEncoder, NanoTextEncoder
from echoedge.core.sampling.inputs import PAD_ID

from .tensors import byte_ids
from .tiny import randomised

RATE, BANDS, HOP = 16000, 32, 160


def waveform(samples: int, batch: int = 1) -> torch.Tensor:
    """Noise of a loudness that rises and falls, about -20 dB."""
    noise = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    return 0.1 * noise * (0.1 + torch.sin(torch.arange(samples) / 900).abs())


# ---- speech ----------------------------------------------------------------------------------------------------------------------


def mel(frequency: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + frequency / 700)


def log_mel(signal: np.ndarray) -> np.ndarray:
    """[(n+1)·hop] -> [n, bands] in float64: FFT power under triangles in mel from 60 Hz to half the rate."""
    window = get_window("hann", 2 * HOP, fftbins=True)
    windows = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), 2 * HOP)[::HOP] * window
    power = abs(np.fft.rfft(windows)[:, 1:]) ** 2
    frequencies = np.fft.rfftfreq(2 * HOP, 1 / RATE)[1:]
    top, bottom = mel(np.array(RATE / 2)), mel(np.array(60))
    edges = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    filters = np.stack([np.interp(frequencies, edges[i : i + 3], [0, 1, 0], left=0, right=0) for i in range(BANDS)])
    return 0.25 * np.log(power @ filters.T + 1e-4) + 0.25


def test_log_mel_is_numpys() -> None:
    signal = waveform(51 * HOP)
    ours = LogMel(RATE, BANDS)(signal)[0].numpy()
    theirs = log_mel(signal[0].numpy())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-6)  # measured: 2.3e-7 of 1.1
    assert abs(ours - log_mel(signal[0].numpy()[::-1])).max() > 0.1


def test_log_mel_of_silence_is_its_floor() -> None:
    np.testing.assert_allclose(LogMel(RATE, BANDS)(torch.zeros(1, 4 * HOP)).numpy(), 0.25 * np.log(1e-4) + 0.25, rtol=1e-6)


@pytest.mark.parametrize("frequency", [200, 1000, 3000])
def test_a_tone_is_loudest_in_its_band(frequency: int) -> None:
    tone = 0.1 * torch.sin(2 * torch.pi * frequency * torch.arange(10 * HOP) / RATE)
    centres = np.linspace(mel(np.array(60)), mel(np.array(RATE / 2)), BANDS + 2)[1:-1]
    loudest = LogMel(RATE, BANDS)(tone[None])[0].mean(0).argmax()
    assert abs(int(loudest) - np.abs(centres - mel(np.array(frequency))).argmin()) <= 1


@pytest.fixture(scope="module")
def audio() -> NanoAudioEncoder:
    torch.manual_seed(0)
    return randomised(NanoAudioEncoder(NANO))


@torch.no_grad()
def test_speech_has_one_row_for_each_video_frame(audio: NanoAudioEncoder) -> None:
    features = audio(waveform(25 * 640 + audio.context_samples, batch=2))
    assert features.shape == (2, 25, NANO.audio.layers, NANO.audio.channels)


@pytest.mark.parametrize("length", [1, 4, 7])
@torch.no_grad()
def test_speech_in_chunks_is_the_whole(audio: NanoAudioEncoder, length: int) -> None:
    step, context = NANO_CLIP.samples_per_frame, audio.context_samples
    sound = waveform(25 * step + context)
    whole = audio(sound)
    starts = range(0, 25, length)
    chunks = [audio(sound[:, start * step : min(start + length, 25) * step + context]) for start in starts]
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=0, atol=5e-6)  # measured: 5.4e-7 of 1
    silent = [audio(torch.cat([sound[:, i * step : (i + 1) * step], torch.zeros(1, context)], 1)) for i in range(25)]
    assert (torch.cat(silent, 1) - whole).abs().max() > 0.01  # the hop beyond a chunk's last frame is part of it


@torch.no_grad()
def test_a_frames_features_hear_its_own_samples_and_one_hop_more(audio: NanoAudioEncoder) -> None:
    step = NANO_CLIP.samples_per_frame
    sound = waveform(8 * step + audio.context_samples)
    changed = sound.clone()
    changed[:, 3 * step + audio.context_samples : 4 * step] = 0
    different = (audio(sound) != audio(changed)).any(-1).flatten()
    assert different.nonzero().flatten().tolist() == [3]


# ---- portrait --------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_portrait_tokens_are_patches_row_by_row() -> None:
    torch.manual_seed(0)
    image = randomised(NanoImageEncoder(NANO))
    portrait = torch.rand(2, 3, 64, 64) * 2 - 1
    tokens = image(portrait)
    assert tokens.shape == (2, NANO.image_tokens, NANO.image_dim)
    for index in (0, 1, 4, 15):
        row, column = divmod(index, 4)
        changed = portrait.clone()
        changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
        different = (image(changed) != tokens).any(-1)
        assert different.nonzero()[:, 1].tolist() == [index] * 2


# ---- prompt ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["a man speaks", "一个男人在说话", "женщина", "رجل يتكلم", "नमस्ते", "😀 ok", "", "\x00"])
def test_a_prompt_is_its_utf8_bytes(prompt: str) -> None:
    ids, length = byte_ids(prompt, 64)
    assert ids.shape == (1, 64)
    assert ids.dtype == torch.int64
    assert bytes(ids[0, :length].tolist()).decode() == prompt
    assert (ids[0, length:] == PAD_ID).all()


@pytest.mark.parametrize("cut", range(1, 14))
@pytest.mark.parametrize("prompt", ["ab😀é一😀x", "😀😀😀😀", "ééééééé"])
def test_a_long_prompt_is_cut_at_a_characters_end(prompt: str, cut: int) -> None:
    ids, length = byte_ids(prompt, cut)
    kept = bytes(ids[0, :length].tolist()).decode()
    assert prompt.startswith(kept)
    assert kept == prompt or len((kept + prompt[len(kept)]).encode()) > cut  # one character more would not fit


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    ids, length = byte_ids("a\ud83d!", 8)
    assert bytes(ids[0, :length].tolist()) == b"a?!"


@pytest.fixture(scope="module")
def text() -> NanoTextEncoder:
    torch.manual_seed(0)
    encoder = randomised(NanoTextEncoder(NANO))
    with torch.no_grad():
        encoder.embedding.weight[PAD_ID] = 0
    return encoder


@pytest.mark.parametrize("prompt", ["", "a", "a woman nods 😀", "x" * 64])
@torch.no_grad()
def test_rows_beyond_the_prompt_are_zero(text: NanoTextEncoder, prompt: str) -> None:
    ids, length = byte_ids(prompt, 64)
    rows = text(ids)[0]
    assert rows.shape == (64, NANO.text_dim)
    assert not rows[length:].any()
    assert rows[:length].any(1).all()


@torch.no_grad()
def test_a_prompts_rows_do_not_depend_on_the_padding(text: NanoTextEncoder) -> None:
    short, length = byte_ids("a woman nods", 16)
    long, _ = byte_ids("a woman nods", 64)
    torch.testing.assert_close(text(short)[:, :length], text(long)[:, :length], rtol=0, atol=1e-6)  # measured: equal


@torch.no_grad()
def test_a_row_sees_four_bytes_to_either_side(text: NanoTextEncoder) -> None:
    ids, _ = byte_ids("abcdefghijklmnopqrstuvwxyz", 64)
    changed = ids.clone()
    changed[0, 12] = ord("X")
    different = (text(ids) != text(changed)).any(-1)[0]
    assert different.nonzero().flatten().tolist() == list(range(8, 17))


def test_a_fresh_encoder_pads_with_zeros() -> None:
    assert not NanoTextEncoder(NANO).embedding.weight[PAD_ID].any()


def test_the_three_encoders_are_saved_together() -> None:
    names = {key.split(".")[0] for key in NanoEncoders(NANO).state_dict()}
    assert names == {"audio", "image", "text"}
