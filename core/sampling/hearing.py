"""Hearing: a voice of any length through an audio encoder that reads so many samples at once; numpy alone.

The released encoder (wav2vec2) depends on the whole recording in three ways. Its input has zero mean and unit variance over the
recording; its first layer normalises each channel over time; its transformer attends to every row. A player that encoded window
after window, each alone, would hear a pause as loud as speech. So

1. the voice is normalised as a whole,
2. the first layer's statistics are those of the whole voice: its outputs are products of one kernel with windows of the samples, so
   that their mean and variance follow from the windows' mean and covariance (`moments`),
3. the program reads context on both sides of what is kept, and rows beyond the voice are marked as absent (`present`).

A voice that fits into one reading is heard exactly as by the encoder itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..bundle import DECODE_PROGRAMS, Hearing, PlayingRecord
from ..config import TEMPORAL_STRIDE, ModelConfig
from ..errors import BundleError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
CONTEXT_SECONDS = 6.0  # on either side of what is kept: chosen by the table in docs/FIGURES.md
_LEAST_VARIANCE = 1e-7  # added to the variance, as wav2vec2's own feature extractor does
_SLICE = 1 << 16  # windows whose products are summed at once


def playing_of(config: ModelConfig, text_rows: int | None = None) -> PlayingRecord:
    """What a player has to know of a model that it plays without a bundle, its programs of any length; `text_rows`: of a prompt,
    its padding collapsed, by default all."""
    rows = config.text_len if text_rows is None else text_rows
    full = {"full": DECODE_PROGRAMS["full"]}
    return PlayingRecord.of(config, text_rows=rows, reads_text=True, hearing=Hearing.of(config), decoders=full)


def window_rows(hearing: Hearing, latent_frames: int) -> int:
    """Rows of features that a window of so many latent frames takes, with those beyond its last frame."""
    return hearing.rows_per_frame * (TEMPORAL_STRIDE * (latent_frames - 1) + 1 + hearing.beyond_frames)


def window_inputs(heard: Float32, hearing: Hearing, latent_frames: int | None) -> list[Float32]:
    """What the condition encoding takes of the rows [rows, …] that a window hears: them with a batch axis, and, where a window
    hears beyond its last frame, which of them are there. `latent_frames`: of a program of fixed shape, whose missing rows are
    zeros."""
    if not hearing.beyond_frames:
        return [np.ascontiguousarray(heard[None])]
    rows = len(heard) if latent_frames is None else window_rows(hearing, latent_frames)
    sound = np.zeros((1, rows, *heard.shape[1:]), np.float32)
    sound[0, : len(heard)] = heard
    return [sound, (np.arange(rows) < len(heard)).astype(np.float32)[None]]


@dataclass(frozen=True)
class Reading:
    """One call of the audio program: it reads video frames `start` to `end - 1`, of which `first` to `last - 1` are kept."""

    start: int
    end: int
    first: int
    last: int


def readings(frames: int, reach: int, hearing: Hearing) -> Iterator[Reading]:
    """The calls that hear `frames` video frames, `reach` of them at once.

    Raises:
        BundleError: nothing would be left of a reading between its contexts.
    """
    behind = max(hearing.context_frames, hearing.tail_frames)
    if reach <= hearing.context_frames + behind:
        raise BundleError(
            f"The audio encoder reads {reach} frames at once, {hearing.context_frames} of them as context on either side: nothing "
            "is left to keep. Export the bundle again."
        )
    total, first = frames + hearing.tail_frames, 0
    while first < frames:
        start = max(0, min(first - hearing.context_frames, total - reach))
        end = start + reach
        last = frames if end >= total else min(frames, end - behind)
        yield Reading(start, end, first, last)
        first = last


def hear(
    speech: Float32,
    frames: int,
    samples_per_frame: int,
    samples: int,
    hearing: Hearing,
    run: Callable[[Sequence[NDArray[Any]]], NDArray[Any]],
    done: Callable[[int, int], None] = lambda *_: None,
) -> Float32:
    """speech [n] -> rows of features of its first `frames` video frames, silence behind its end.

    `run` calls the program, which reads `samples` samples [1, samples] at once, with what `hearing.window` adds to them, and gives
    the rows of one reading; `done(readings so far, of how many)` is called after each.
    """
    reach, per_frame = samples // samples_per_frame, hearing.rows_per_frame
    more = samples % samples_per_frame  # that the program reads beyond a reading's last frame
    total = frames + hearing.tail_frames
    own = (min(frames, -(-len(speech) // samples_per_frame)) + hearing.tail_frames) * samples_per_frame
    sound = lengthened(speech[: frames * samples_per_frame + more], total * samples_per_frame + more)
    statistics = []
    if hearing.window is not None:
        sound = normalised(sound, own)
        statistics = [moments(sound[:own], *hearing.window)]
    kept = []
    calls = list(readings(frames, reach, hearing))
    for number, reading in enumerate(calls):
        inputs = [lengthened(sound[reading.start * samples_per_frame :], samples)[None], *statistics]
        if hearing.window is not None:
            there = min(total, reading.end) - reading.start
            inputs.append(present(there, reach, per_frame))
        rows = run(inputs)
        kept.append(rows[(reading.first - reading.start) * per_frame : (reading.last - reading.start) * per_frame])
        done(number + 1, len(calls))
    return np.concatenate(kept)


def lengthened(sound: Float32, samples: int) -> Float32:
    """[n] cut, or lengthened with silence, to `samples`."""
    padded = np.zeros(samples, np.float32)
    padded[: min(len(sound), samples)] = sound[:samples]
    return padded


def normalised(sound: Float32, own: int) -> Float32:
    """[n] shifted and scaled so that its first `own` samples, the recording, have zero mean and unit variance."""
    recording = sound[:own].astype(np.float64)
    return ((sound - recording.mean()) / np.sqrt(recording.var() + _LEAST_VARIANCE)).astype(np.float32)


def moments(sound: Float32, length: int, stride: int) -> Float32:
    """Mean and covariance of the windows of `length` samples, one every `stride`, of a recording [n]: [1, length + 1, length].

    Row 0 is the mean; the others are the columns of a lower triangular matrix L with L·Lᵀ the covariance. A kernel w has the mean
    w·m and the variance Σ (w·l)² over these columns.
    """
    windows = sliding_window_view(sound, length)[::stride]
    total, products = np.zeros(length), np.zeros((length, length))
    for start in range(0, len(windows), _SLICE):
        some = windows[start : start + _SLICE].astype(np.float64)
        total += some.sum(0)
        products += some.T @ some
    mean = total / len(windows)
    factor = lower_factor(products / len(windows) - np.outer(mean, mean))
    return np.ascontiguousarray(np.concatenate([mean[None], factor.T])[None], np.float32)


def lower_factor(matrix: Float64) -> Float64:
    """Cholesky's lower triangular factor of a symmetric matrix without negative eigenvalues; it may be singular, as that of a sound
    with few frequencies is: a column without a pivot stays zero."""
    factor = np.zeros_like(matrix)
    least = 1e-13 * max(float(matrix.diagonal().max()), 0.0)  # what rounding leaves of a pivot that is zero
    for column in range(len(matrix)):
        rest = matrix[column:, column] - factor[column:, :column] @ factor[column, :column]
        if rest[0] > least:
            factor[column:, column] = rest / np.sqrt(rest[0])
    return factor


def present(frames: int, reach: int, rows_per_frame: int) -> Float32:
    """Which rows of a reading of `reach` frames are there when the sound fills `frames` of them: 1 or 0, [1, rows]. The last of a
    frame's rows takes samples of the next frame, which the sound's last frame does not have."""
    less = rows_per_frame - 1
    return (np.arange(rows_per_frame * reach - less) < rows_per_frame * frames - less).astype(np.float32)[None]
