"""Speech in: the sound of any file as float32 [n], mono, at one loudness. PyAV (FFmpeg in a wheel) is imported where it is used.

1. tracks      which of a file's sound tracks: the one asked for, the default one, or the first that is not silent
2. timeline    what can be decoded, where a player would play it: late starts and holes are silence, priming is gone
3. channels    one of many: by the layout's coefficients, without LFE; never a sum that cancels
4. level       no constant, -23 LUFS, nothing beyond full scale

What can be played is played, and `warn` is told in one line what of the file that is. What cannot raises `InputError` with a
sentence that names the file, the reason and the remedy.
"""

from __future__ import annotations

import io
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...core.config import TEMPORAL_STRIDE
from ...core.errors import InputError
from .loudness import BLOCK_SECONDS, integrated_loudness
from .opening import existing_file, open_for_reading

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Floats = NDArray[np.float32]
Warn = Callable[[str], None]

TARGET_LUFS = -23.0
SILENT_DBFS = -60.0
SILENT_LUFS = -70.0  # BS.1770's own gate
MAX_SPEECH_SECONDS = 3600
MOST_CHANNELS, MOST_PLANES = 64, 16  # of samples side by side, and in planes of their own: more were never seen to work
_OGG_PAGE = 65_307  # bytes, at most
HOLE_SECONDS = 0.02  # time stamps that jump by more have a hole before them
LOST_SECONDS = 0.1  # of the declared length: less is rounding of containers
CANCELLING = -0.5  # correlation of two channels below which their sum is no voice
ADTS_PRIMING = 1024  # samples that an AAC encoder puts in front; a raw stream has no place to say so
_CONSTANT = 1e-3  # of full scale: an offset above it is taken away
_LAGS, _JUDGED = 160, 1 << 21  # samples: 10 ms and two minutes at 16 kHz, in which channels are compared
_NO_LFE = {"LFE": 0.0, "LFE2": 0.0}
_FRONT = {"FL": 0.5, "FR": 0.5, "FC": math.sqrt(0.5)}  # ITU-R BS.775, down to one channel
_AROUND = math.sqrt(0.125)  # sides and back
_STANDARD_INPUT = Path("-")


def silently(sentence: str) -> None:
    """The warning of a caller who does not want one."""


def read_speech(
    path: str | Path,
    sample_rate: int = 16000,
    fps: int = 25,
    *,
    track: int | None = None,
    most_seconds: float | None = None,
    warn: Warn = silently,
) -> Floats:
    """The sound of a file as float32 [n], mono at `sample_rate`, at -23 LUFS (see `normalise_loudness`), within full scale.

    Any container and codec that FFmpeg reads: WAV, MP3, M4A, FLAC, Ogg, the sound track of a video; a pipe, or "-" for what
    standard input gives. `track`: which of several sound tracks, counted from 1. `most_seconds`: no more than so much is read.

    Raises:
        InputError: there is no such file or track; it holds no sound, is damaged from the start, silent (peak below -60 dBFS or
            loudness below -70 LUFS, without a constant offset), shorter than one video frame at `fps`, longer than an hour, has
            more channels than are known to be read, or samples that are not finite.
    """
    import av

    source, name = _source(path)
    try:
        heard = _heard(source, name, sample_rate, track, most_seconds)
    except av.FFmpegError as error:
        raise InputError(f"{name} is not a sound file in a known format, or is damaged ({error.strerror}).") from error
    wave = without_offset(heard.wave)
    if wave.size * fps < sample_rate:
        raise InputError(f"{name} lasts {wave.size / sample_rate:.3f} s, less than one video frame ({1 / fps:.3f} s).")
    if _silent(wave, sample_rate):
        raise InputError(f"{name} is silent (its peak is {_level(wave)}). Give a recording with audible speech.")
    for sentence in heard.said:
        warn(sentence)
    return np.clip(normalise_loudness(wave, sample_rate), -1, 1)


def loudness(wave: Floats, sample_rate: int) -> float:
    """Integrated loudness of float [n] in LUFS (ITU-R BS.1770); -inf for silence.

    The standard measures in blocks of 0.4 s; a shorter sound is repeated until it fills one.
    """
    block = math.ceil(BLOCK_SECONDS * sample_rate)
    return integrated_loudness(np.resize(wave, max(block, wave.size)), sample_rate)


def normalise_loudness(wave: Floats, sample_rate: int, target: float = TARGET_LUFS) -> Floats:
    """Scale float [n] to `target` LUFS; a loudness beyond ±100 LUFS (silence) is left alone. Source: upstream `loudness_norm`."""
    measured = loudness(wave, sample_rate)
    if abs(measured) > 100:
        return wave
    return (wave * 10 ** ((target - measured) / 20)).astype(np.float32)


