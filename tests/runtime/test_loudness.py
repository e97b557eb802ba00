"""runtime/play/loudness.py: pyloudnorm measures the same, whatever the sound, its length and its rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyloudnorm import Meter

from echoedge.runtime.play.loudness import integrated_loudness

TOLERANCE = 1e-9  # LU; at most 3e-14 was measured


def speechlike(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise whose level rises and falls by 60 dB, so that both gates have something to close on."""
    count = round(seconds * rate)
    level = 10 ** (-1.5 + 1.5 * np.sin(np.arange(count) / rate * 2))
    return np.random.default_rng(seed).standard_normal(count) * level * 0.1


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("seconds", [0.4, 0.5, 0.637, 1.0, 7.77])
def test_pyloudnorm_measures_the_same(seconds: float, rate: int) -> None:
    wave = speechlike(seconds, rate)
    wanted = Meter(rate).integrated_loudness(wave)
    assert abs(integrated_loudness(wave, rate) - wanted) < TOLERANCE
    assert abs(integrated_loudness(wave * 1.0001, rate) - wanted) > TOLERANCE


def test_a_constant_and_a_low_tone_are_hardly_heard() -> None:
    """The high-pass filter: without it a constant of 0.5 would measure about -6.7 LUFS."""
    assert integrated_loudness(np.full(160_000, 0.5), 16000) < -30
    tone = np.sin(2 * math.pi * 997 * np.arange(480_000) / 48000)
    assert abs(integrated_loudness(tone, 48000) - -3.01) < 0.05  # the standard's own calibration, full scale at 997 Hz


def test_what_is_below_the_gates_has_no_loudness() -> None:
    assert integrated_loudness(np.zeros(16000), 16000) == -math.inf
    assert integrated_loudness(speechlike(2, 16000) * 1e-6, 16000) == -math.inf
    loud = speechlike(3, 16000)
    assert abs(integrated_loudness(np.concatenate([loud, np.zeros(160_000)]), 16000) - integrated_loudness(loud, 16000)) < 1
