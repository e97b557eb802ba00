"""Speech-like audio for the procedural data set.

`synthesise` is a small formant synthesiser: harmonics of a wandering fundamental are weighted by the response of four formant
resonators that glide among the vowels a e i o u; fricatives are shaped noise. Its syllables are slow (2 to 4 per second), because
the video autoencoder keeps one latent frame for four video frames and would lose faster ones.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics.voice import FPS, SAMPLE_RATE

Floats = NDArray[np.float32]

# Formant centre frequencies of an adult male voice, Hz (after Peterson & Barney 1952), and the vowel's natural loudness.
VOWELS: dict[str, tuple[tuple[float, float, float, float], float]] = {
    "a": ((730.0, 1090.0, 2440.0, 3400.0), 1.0),
    "e": ((530.0, 1840.0, 2480.0, 3500.0), 0.8),
    "i": ((270.0, 2290.0, 3010.0, 3600.0), 0.6),
    "o": ((570.0, 840.0, 2410.0, 3300.0), 0.9),
    "u": ((300.0, 870.0, 2240.0, 3250.0), 0.65),
}
FORMANT_BANDWIDTHS = (90.0, 110.0, 170.0, 250.0)
FORMANT_GAINS = (1.0, 0.63, 0.32, 0.18)

# Voice: fundamental range in Hz, vocal-tract scale of the formants.
VOICES: dict[str, tuple[tuple[float, float], float]] = {
    "male": ((95.0, 140.0), 1.0),
    "female": ((170.0, 235.0), 1.16),
    "child": ((250.0, 320.0), 1.32),
}

# Fricative: pass band in Hz.
FRICATIVES: dict[str, tuple[float, float]] = {"s": (4200.0, 7600.0), "sh": (2100.0, 5600.0), "f": (1400.0, 7600.0)}

SYLLABLE_RATE = (2.0, 4.0)  # per second
_CONTROL_HOP = 80  # samples between control points (200 Hz)


@dataclass(frozen=True)
class Syllable:
    """One syllable: start and length in seconds, the consonant it begins with ("" for none) and its vowel."""

    start: float
    length: float
    consonant: str
    vowel: str


@dataclass(frozen=True)
class Speech:
    """Audio and what was said. `waveform` is float32 [samples] in [-1, 1] at `sample_rate`; `syllables` is empty for espeak."""

    waveform: Floats
    voice: str
    syllables: tuple[Syllable, ...] = ()
    sample_rate: int = SAMPLE_RATE

    @property
    def seconds(self) -> float:
        return len(self.waveform) / self.sample_rate


def _script(rng: np.random.Generator, seconds: float) -> tuple[Syllable, ...]:
    """Phrases of 2 to 6 syllables with pauses between them; time 0 falls at a random point of a phrase or a pause."""
    syllables: list[Syllable] = []
    time = -float(rng.uniform(0.0, 0.8))
    while time < seconds:
        rate = float(rng.uniform(*SYLLABLE_RATE))
        for _ in range(int(rng.integers(2, 7))):
            length = float(np.clip(rng.normal(1.0, 0.1), 0.85, 1.2)) / rate
            length = max(length, 1.0 / SYLLABLE_RATE[1])
            consonant = str(rng.choice(["", "m", "b", *FRICATIVES]))
            syllables.append(Syllable(time, length, consonant, str(rng.choice(list(VOWELS)))))
            time += length
        time += float(rng.uniform(0.15, 0.55))
    return tuple(s for s in syllables if s.start < seconds and s.start + s.length > 0)


def _controls(
    rng: np.random.Generator, script: tuple[Syllable, ...], points: int, tract: float
) -> tuple[Floats, dict[str, Floats], Floats]:
    """At the control rate: voicing amplitude [points], noise amplitude per fricative [points], formant frequencies [4, points]."""
    time = np.arange(points) * (_CONTROL_HOP / SAMPLE_RATE)
    voiced = np.zeros(points)
    noise = {name: np.zeros(points) for name in FRICATIVES}
    knots: list[float] = [-1e3]
    targets: list[tuple[float, ...]] = [VOWELS["e"][0]]
    for s in script:
        formants, loudness = VOWELS[s.vowel]
        onset = min(0.28 * s.length, 0.11) if s.consonant else 0.0
        phase = np.clip((time - s.start - onset) / (s.length - onset), 0.0, 1.0)
        # Rises faster than it falls, and reaches silence at both ends: the mouth closes between syllables.
        shape = np.sin(np.pi * phase**0.8) ** 1.3
        voiced += float(rng.uniform(0.65, 1.0)) * loudness**0.5 * shape
        if onset > 0.0:
            bump = np.sin(np.pi * np.clip((time - s.start) / (onset * 1.3), 0.0, 1.0)) ** 2
            if s.consonant in noise:
                noise[s.consonant] += 0.10 * bump
            elif s.consonant == "m":
                voiced += 0.10 * bump
        knots += [s.start + onset + 0.25 * (s.length - onset), s.start + onset + 0.75 * (s.length - onset)]
        targets += [formants, formants]
    track = np.stack([np.interp(time, knots, [t[k] for t in targets]) for k in range(4)]) * tract
    return voiced.astype(np.float32), {name: a.astype(np.float32) for name, a in noise.items()}, track.astype(np.float32)


def _upsample(control: Floats, samples: int) -> Floats:
    """Linear interpolation [points] -> [samples]."""
    ramp = np.arange(_CONTROL_HOP, dtype=np.float32) / _CONTROL_HOP
    return np.asarray(control[:-1, None] + (control[1:] - control[:-1])[:, None] * ramp, np.float32).reshape(-1)[:samples]


def _harmonics(rng: np.random.Generator, voiced: Floats, formants: Floats, pitch: tuple[float, float], samples: int) -> Floats:
    """The voiced part: every harmonic of f0 below 5 kHz, weighted by the glottal slope and the formant resonators."""
    points = voiced.shape[0]
    time = np.arange(points) * (_CONTROL_HOP / SAMPLE_RATE)
    base = float(rng.uniform(*pitch))
    wander = sum(
        depth * np.sin(2 * np.pi * (rate * time + rng.uniform()))
        for depth, rate in ((0.06, rng.uniform(0.3, 0.7)), (0.03, rng.uniform(1.0, 2.0)), (0.008, rng.uniform(4.5, 6.0)))
    )
    f0 = (base * (1.0 + wander)).astype(np.float32)
    phase = np.cumsum(_upsample(f0, samples), dtype=np.float64) * (2 * np.pi / SAMPLE_RATE)
    unit = np.exp(1j * phase).astype(np.complex64)
    wave_k = np.ones(samples, np.complex64)
    out = np.zeros(samples, np.float32)
    bandwidths = np.asarray(FORMANT_BANDWIDTHS, np.float32)[:, None]
    gains = np.asarray(FORMANT_GAINS, np.float32)[:, None]
    for k in range(1, int(5000.0 / base) + 1):
        wave_k *= unit
        resonance = (gains / np.sqrt(1.0 + ((k * f0 - formants) / bandwidths) ** 2)).sum(axis=0)
        out += _upsample(np.asarray(voiced * resonance / np.sqrt(k), np.float32), samples) * wave_k.imag
    return out


def _noise(rng: np.random.Generator, samples: int, band: tuple[float, float]) -> Floats:
    """White noise limited to `band` Hz with soft edges, unit RMS."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE)
    low, high = band
    spectrum *= 1.0 / (1.0 + np.exp((low - frequency) / 150.0)) / (1.0 + np.exp((frequency - high) / 150.0))
    shaped = np.fft.irfft(spectrum, samples)
    return np.asarray(shaped / (np.sqrt(np.mean(shaped**2)) + 1e-12), np.float32)