def clip_frames(seconds: float, fps: int, cap: int | None = None, upstream_compat: bool = False) -> int:
    """How many video frames a sound of `seconds` takes: all that it reaches into, at most `cap`.

    A product within a millionth of a whole number counts as that number. `upstream_compat`: the largest 4n+1 that the sound fills;
    upstream truncates the floating-point product, which drops four frames from a sound of 1.16 s (28.999…).

    Raises:
        InputError: not even one frame is filled.
    """
    filled = math.floor(seconds * fps + (0.0 if upstream_compat else 1e-6))
    most = math.inf if cap is None else cap
    if min(filled, most) < 1:
        raise InputError(f"{seconds:.3f} s at {fps} fps (at most {cap} frames) is less than one video frame.")
    if upstream_compat:
        return int(min(filled, most) - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    return int(min(math.ceil(seconds * fps - 1e-6), most))


def fit_speech(wave: Floats, frames: int, fps: int, sample_rate: int) -> Floats:
    """float32 [n] cut, or lengthened with silence, to the duration of `frames` video frames."""
    length = frames * sample_rate // fps
    return np.pad(wave[:length], (0, max(0, length - wave.size)))


# -- 1. tracks -------------------------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """A sound track as one channel, and what there is to say of it."""

    wave: Floats
    said: list[str] = field(default_factory=list)


def _source(path: str | Path) -> tuple[Path | bytes, str]:
    """What FFmpeg opens, and how sentences call it. A pipe is read to its end: containers are read twice."""
    path = Path(path)
    if path == _STANDARD_INPUT:
        data, name = sys.stdin.buffer.read(), "standard input"
    elif path.is_fifo() or path.is_char_device():
        data, name = path.read_bytes(), str(path)
    else:
        return existing_file(path, "sound file"), str(path)
    if not data:
        raise InputError(f"Nothing came from {name}. Check the command before the pipe.")
    return data, name


def _opened(source: Path | bytes) -> InputContainer:
    return open_for_reading(io.BytesIO(source) if isinstance(source, bytes) else source)


def _heard(source: Path | bytes, name: str, sample_rate: int, track: int | None, most_seconds: float | None) -> Heard:
    with _opened(source) as container:
        streams = container.streams.audio
        if not streams:
            raise InputError(f"{name} has no sound track. Give a recording of speech, such as WAV, MP3 or M4A.")
        count = len(streams)
        if track is not None and not 1 <= track <= count:
            raise InputError(f"{name} has {count} sound track{'s' * (count > 1)}; there is no number {track}.")
        default = [index for index, stream in enumerate(streams) if _is_default(stream)]
        order = [track - 1] if track is not None else list(dict.fromkeys([*default, *range(count)]))
    first: Heard | None = None
    for index in order:
        with _opened(source) as container:
            heard = track_of(container, index, source, name, sample_rate, most_seconds)
        if count > 1:
            heard.said.insert(0, f"{name}: sound track {index + 1} of {count} is played (--audio-track chooses another).")
        if track is not None or not _silent(without_offset(heard.wave), sample_rate):
            return heard
        first = first or heard
    assert first is not None  # there is a track
    return first


def _is_default(stream: AudioStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.default)


def _silent(wave: Floats, sample_rate: int) -> bool:
    peak = float(np.abs(wave).max(initial=0.0))
    return peak < 10 ** (SILENT_DBFS / 20) or loudness(wave, sample_rate) < SILENT_LUFS


def without_offset(wave: Floats) -> Floats:
    """Without a constant offset, which nobody hears and every level counts."""
    offset = float(wave.mean(dtype=np.float64)) if wave.size else 0.0
    return wave - np.float32(offset) if abs(offset) > _CONSTANT else wave


def _level(wave: Floats) -> str:
    peak = float(np.abs(wave).max(initial=0.0))
    return f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "zero"


# -- 2. timeline -----------------------------------------------------------------------------------------------------------------


def track_of(
    container: InputContainer,
    index: int,
    source: Path | bytes,
    name: str,
    sample_rate: int,
    most_seconds: float | None = None,
    begins: float | None = None,
) -> Heard:
    """A sound track of an open container, resampled and mixed to one channel, from the container's beginning on, or from the time
    stamp `begins` (seconds), such as that of the first picture.

    Raises:
        InputError: too many channels, more than an hour, samples that are not finite, or nothing can be decoded.
    """
    stream = container.streams.audio[index]
    check_channels(stream, name)
    mixer, timeline = _Mixer(), _Timeline(container, stream, sample_rate, begins)
    most = round((MAX_SPEECH_SECONDS if most_seconds is None else min(most_seconds, MAX_SPEECH_SECONDS)) * sample_rate)
    for block, layout in timeline.blocks():
        mixer.add(block, layout)
        if mixer.length > most:
            if most_seconds is None or most_seconds > MAX_SPEECH_SECONDS:
                raise InputError(f"{name} lasts longer than {MAX_SPEECH_SECONDS // 60} minutes. Cut it into shorter recordings.")
            break
    wave, said = mixer.mixed(name)
    if not np.isfinite(wave).all():
        raise InputError(f"{name} has samples that are not finite numbers. Export the recording again.")
    if not wave.size:
        raise InputError(f"{name} is damaged: none of its sound can be decoded. Copy it again, or export the recording again.")
    end = _wav_seconds(source) if container.format.name == "wav" else _declared_seconds(container, stream)
    if "mp4" in container.format.name and end is not None and not timeline.damaged:  # the end of the last AAC block is padding
        wave = wave[: round(end * sample_rate)]
    wave = wave[round(timeline.early_by * sample_rate) :][:most]
    read = wave.size / sample_rate
    if most_seconds is None and end is not None and read < end - LOST_SECONDS:
        said.append(f"{name}: {read:.2f} s of {end:.2f} s could be read; what is behind is missing or damaged.")
    elif timeline.holes > LOST_SECONDS:
        said.append(f"{name}: {timeline.holes:.2f} s within its {read:.2f} s could not be read; they are silent.")
    elif timeline.damaged or (most_seconds is None and container.format.name == "ogg" and _is_cut(source)):
        said.append(f"{name} is damaged; what could be read, {read:.2f} s, is played.")
    return Heard(wave, said)


def check_channels(stream: AudioStream, name: str) -> None:
    """Raises an InputError where a recording has more channels than are known to be read, before anything is decoded."""
    context = stream.codec_context
    if context is None:
        raise InputError(f"{name} has sound in a format that is not known. Save it as WAV, MP3 or M4A.")
    channels, kind = context.channels, context.format
    most = MOST_PLANES if kind is not None and kind.is_planar else MOST_CHANNELS
    if channels > most:
        raise InputError(f"{name} has {channels} channels; at most {most} are read. Mix it down to stereo first.")


class _Timeline:
    """Blocks of a track in order, [n, channels] float32 with the layout's channel names, silence where time stamps leave a hole."""

    def __init__(self, container: InputContainer, stream: AudioStream, sample_rate: int, begins: float | None = None) -> None:
        self.container, self.stream, self.sample_rate = container, stream, sample_rate
        self.begins = (container.start_time or 0) / 1e6 if begins is None else begins
        self.early_by = 0.0  # seconds of sound before `begins`
        self.damaged = 0  # packets that could not be decoded
        self.holes = 0.0  # seconds of silence put in behind the first sound
        codec = stream.codec_context.name
        self.early = codec.startswith("wmav")  # its decoder keeps the first frame back, its time stamps do not
        self.priming = ADTS_PRIMING if container.format.name == "aac" else 0

    def blocks(self) -> Iterator[tuple[Floats, tuple[str, ...]]]:
        import av

        begins = self.begins + self.priming / (self.stream.rate or self.sample_rate)
        done, started = 0.0, False  # seconds that are out, or in the resampler
        resampler: av.AudioResampler | None = None
        kind: tuple[str, str, int] | None = None
        layout: tuple[str, ...] = ("FC",)
        for frame in self._frames():
            this = (frame.format.name, frame.layout.name, frame.sample_rate)
            at = frame.time
            if at is not None:
                late = at - begins - done - (frame.samples / frame.sample_rate if self.early else 0.0)
                if not started and late < 0:
                    self.early_by, done = -late, done + late
                elif late > HOLE_SECONDS:
                    late = min(late, MAX_SPEECH_SECONDS + 1.0)  # a damaged time stamp may say anything
                    if resampler is not None:
                        yield from self._given(resampler, None, layout)
                        resampler = None
                    silence = np.zeros((round(late * self.sample_rate), len(layout)), np.float32)
                    self.holes += late if started else 0.0
                    done += late
                    yield silence, layout
            if resampler is None or this != kind:
                if resampler is not None:
                    yield from self._given(resampler, None, layout)
                resampler, kind = av.AudioResampler(format="flt", rate=self.sample_rate), this
                layout = tuple(channel.name for channel in frame.layout.channels)
                if len(layout) != frame.layout.nb_channels:
                    layout = ("",) * frame.layout.nb_channels
            yield from self._given(resampler, frame, layout)
            started = True
            done += frame.samples / frame.sample_rate
        if resampler is not None:
            yield from self._given(resampler, None, layout)

    def _given(
        self, resampler: av.AudioResampler, frame: av.AudioFrame | None, layout: tuple[str, ...]
    ) -> Iterator[tuple[Floats, tuple[str, ...]]]:
        for made in resampler.resample(frame):
            yield np.asarray(made.to_ndarray(), np.float32).reshape(-1, len(layout)), layout

    def _frames(self) -> Iterator[av.AudioFrame]:
        """What can be decoded; what cannot is counted."""
        import av

        skip = self.priming
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged += 1
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damaged += packet.size > 0
                continue
            for frame in frames:
                if skip >= frame.samples:
                    skip -= frame.samples
                    continue
                yield frame


def _wav_seconds(wav: Path | bytes) -> float | None:
    """How long a WAV's header says that it is; None where it does not say."""
    with io.BytesIO(wav) if isinstance(wav, bytes) else wav.open("rb") as file:
        file.seek(12)
        rate, size = 0, 0
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data" and rate:
                seconds = size / rate
                return seconds if seconds <= MAX_SPEECH_SECONDS else None  # a stream of unknown length declares hours
            body = file.read(size + size % 2) if name == b"fmt " else b""
            if name == b"fmt " and len(body) >= 12:
                rate = struct.unpack_from("<I", body, 8)[0]  # bytes a second
            elif name != b"fmt ":
                file.seek(size + size % 2, io.SEEK_CUR)
    return None


def _is_cut(ogg: Path | bytes) -> bool:
    """Whether the last page of an Ogg file is not marked as a stream's end."""
    if isinstance(ogg, bytes):
        tail = ogg[-_OGG_PAGE:]
    else:
        with ogg.open("rb") as file:
            file.seek(max(0, ogg.stat().st_size - _OGG_PAGE))
            tail = file.read()
    last = tail.rfind(b"OggS")
    return last < 0 or len(tail) < last + 6 or not tail[last + 5] & 4


def _declared_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """How long the file says that it is; None where it does not, or FFmpeg has only estimated it."""
    estimated = container.format.name == "mp3" and not stream.start_time  # a header that counts frames also tells the priming
    if estimated or container.format.name == "aac":
        return None
    seconds = None
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
        begins = stream.start_time or 0
        seconds += max(0.0, float(begins * stream.time_base) - (container.start_time or 0) / 1e6)
    elif container.duration and len(container.streams.audio) == len(container.streams):
        seconds = container.duration / 1e6
    return seconds if seconds is not None and seconds <= MAX_SPEECH_SECONDS else None  # a stream of unknown length declares hours


# -- 3. channels -----------------------------------------------------------------------------------------------------------------


class _Mixer:
    """Blocks of any number of channels to one. Two channels stay apart until it is known whether their sum cancels."""

    def __init__(self) -> None:
        self.parts: list[Floats] = []  # [n] or [n, 2]
        self.length = 0
        self.power: dict[int, tuple[float, float]] = {}  # of more than two channels: of the mix, and of the loudest channel

    def add(self, block: Floats, layout: tuple[str, ...]) -> None:
        self.length += len(block)
        if len(layout) == 2:
            self.parts.append(block)
            return
        self.parts.append(np.asarray(block @ coefficients(layout), np.float32))

    def mixed(self, name: str) -> tuple[Floats, list[str]]:
        """-> the sound [n], and what there is to say."""
        stereo = [part for part in self.parts if part.ndim == 2]
        both = np.concatenate(stereo) if stereo else np.zeros((0, 2), np.float32)
        which = _one_of(both)
        weights = np.array([0.5, 0.5], np.float32) if which is None else np.eye(2, dtype=np.float32)[which]
        said = []
        if which is not None:
            said.append(f"{name}: its two channels cancel each other; the {('left', 'right')[which]} one alone is heard.")
        parts = [part @ weights if part.ndim == 2 else part for part in self.parts]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32), said


