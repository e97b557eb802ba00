"""Speech in: the sound of any file as float32 [n], mono, at one loudness. PyAV (FFmpeg in a wheel) is imported where it is used.

Whatever cannot be used raises `InputError` with a sentence that names the file, the reason and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
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
    from av.container import InputContainer

Floats = NDArray[np.float32]

TARGET_LUFS = -23.0
SILENT_DBFS = -60.0
SILENT_LUFS = -70.0  # BS.1770's own gate
MAX_SPEECH_SECONDS = 3600


def read_speech(path: str | Path, sample_rate: int = 16000, fps: int = 25) -> Floats:
    """The sound of a file as float32 [n], mono at `sample_rate`, at -23 LUFS (see `normalise_loudness`).

    Any container and codec that FFmpeg reads: WAV, MP3, M4A, FLAC, Ogg, the sound track of a video. Channels are averaged.

    Raises:
        InputError: there is no such file; it holds no sound, is damaged, silent (peak below -60 dBFS or loudness below -70 LUFS),
            shorter than one video frame at `fps`, longer than an hour, or has samples that are not finite.
    """
    import av

    path = existing_file(path, "sound file")
    try:
        with open_for_reading(path) as container:
            if not container.streams.audio:
                raise InputError(f"{path} has no sound track. Give a recording of speech, such as WAV, MP3 or M4A.")
            wave = read_audio(container, sample_rate, path)
    except av.FFmpegError as error:
        raise InputError(f"{path} is not a sound file in a known format, or is damaged ({error.strerror}).") from error
    if wave.size * fps < sample_rate:
        raise InputError(f"{path} lasts {wave.size / sample_rate:.3f} s, less than one video frame ({1 / fps:.3f} s).")
    if not np.isfinite(wave).all():
        raise InputError(f"{path} has samples that are not finite numbers. Export the recording again.")
    peak = float(np.abs(wave).max())
    if peak < 10 ** (SILENT_DBFS / 20) or loudness(wave, sample_rate) < SILENT_LUFS:
        level = f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "zero"
        raise InputError(f"{path} is silent (its peak is {level}). Give a recording with audible speech.")
    return normalise_loudness(wave, sample_rate)


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
    """How many video frames cover at most `seconds`: the largest 4n+1, at most `cap`.

    Upstream truncates the floating-point product, which drops four frames from a sound of 1.16 s (28.999…); here a product
    within a millionth of a whole number counts as that number. `upstream_compat` truncates as upstream does.

    Raises:
        InputError: not even one frame fits.
    """
    frames = math.floor(seconds * fps + (0.0 if upstream_compat else 1e-6))
    frames = frames if cap is None else min(frames, cap)
    if frames < 1:
        raise InputError(f"{seconds:.3f} s at {fps} fps (at most {cap} frames) is less than one video frame.")
    return (frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def fit_speech(wave: Floats, frames: int, fps: int, sample_rate: int) -> Floats:
    """float32 [n] cut, or lengthened with silence, to the duration of `frames` video frames."""
    length = frames * sample_rate // fps
    return np.pad(wave[:length], (0, max(0, length - wave.size)))


def read_audio(container: InputContainer, sample_rate: int, path: Path) -> Floats:
    """The first sound track, resampled, channels averaged: float32 [n]."""
    blocks: list[Floats] = []
    length = 0
    for block in _mono(container.decode(audio=0), sample_rate):
        blocks.append(block)
        length += block.size
        if length > MAX_SPEECH_SECONDS * sample_rate:
            raise InputError(f"{path} lasts longer than {MAX_SPEECH_SECONDS // 60} minutes. Cut it into shorter recordings.")
    wave = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    stream = container.streams.audio[0]
    if "mp4" in container.format.name and stream.duration and stream.time_base:  # the end of the last AAC block is padding
        wave = wave[: round(stream.duration * stream.time_base * sample_rate)]
    return wave


def _mono(frames: Iterable[av.AudioFrame], sample_rate: int) -> Iterator[Floats]:
    """Resampled blocks float32 [n]; a recording may be spliced of several formats, each of which needs its own resampler."""
    import av

    for _, alike in groupby(frames, key=lambda frame: (frame.format.name, frame.layout.name, frame.sample_rate)):
        resampler = av.AudioResampler(format="fltp", rate=sample_rate)
        for frame in chain(alike, [None]):  # None: the samples that the resampler still holds
            for resampled in resampler.resample(frame):
                yield resampled.to_ndarray().mean(axis=0, dtype=np.float32)
