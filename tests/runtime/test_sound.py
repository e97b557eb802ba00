"""runtime/play/speech.py on what people bring: many channels, tracks, damage, late starts, pipes. All files are made here."""

from __future__ import annotations

import io
import os
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.runtime.play import speech as module
from echoedge.runtime.play.speech import coefficients, loudness, read_speech

RATE = 16000
Wave = np.ndarray


def voice(seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> Wave:
    """Harmonics of a gliding pitch under syllables, float32 [n], between 0.3 and -0.3."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(130 + 40 * np.sin(2 * np.pi * (1.1 + 0.3 * seed) * time)) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    return np.asarray(0.15 * tone * (0.5 - 0.5 * np.cos(2 * np.pi * 3 * time)), np.float32)


def write(
    path: Path, sound: Wave, codec: str = "pcm_s16le", rate: int = RATE, layout: str | None = None, kind: str | None = None
) -> Path:
    """sound [n] or [channels, n] as a file of that codec."""
    sound = np.atleast_2d(sound).astype(np.float32)
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96000
        encode(container, stream, sound, rate, layout)
    return path


def encode(container: av.container.OutputContainer, stream: av.AudioStream, sound: Wave, rate: int, layout: str) -> None:
    if stream.codec_context.name == "vorbis":
        stream.codec_context.options = {"strict": "experimental"}
    stream.codec_context.open()
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate, frame_size=size)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", layout)
    frame.sample_rate, frame.pts = rate, 0
    for piece in resampler.resample(frame) + resampler.resample(None):
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def correlation(a: Wave, b: Wave) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


def late_by(heard: Wave, said: Wave) -> float:
    """Seconds by which `said` comes later in `heard` than where it is."""
    size = 1 << (len(heard) + len(said)).bit_length()
    across = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(said, size).conj())
    lag = int(across.argmax())
    return (lag if lag < size // 2 else lag - size) / RATE


@pytest.fixture
def told() -> list[str]:
    return []


# ---- channels --------------------------------------------------------------------------------------------------------------------


def many_channels(path: Path, channels: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        samples = np.zeros((RATE, channels), np.int16)
        samples[:, 0] = voice() * 32767
        file.writeframes(samples.tobytes())
    return path


def test_more_channels_than_are_known_to_work_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = many_channels(tmp_path / "many.wav", 12)
    assert correlation(read_speech(path), voice()) > 0.99
    monkeypatch.setattr(module, "MOST_CHANNELS", 11)
    monkeypatch.setattr(module, "_Timeline", None)
    with pytest.raises(InputError, match=r"many\.wav has 12 channels; at most 11 are read\. Mix it down"):
        read_speech(path)


def test_planes_have_a_limit_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp3", np.stack([voice(), voice()]), "mp3")
    monkeypatch.setattr(module, "MOST_PLANES", 1)
    with pytest.raises(InputError, match="has 2 channels; at most 1"):
        read_speech(path)


@pytest.mark.parametrize("delay", [0, 16])
def test_channels_that_cancel_are_not_added(delay: int, tmp_path: Path, told: list[str]) -> None:
    said = voice(2)
    other = -0.8 * np.roll(said, delay)
    heard = read_speech(write(tmp_path / "a.wav", np.stack([said, other])), warn=told.append)
    assert correlation(heard, said) > 0.999
    assert told == [f"{tmp_path}/a.wav: its two channels cancel each other; the left one alone is heard."]
    assert correlation((said + other) / 2, said) < 0.98 or np.abs(said + other).max() < 0.1


@pytest.mark.parametrize("delay", [0, 16])
def test_channels_that_agree_or_differ_are_added(delay: int, tmp_path: Path, told: list[str]) -> None:
    for other in (np.roll(voice(2), delay), voice(2, seed=5)):
        heard = read_speech(write(tmp_path / "a.wav", np.stack([voice(2), other])), warn=told.append)
        assert correlation(heard, voice(2) + other) > 0.999
    assert told == []


def test_the_subwoofer_does_not_drown_the_centre(tmp_path: Path) -> None:
    """FL FR FC LFE BL BR: speech in the centre, a loud tone of 50 Hz below it."""
    said, rumble = voice(2), 0.9 * np.sin(2 * np.pi * 50 * np.arange(2 * RATE) / RATE)
    channels = np.zeros((6, 2 * RATE), np.float32)
    channels[2], channels[3] = said, rumble
    heard = read_speech(write(tmp_path / "a.wav", channels))
    assert correlation(heard, said) > 0.99  # measured: 1.000
    assert correlation(channels.mean(0), said) < 0.3  # a plain average: 0.126


def test_coefficients_are_those_of_the_standard() -> None:
    found = dict(zip(("FL", "FR", "FC", "LFE", "BL", "BR"), coefficients(("FL", "FR", "FC", "LFE", "BL", "BR")), strict=True))
    assert found["LFE"] == 0
    assert found["FC"] / found["FL"] == pytest.approx(2**0.5)
    assert found["BL"] / found["FL"] == pytest.approx(2**-0.5)
    assert coefficients(("AUX0", "AUX1")).tolist() == [0.5, 0.5]


# ---- damage ----------------------------------------------------------------------------------------------------------------------


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


ENCODED = {"mp3": "mp3", "flac": "flac", "ogg": "vorbis", "opus": "libopus", "wav": "pcm_s16le", "m4a": "aac"}


@pytest.mark.parametrize("tail", [bytes(3000), bytes(range(256)) * 12], ids=["zeros", "anything"])
def test_bytes_behind_the_last_frame_of_an_mp3_do_not_matter(tail: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", voice(2), "mp3")
    whole = read_speech(path)
    heard = read_speech(changed(path, lambda data: data + tail))
    assert len(heard) == pytest.approx(len(whole), abs=0.08 * RATE)
    assert correlation(heard, whole) > 0.99


@pytest.mark.parametrize("suffix", ENCODED)
def test_what_is_left_of_a_cut_file_is_played_and_told(suffix: str, tmp_path: Path, told: list[str]) -> None:
    sound = np.stack([voice(4)] * 2) if suffix == "ogg" else voice(4)
    path = tmp_path / f"a.{suffix}"
    if suffix == "m4a":  # with the index in front
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            encode(container, container.add_stream("aac", rate=RATE, layout="mono"), np.atleast_2d(sound), RATE, "mono")
    else:
        write(path, sound, ENCODED[suffix])
    whole = read_speech(path, warn=told.append)
    assert told == []
    heard = read_speech(changed(path, lambda data: data[: len(data) * 7 // 10]), warn=told.append)
    assert 0.4 < len(heard) / len(whole) < 0.8
    assert correlation(heard, whole) > 0.99
    (sentence,) = told
    assert f"{len(heard) / RATE:.2f} s" in sentence
    assert suffix in ("ogg", "opus") or " of 4.0" in sentence


def test_a_wav_that_declares_more_than_it_holds(tmp_path: Path, told: list[str]) -> None:
    path = write(tmp_path / "a.wav", voice(3.3))
    read_speech(changed(path, lambda data: data[: 44 + 2 * 7200]), warn=told.append)
    assert told == [f"{path}: 0.45 s of 3.30 s could be read; what is behind is missing or damaged."]


def test_a_hole_is_silent_and_told(tmp_path: Path, told: list[str]) -> None:
    path = write(tmp_path / "a.ogg", np.stack([voice(6)] * 2), "vorbis")
    whole = read_speech(path)
    middle = path.stat().st_size // 2
    heard = read_speech(changed(path, lambda data: data[:middle] + bytes(64) + data[middle + 64 :]), warn=told.append)
    assert len(heard) == pytest.approx(len(whole), abs=0.05 * RATE)
    assert correlation(heard[-RATE:], whole[-RATE:]) > 0.95  # what is behind the hole has not moved
    (sentence,) = told
    assert "could not be read; they are silent" in sentence


@pytest.mark.parametrize("start", [0, 40])
def test_what_holds_no_sound_at_all_is_refused(start: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", voice(1), "flac")
    with pytest.raises(InputError, match="damaged"):
        read_speech(changed(path, lambda data: data[:start] + bytes(len(data) - start)))


def test_a_chain_whose_format_changes_is_read_to_its_end(tmp_path: Path, told: list[str]) -> None:
    one = write(tmp_path / "a.opus", voice(2), "libopus").read_bytes()
    two = write(tmp_path / "b.opus", np.stack([voice(2, seed=1)] * 2), "libopus").read_bytes()
    (tmp_path / "c.opus").write_bytes(one + two)
    heard = read_speech(tmp_path / "c.opus", warn=told.append)
    assert len(heard) == pytest.approx(4 * RATE, abs=0.05 * RATE) or len(told) == 1
    assert correlation(heard[: 2 * RATE], voice(2)) > 0.95


# ---- names and pipes -------------------------------------------------------------------------------------------------------------


def test_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", voice()).rename(tmp_path / "Interview: Anna.wav")
    monkeypatch.chdir(tmp_path)
    assert correlation(read_speech("Interview: Anna.wav"), voice()) > 0.999
    with pytest.raises(InputError, match="There is no sound file http:"):
        read_speech("http://localhost/a.wav")


def as_streamed(data: bytes) -> bytes:
    """A WAV whose header does not know how long it will be."""
    return data[:4] + b"\xff\xff\xff\xff" + data[8:40] + b"\xff\xff\xff\xff" + data[44:]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, told: list[str]) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((voice(2) * 32767).astype("<i2").tobytes())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(as_streamed(sound.getvalue()))))
    assert correlation(read_speech("-", warn=told.append), voice(2)) > 0.999
    assert told == []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO()))
    with pytest.raises(InputError, match="Nothing came from standard input"):
        read_speech("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe(tmp_path: Path) -> None:
    data, pipe = write(tmp_path / "a.mp3", voice(2), "mp3").read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert correlation(read_speech(pipe), read_speech(tmp_path / "a.mp3")) > 0.999
    writer.join()


# ---- tracks ----------------------------------------------------------------------------------------------------------------------


def tracks(path: Path, sounds: list[Wave], default: int | None = 0) -> Path:
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        streams = [container.add_stream("flac", rate=RATE, layout="mono") for _ in sounds]
        for index, stream in enumerate(streams):
            stream.disposition = Disposition.default if index == default else Disposition(0)
            stream.codec_context.open()
        for stream, sound in zip(streams, sounds, strict=True):
            size = stream.codec_context.frame_size or 1024
            resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=RATE, frame_size=size)
            frame = av.AudioFrame.from_ndarray(np.atleast_2d(sound), "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            for piece in resampler.resample(frame) + resampler.resample(None):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
    return path


def test_which_track_is_played(tmp_path: Path, told: list[str]) -> None:
    silence, first, second = np.zeros(2 * RATE, np.float32), voice(2), voice(2, seed=4)
    path = tracks(tmp_path / "a.mkv", [first, second], default=1)
    assert correlation(read_speech(path, warn=told.append), second) > 0.99
    assert told == [f"{path}: sound track 2 of 2 is played (--audio-track chooses another)."]
    assert correlation(read_speech(path, track=1), first) > 0.99
    silent_first = tracks(tmp_path / "b.mkv", [silence, second], default=0)
    assert correlation(read_speech(silent_first), second) > 0.99
    with pytest.raises(InputError, match="is silent"):
        read_speech(silent_first, track=1)
    with pytest.raises(InputError, match="has 2 sound tracks; there is no number 3"):
        read_speech(path, track=3)


# ---- where it is -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize(
    ("suffix", "codec", "kind"),
    [
        ("wav", "pcm_s16le", None), ("flac", "flac", None), ("mp3", "mp3", None), ("m4a", "aac", None), ("aac", "aac", "adts"),
        ("ogg", "vorbis", None), ("opus", "libopus", None), ("wma", "wmav2", None), ("mka", "aac", None), ("mp4", "aac", None),
    ],
)  # fmt: skip
def test_speech_is_where_it_was(suffix: str, codec: str, kind: str | None, rate: int, tmp_path: Path) -> None:
    """Within 10 ms; an encoder's priming is no sound. Measured: 0.6 ms at most."""
    padded = [np.pad(voice(1, at), (round(0.3 * at), round(0.2 * at))) for at in (rate, RATE)]
    sound = np.stack([padded[0]] * 2) if codec == "vorbis" else padded[0]
    heard = read_speech(write(tmp_path / f"a.{suffix}", sound, codec, rate, kind=kind))
    assert abs(late_by(heard, padded[1])) < 0.010
    assert len(heard) / RATE == pytest.approx(1.5, abs=0.05)
    assert late_by(np.pad(heard, (400, 0)), padded[1]) == pytest.approx(0.025, abs=0.010)


def test_a_track_that_starts_late_keeps_its_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        for index in range(50):
            picture = av.VideoFrame(32, 32, "yuv420p")
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray((np.atleast_2d(voice(1)) * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = RATE, round(0.975 * RATE)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    heard = read_speech(path)
    assert late_by(heard, voice(1)) == pytest.approx(0.975, abs=0.010)
    assert len(heard) / RATE == pytest.approx(1.975, abs=0.01)


def test_no_more_is_read_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.flac", np.tile(voice(2), 30), "flac")
    read: list[int] = []
    frames = module._Timeline._frames
    monkeypatch.setattr(module._Timeline, "_frames", lambda self: (read.append(f.samples) or f for f in frames(self)))
    assert len(read_speech(path, most_seconds=0.2)) == 0.2 * RATE
    assert sum(read) < 2 * RATE
    assert len(read_speech(path)) == 60 * RATE


# ---- level -----------------------------------------------------------------------------------------------------------------------


def test_a_click_does_not_go_beyond_full_scale(tmp_path: Path) -> None:
    quiet = 0.05 * voice(3)
    quiet[100:103] = 0.99
    heard = read_speech(write(tmp_path / "a.wav", quiet))
    assert np.abs(heard).max() <= 1
    assert correlation(heard[RATE:], quiet[RATE:]) > 0.999
    assert loudness(heard[RATE:], RATE) > -30  # the click counts, too


def test_a_constant_is_silence_and_is_taken_from_speech(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is silent"):
        read_speech(write(tmp_path / "a.wav", np.full(2 * RATE, 0.7, np.float32)))
    heard = read_speech(write(tmp_path / "b.wav", 0.3 * voice(2) + 0.6))
    assert np.abs(heard).max() <= 1
    assert abs(float(heard.mean())) < 1e-3
    assert correlation(heard, voice(2)) > 0.999
