"""Clips in which somebody speaks between two silences, drawn with what a room or a recorder adds to a silence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.mouth import mouth_opening
from ..metrics.silence import Silence, silence
from ..metrics.voice import FPS, SAMPLE_RATE
from .puppets import HELD_OUT_SEED, PuppetClip, draw_clip, draw_voice

Floats = NDArray[np.float32]
SECONDS = (6.0, 3.0, 6.0)  # of silence, speech and silence
MARGIN_SECONDS = 0.24
"""Beside speech that counts as neither: loudness is a window of 0.12 s, smoothed over frames, and a latent frame lasts 0.16 s."""


@dataclass(frozen=True)
class Background:
    """Noise under a whole recording: RMS `dbfs` in dB of full scale, falling by `octave_db` per octave above 50 Hz."""

    dbfs: float
    octave_db: float


BACKGROUNDS: dict[str, Background | None] = {
    "silence": None,
    "room noise, −50 dBFS": Background(-50.0, 6.0),
    "pink noise, −40 dBFS": Background(-40.0, 3.0),
}


@dataclass(frozen=True)
class QuietClip:
    """`clip.waveform` is what is heard, noise included; its mouth follows the voice alone. `spoken`, `quiet`: booleans [T]."""

    clip: PuppetClip
    spoken: NDArray[np.bool_]
    quiet: NDArray[np.bool_]

    def judged(self, video: NDArray[np.uint8]) -> Silence:
        """The mouth of a clip that was made from this one's portrait and sound, uint8 [T, H, W, 3]."""
        return silence(mouth_opening(video, self.clip.mouth_box), self.spoken, self.quiet)


def noise(rng: np.random.Generator, samples: int, background: Background) -> Floats:
    """Gaussian noise of the background's colour and level, [samples] at 16 kHz."""
    frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequency, 50.0) / 50.0)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * 10.0 ** (-background.octave_db * octaves / 20.0)
    spectrum[0] = 0.0
    shaped = np.fft.irfft(spectrum, samples)
    return np.asarray(shaped * (10.0 ** (background.dbfs / 20.0) / np.sqrt(np.mean(shaped**2))), np.float32)


def quiet_clip(seed: int, background: Background | None = None, seconds: tuple[float, float, float] = SECONDS) -> QuietClip:
    """The person and prompt of `seed`, who speaks between two silences; `seconds` of silence, speech and silence.

    Raises:
        InputError: a silence is no longer than `MARGIN_SECONDS`, or there is no speech.
    """
    before, speech, behind = seconds
    if min(before, behind) <= MARGIN_SECONDS or speech < 1.0:
        raise InputError(
            f"{before}, {speech} and {behind} s of silence, speech and silence are too short: more than {MARGIN_SECONDS} s, "
            "1 s and as much again are needed."
        )
    voice = draw_voice(seed, draw_clip(seed, 1).identity, speech)
    silences = [np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (before, behind)]
    sound = np.concatenate([silences[0], voice, silences[1]])
    frames = len(sound) * FPS // SAMPLE_RATE
    drawn = draw_clip(seed, frames, waveform=sound)
    if background is not None:
        sound = sound + noise(np.random.default_rng([seed, 4]), len(sound), background)
    middle = (np.arange(frames) + 0.5) / FPS
    quiet = (middle < before - MARGIN_SECONDS) | (middle > before + speech + MARGIN_SECONDS)
    return QuietClip(replace(drawn, waveform=sound), (middle >= before) & (middle <= before + speech), quiet)


def quiet_clips(
    count: int, first: int, background: Background | None, seconds: tuple[float, float, float] = SECONDS
) -> list[QuietClip]:
    """`quiet_clip`s of people and voices outside the training seeds."""
    return [quiet_clip(HELD_OUT_SEED + first + i, background, seconds) for i in range(count)]