def synthesise(seed: int | np.random.Generator, seconds: float, voice: str | None = None) -> Speech:
    """Speech-like audio of `seconds`, the same for the same seed on every machine up to rounding.

    `voice` is one of `VOICES` (chosen by the seed where left out).

    Raises:
        InputError: `seconds` is shorter than one video frame, or the voice is unknown.
    """
    if not seconds >= 1.0 / FPS:
        raise InputError(f"seconds is {seconds}; speech must last at least one video frame, {1.0 / FPS} s.")
    if voice is not None and voice not in VOICES:
        raise InputError(f"There is no voice {voice!r}. Choose from: {', '.join(VOICES)}.")
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(list(VOICES)))
    pitch, tract = VOICES[voice or drawn]
    voice = voice or drawn
    samples = round(seconds * SAMPLE_RATE)
    points = -(-samples // _CONTROL_HOP) + 1
    script = _script(rng, seconds)
    voiced, noise, formants = _controls(rng, script, points, tract * float(rng.uniform(0.96, 1.04)))
    out = _harmonics(rng, voiced, formants, pitch, samples)
    rms = float(np.sqrt(np.mean(out**2))) + 1e-9
    for name, amplitude in noise.items():
        band = _noise(rng, samples, FRICATIVES[name])
        out += (3.0 * rms) * _upsample(amplitude, samples) * band
    out += rms * float(rng.uniform(0.002, 0.01)) * _noise(rng, samples, (60.0, 6000.0))
    out *= float(rng.uniform(0.4, 0.9)) / (float(np.abs(out).max()) + 1e-9)
    return Speech(out, voice, script)


def espeak_available() -> bool:
    """Whether the `espeak-ng` program is on this machine's path."""
    return shutil.which("espeak-ng") is not None


def espeak(text: str, voice: str = "en", words_per_minute: int = 90, pitch: int = 50) -> Speech:
    """`text` spoken by espeak-ng, resampled to 16 kHz. About 90 words a minute keep English below four syllables a second.

    Raises:
        InputError: espeak-ng is not installed, or it refuses the text or the voice.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError("espeak-ng is not installed. Install it with your package manager, or use speech.synthesise().")
    command = [program, "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "-a", "120", "--stdout", "--", text]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout.startswith(b"RIFF"):
        raise InputError(f"espeak-ng refused voice {voice!r}: {done.stderr.decode(errors='replace').strip() or 'no audio'}.")
    # espeak-ng writes 16-bit mono. Into a pipe its header holds no true length: `wave` then reads what is there.
    with wave.open(io.BytesIO(done.stdout)) as reader:
        rate = reader.getframerate()
        raw = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float64) / 32768.0
    if raw.size == 0:
        raise InputError(f"espeak-ng found nothing to say in {text!r}.")
    samples = round(raw.size / rate * SAMPLE_RATE)
    spectrum = np.fft.rfft(raw)
    bins = samples // 2 + 1
    resampled = np.zeros(bins, complex)
    resampled[: min(bins, len(spectrum))] = spectrum[:bins]
    waveform = np.fft.irfft(resampled, samples) * (samples / len(raw))
    return Speech(np.asarray(np.clip(waveform, -1.0, 1.0), np.float32), f"espeak:{voice}")