def coefficients(layout: tuple[str, ...]) -> Floats:
    """What each channel adds to the one that is heard (ITU-R BS.775): fronts, centre, sides; LFE is left out. Channels without a
    known place count alike."""
    if len(layout) == 1 or not {"FL", "FR", "FC"} & set(layout):
        return np.full(len(layout), 1 / len(layout), np.float32)
    return np.array([(_NO_LFE | _FRONT).get(channel, _AROUND) for channel in layout], np.float32)


def _one_of(both: Floats) -> int | None:
    """The louder of two channels [n, 2] that cancel each other in a sum, also with some milliseconds between them; else None."""
    power = np.square(both, dtype=np.float64).sum(0)
    if power.min(initial=np.inf) <= 0.0 or not len(both):
        return None
    most = np.fft.rfft(both[:_JUDGED], 1 << (min(len(both), _JUDGED) + _LAGS).bit_length(), axis=0)
    across = np.fft.irfft(most[:, 0] * most[:, 1].conj())
    near = np.concatenate([across[: _LAGS + 1], across[-_LAGS:]])
    alike = near[np.abs(near).argmax()] / math.sqrt(float(np.prod(np.square(both[:_JUDGED], dtype=np.float64).sum(0))) or 1.0)
    return int(power.argmax()) if alike < CANCELLING else None
