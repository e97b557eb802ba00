"""Synthetic speech: its rate, spectrum and loudness are measured with plain NumPy, not with the code that made them."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics import voice
from echoedge.core.train import speech


def fundamental(audio: np.ndarray) -> float:
    """f0 in Hz of the loudest 60 ms, by autocorrelation."""
    width = 960
    loudest = int(np.argmax(np.convolve(audio.astype(np.float64) ** 2, np.ones(width), "valid")))
    frame = audio[loudest : loudest + width].astype(np.float64) * np.hanning(width)
    lags = np.correlate(frame, frame, "full")[width - 1 :]
    first, last = 16000 // 400, 16000 // 75
    # Of several peaks one period apart, the first that is nearly the highest.
    peaks = [
        k
        for k in range(first, last)
        if lags[k] >= lags[k - 1] and lags[k] >= lags[k + 1] and lags[k] > 0.8 * lags[first:last].max()
    ]
    return 16000 / peaks[0]


def test_audio_is_mono_float32_in_range_and_of_the_asked_length() -> None:
    for seed in range(5):
        audio = speech.synthesise(seed, 1.5).waveform
        assert audio.dtype == np.float32 and audio.shape == (24000,)
        assert 0.3 < np.abs(audio).max() <= 1.0 and np.isfinite(audio).all()


def test_same_seed_same_audio_other_seed_other_audio() -> None:
    first, again, other = (speech.synthesise(seed, 1.0).waveform for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.2


@pytest.mark.parametrize("voice", list(speech.VOICES))
def test_pitch_lies_in_the_range_of_the_voice(voice: str) -> None:
    (low, high), _ = speech.VOICES[voice]
    measured = np.median([fundamental(speech.synthesise(seed, 2.0, voice).waveform) for seed in range(9)])
    assert 0.85 * low < measured < 1.15 * high


def test_syllables_are_slow_enough_for_the_autoencoder() -> None:
    """Energy of the loudness track sits below 4.5 Hz; the twin, the same audio played at double speed, does not pass."""

    def slow_share(audio: np.ndarray) -> float:
        loud = np.sqrt(np.convolve(audio.astype(np.float64) ** 2, np.hanning(640) / 320, "same"))[::160]
        power = np.abs(np.fft.rfft((loud - loud.mean()) * np.hanning(len(loud)))) ** 2
        frequency = np.fft.rfftfreq(len(loud), 0.01)
        return float(power[frequency < 4.5].sum() / power.sum())

    clips = [speech.synthesise(seed, 12.0).waveform for seed in range(3)]
    assert min(slow_share(audio) for audio in clips) > 0.85  # measured 0.90 and more
    assert max(slow_share(audio[::2]) for audio in clips) < 0.7  # measured 0.60 and less


def test_syllables_follow_each_other_at_two_to_four_per_second() -> None:
    for seed in range(4):
        script = speech.synthesise(seed, 20.0).syllables
        lengths = np.asarray([s.length for s in script])
        assert lengths.min() >= 0.25 - 1e-9 and lengths.max() <= 0.6
        gaps = np.asarray([b.start - a.start - a.length for a, b in zip(script, script[1:], strict=False)])
        assert gaps.min() > -1e-9 and 0.1 < gaps.max() < 0.6  # phrases end in pauses


def test_envelope_follows_a_known_loudness() -> None:
    """A tone whose amplitude is drawn by hand; the twin, another amplitude, does not match."""
    time = np.arange(32000) / 16000
    loudness = 0.5 - 0.5 * np.cos(2 * np.pi * 1.5 * time)
    track = voice.envelope(loudness * np.sin(2 * np.pi * 300 * time), 50)
    middle = loudness[320::640]
    assert track.shape == (50,) and track.dtype == np.float32
    assert np.corrcoef(track, middle)[0, 1] > 0.99
    assert np.corrcoef(track, np.roll(middle, 4))[0, 1] < 0.5


def test_envelope_ignores_the_recording_level() -> None:
    audio = speech.synthesise(3, 1.0).waveform
    loud, quiet = voice.envelope(audio, 25), voice.envelope(audio * np.float32(0.02), 25)
    assert np.abs(loud - quiet).max() < 1e-5  # measured 2e-7
    assert 0.9 < np.percentile(loud, 95) < 1.1


def test_silence_has_no_envelope_and_short_audio_is_padded() -> None:
    assert not voice.envelope(np.zeros(16000), 25).any()
    assert not voice.envelope(np.full(16000, 1e-5), 25).any()
    half = voice.envelope(speech.synthesise(1, 0.5).waveform, 25)
    assert half[:10].max() > 0.5 and half[16:].max() == 0.0


def test_rounding_tells_o_from_i() -> None:
    time = np.arange(16000) / 16000

    def vowel(name: str) -> np.ndarray:
        formants, _ = speech.VOWELS[name]
        return sum(gain * np.sin(2 * np.pi * f * time) for f, gain in zip(formants, speech.FORMANT_GAINS, strict=True))

    assert voice.rounding(vowel("o"), 25)[3:-3].min() > 0.4 > 0.1 > voice.rounding(vowel("i"), 25)[3:-3].max()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: speech.synthesise(0, 0.0), "at least one video frame"),
        (lambda: speech.synthesise(0, 1.0, "robot"), "robot"),
        (lambda: voice.envelope(np.zeros((2, 100)), 5), "mono"),
        (lambda: voice.envelope(np.full(100, np.nan), 5), "finite"),
        (lambda: voice.envelope(np.zeros(100), 0), "frames is 0"),
        (lambda: voice.rounding(np.zeros((2, 100)), 5), "mono"),
        (lambda: voice.rounding(np.zeros(0), 5), "mono"),
    ],
)
def test_what_cannot_work_says_so(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_espeak_output_is_read_and_resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in program writes what espeak-ng writes into a pipe: a header without a true length, then 22050 Hz samples."""
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)).astype("<i2").tobytes()
    header = b"RIFF" + struct.pack("<I", 0x7FFFF024) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 22050, 44100, 2, 16)
    (tmp_path / "out.wav").write_bytes(header + b"data" + struct.pack("<I", 0x7FFFF000) + tone)
    program = tmp_path / "espeak-ng"
    program.write_text(f"#!/bin/sh\nexec /bin/cat '{tmp_path}/out.wav'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert speech.espeak_available()
    said = speech.espeak("hello", "en")
    assert said.waveform.shape == (16000,) and said.waveform.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(said.waveform))
    assert np.argmax(spectrum) == 440 and spectrum[440] / spectrum[[300, 600]].max() > 1e3
    program.write_text("#!/bin/sh\necho 'no such voice' >&2\nexit 1\n")
    with pytest.raises(InputError, match="no such voice"):
        speech.espeak("hello", "xx")


def test_without_espeak_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not speech.espeak_available()
    with pytest.raises(InputError, match="not installed"):
        speech.espeak("hello")
