"""What of a voice the mouth shows: loudness and rounding of the lips, one value a video frame.

`envelope` is loudness relative to the loud parts of the same clip. The puppets' mouths follow it and the lip-sync metric correlates
with it, so neither depends on the recording level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Floats = NDArray[np.float32]
SAMPLE_RATE = 16000
FPS = 25
ENVELOPE_WINDOW = 0.12  # seconds of the Hann window of one RMS value
SILENCE_RMS = 1e-4  # −80 dBFS: audio whose loud parts are quieter than this is silence


def _mono(waveform: NDArray[np.floating]) -> NDArray[np.float64]:
    audio = np.asarray(waveform, np.float64)
    if audio.ndim != 1 or audio.size == 0:
        raise InputError(f"The waveform has shape {audio.shape}; it must be mono samples, [samples].")
    if not np.isfinite(audio).all():
        raise InputError("The waveform holds values that are not finite.")
    return audio


def frame_rms(waveform: NDArray[np.floating], frames: int, fps: int = FPS, sample_rate: int = SAMPLE_RATE) -> Floats:
    """RMS of a Hann window of `ENVELOPE_WINDOW` seconds at the middle of each video frame: float32 [frames].

    Audio beyond the ends counts as silence; samples after the last frame are ignored.

    Raises:
        InputError: the waveform is not one-dimensional, not finite or empty, or `frames` is below 1.
    """
    audio = _mono(waveform)
    if frames < 1:
        raise InputError(f"frames is {frames}; it must be at least 1.")
    half = round(ENVELOPE_WINDOW * sample_rate / 2)
    window = np.hanning(2 * half + 1)
    centres = np.round((np.arange(frames) + 0.5) * sample_rate / fps).astype(int)
    length = int(centres[-1]) + half + 1
    padded = np.zeros(half + length)
    used = min(audio.size, length)
    padded[half : half + used] = audio[:used] ** 2
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)[centres]
    return np.asarray(np.sqrt(windows @ window / window.sum()), np.float32)


def envelope(waveform: NDArray[np.floating], frames: int, fps: int = FPS, sample_rate: int = SAMPLE_RATE) -> Floats:
    """Loudness per video frame relative to the clip's loud parts: float32 [frames], 0 = silence, about 1 = loud (at most 1.5).

    It is `frame_rms`, smoothed over frames by (¼, ½, ¼), divided by its own 95th percentile over the clip. Scaling the waveform
    therefore changes nothing, and the mouth opens as wide for a quiet recording as for a loud one. Silence gives zeros.

    Raises:
        InputError: as `frame_rms`.
    """
    rms = frame_rms(waveform, frames, fps, sample_rate)
    padded = np.pad(rms, 1, mode="edge")
    smooth = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    loud = float(np.percentile(smooth, 95))
    if loud < SILENCE_RMS:
        return np.zeros(frames, np.float32)
    return np.asarray(np.minimum(smooth / loud, 1.5), np.float32)


def rounding(waveform: NDArray[np.floating], frames: int, fps: int = FPS, sample_rate: int = SAMPLE_RATE) -> Floats:
    """How rounded the lips are, per video frame: float32 [frames] in [0, 1], 1 for o and u, 0 for e and i.

    It is the balance of energy below and above 1.4 kHz, since the second formant of rounded vowels is low; frames without energy
    give 0.5.

    Raises:
        InputError: as `frame_rms`.
    """
    audio = _mono(waveform)
    spectrum = np.fft.rfft(audio)
    frequency = np.fft.rfftfreq(audio.size, 1.0 / sample_rate)
    low = np.fft.irfft(spectrum * ((frequency > 150.0) & (frequency < 1400.0)), audio.size)
    high = np.fft.irfft(spectrum * ((frequency >= 1400.0) & (frequency < 3200.0)), audio.size)
    below = frame_rms(low, frames, fps, sample_rate) + 1e-5
    above = frame_rms(high, frames, fps, sample_rate) + 1e-5
    level = np.clip((20.0 * np.log10(below / above) - 4.0) / 16.0, 0.0, 1.0)
    level = np.where(below + above < 1e-4, 0.5, level)
    padded = np.pad(level, 1, mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:], np.float32)
