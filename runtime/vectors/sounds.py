"""Speech: WAV files, resampling, level and loudness, and all of it as a player takes a recording."""

from __future__ import annotations

import struct
import wave
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ...core.weights.nano import assets
from ..play.opening import open_for_reading
from ..play.speech import loudness, normalise_loudness, read_speech, track_of, without_offset
from .group import Float32, Group, numbers, saved

RATE = 16000
# Largest differences from an implementation of docs/PLAYERS.md in NumPy (tests/runtime/vectors/peer_sounds.py), measured over the
# cases here: see test_bounds_have_room_and_no_more.
RESAMPLED, LUFS, SCALED, WHOLE = 2e-5, 1e-6, 2.4e-7, 6e-5

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_GUID = bytes.fromhex("000000001000800000aa00389b71")
_RATES = (48000, 44100, 8000, 22050, 24000, 32000, 11025, 96000, 12000)


def wav(
    samples: NDArray[np.floating],
    rate: int,
    bits: int = 16,
    floating: bool = False,
    *,
    extensible: bool = False,
    chunks: bytes = b"",
    declared: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """A WAV file of samples [n] or [n, channels] in ±1. `chunks`: between the format and the samples; `declared`: what the header
    says of their size; `tail`: bytes behind the last whole frame, that the size counts."""
    channels = samples.shape[1] if samples.ndim == 2 else 1
    data = _coded(samples, bits, floating) + tail
    kind = _FLOAT if floating else _PCM
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", _EXTENSIBLE if extensible else kind, channels, rate, rate * block, block, bits)
    if extensible:
        form += struct.pack("<HHI", 22, bits, (4, 3)[channels - 1]) + struct.pack("<H", kind) + _GUID
    size = len(data) if declared is None else declared
    body = b"WAVE" + _chunk(b"fmt ", form) + chunks + b"data" + struct.pack("<I", size) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _coded(samples: NDArray[np.floating], bits: int, floating: bool) -> bytes:
    if floating:
        return samples.astype(f"<f{bits // 8}").tobytes()
    whole = np.clip(np.rint(samples.astype(np.float64) * 2.0 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(
        np.int64
    )
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    every = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : bits // 8]
    return every.tobytes()


def spoken(start: float, seconds: float) -> Float32:
    """A part of a voice of the package, at 16 kHz."""
    with wave.open(str(assets() / "demo" / "hello.wav")) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return (data[round(start * RATE) : round((start + seconds) * RATE)] / np.float32(32768)).astype(np.float32)


def recordings() -> dict[str, bytes]:
    """WAV files, each of another kind."""
    drawn = np.clip(0.3 * numbers(7, 601), -1, 1)
    both = np.stack([drawn[:401], np.clip(0.2 * numbers(8, 401), -1, 1)], 1)
    ends = np.array([0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2**-15, -(2**-15), 2**-16, 3 * 2**-16, 2**-31], np.float64)
    delayed = np.stack([drawn, -np.roll(drawn, 20) * np.float32(0.9)], 1)
    return {
        "8 bits": wav(drawn, 8000, 8), "16 bits": wav(drawn, 16000), "24 bits": wav(drawn, 44100, 24),
        "32 bits": wav(drawn, 48000, 32),
        "float": wav(drawn, 22050, 32, True), "double": wav(drawn.astype(np.float64) / 3, 16000, 64, True),
        "ends, 16 bits": wav(ends, 16000),
        "ends, 32 bits": wav(ends, 16000, 32), "ends, 24 bits": wav(ends, 16000, 24),
        "float beyond one": wav(ends, 16000, 32, True),
        "stereo, 16 bits": wav(both, 44100), "stereo, float": wav(both, 48000, 32, True),
        "stereo, 24 bits": wav(both, 16000, 24, extensible=True),
        "one side silent": wav(both * np.array([0.0, 1.0]), 16000), "cancels": wav(np.stack([drawn, -0.9 * drawn], 1), 16000),
        "cancels, late": wav(delayed, 16000, 32, True), "extensible": wav(drawn, 16000, 16, extensible=True),
        "other chunks": wav(drawn[:300], 16000, chunks=_chunk(b"LIST", b"INFOISFT\x05\0\0\0Name\0\0") + _chunk(b"junk", b"123")),
        "odd bytes, 24 bits": wav(drawn[:301], 16000, 24), "odd bytes, 8 bits": wav(drawn[:333], 16000, 8),
        "stream of unknown length": wav(drawn[:300], 16000, declared=0xFFFFFFFF),
        "shorter than declared": wav(drawn[:300], 16000, declared=5000),
        "half a frame at the end": wav(both[:200], 16000, tail=b"\x11\x22"),
    }  # fmt: skip


def build() -> Group:
    group = Group("speech")
    with TemporaryDirectory() as name:
        folder = Path(name)
        _files(group, folder)
        _resampled(group, folder)
        _whole(group, folder)
    _levels(group)
    return group


def _files(group: Group, folder: Path) -> None:
    for number, (name, data) in enumerate(recordings().items()):
        file = group.file(f"wav/{number:02d}.wav", data)
        path = saved(folder, "own.wav", data)
        with open_for_reading(path) as container:
            rate = container.streams.audio[0].rate
            made = track_of(container, 0, path, name, rate).wave
        group.case("wav", name, {"wav": file}, {"sample_rate": rate, "wave": made})


def _resampled(group: Group, folder: Path) -> None:
    pulse = np.zeros(300, np.float32)
    pulse[0], pulse[150], pulse[-1] = 0.5, -0.75, 0.25
    for rate in _RATES:
        for name, sound in (("noise", 0.25 * numbers(rate, 1501)), ("pulses", pulse)):
            path = saved(folder, "rate.wav", wav(sound, rate, 32, True))
            with open_for_reading(path) as container:
                made = track_of(container, 0, path, name, RATE).wave
            given = {"wave": sound, "from": rate, "to": RATE}
            trap = "sums in float32 are within the bound; another filter, another centre or another end are not"
            group.case("resample", f"{name} at {rate} Hz", given, {"wave": made}, within={"wave": RESAMPLED}, trap=trap)


def _levels(group: Group) -> None:
    voice = spoken(0.1, 0.45)
    many = np.full(8000, 0.1, np.float32)
    for name, sound in (
        ("voice", voice[:2000]),
        ("lifted voice", voice[:2000] + np.float32(0.25)),
        ("a little", voice[:2000] + np.float32(9e-4)),
    ):
        group.case("level", name, {"wave": sound}, {"wave": without_offset(sound)}, within={"wave": SCALED})
    many[::2] = 0.1 + 2**-12
    group.case(
        "level", "many equal samples", {"wave": many}, {"wave": without_offset(many)}, within={"wave": 1.5e-8},
        trap="a mean that is summed in float32 is off",
    )  # fmt: skip
    silence = np.zeros(7000, np.float32)
    sounds = {
        "voice": voice,
        "a short voice": voice[:1500],
        "silence": silence,
        "a pause within": np.concatenate([voice[:4000], silence, voice[:4000]]),
    }
    for name, sound in sounds.items():
        found = loudness(sound, RATE)
        given = {"wave": sound, "sample_rate": RATE}
        expected = {"lufs": None if found == -np.inf else found}
        group.case("loudness", name, given, expected, within={"lufs": LUFS} if found != -np.inf else None)
        group.case("normalise", name, given, {"wave": normalise_loudness(sound, RATE)}, within={"wave": SCALED})


def _whole(group: Group, folder: Path) -> None:
    voice = spoken(0.1, 0.4)
    stereo = np.stack([voice, 0.5 * voice], 1)
    loud = np.clip(8 * voice, -1, 1)
    click = 0.004 * voice
    click[3000] = 0.9
    good = {
        "voice, 16 kHz": wav(voice, 16000), "voice read at 44.1 kHz": wav(voice, 44100),
        "stereo read at 48 kHz": wav(stereo, 48000),
        "lifted": wav(voice * 0.5 + 0.2, 16000, 32, True), "quiet": wav(voice * 0.02, 22050, 24),
        "loud, clipped": wav(loud, 16000, 8), "a click beyond full scale": wav(click, 16000),
    }  # fmt: skip
    for number, (name, data) in enumerate(good.items()):
        path = saved(folder, "speech.wav", data)
        given = {"wav": group.file(f"wav/speech-{number}.wav", data), "sample_rate": RATE, "fps": 25}
        group.case("speech", name, given, {"speech": read_speech(path, RATE)}, within={"speech": WHOLE})
    endless = wav(np.concatenate([voice[:2000], np.array([np.inf, np.nan], np.float32)]), 16000, 32, True)
    bad = {
        "silent": wav(np.zeros(8000), 16000), "nearly silent": wav(voice * 2e-4, 16000, 32, True),
        "a constant": wav(np.full(8000, 0.5), 16000),
        "too short": wav(voice[2000:2600], 16000), "no samples": wav(voice[:0], 16000), "not finite": endless,
        "no sound": b"RIFF\x04\0\0\0WAVE",
        "empty": b"", "a text": b"This is no sound at all, and it is long enough to look like one.",
    }  # fmt: skip
    for number, (name, data) in enumerate(bad.items()):
        path = saved(folder, "bad.wav", data)
        given = {"wav": group.file(f"wav/bad-{number}.wav", data), "sample_rate": RATE, "fps": 25}
        group.refused("speech", name, given, partial(read_speech, path, RATE), hide=f"{folder}/")
