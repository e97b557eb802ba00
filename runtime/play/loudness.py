"""Loudness after ITU-R BS.1770, mono: what pyloudnorm measures, without SciPy, whose import takes longer than playing a short clip.

Sound is float [n]. A filter of second order runs on blocks at once: what a block's samples give is one matrix product, and what the
block before it left is two numbers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
BLOCK_SECONDS = 0.4  # of one measurement; they overlap by three quarters
ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # below the mean of what passes the absolute gate
OFFSET = -0.691
FILTERED_AT_ONCE = 128


def integrated_loudness(wave: NDArray[np.floating], sample_rate: int) -> float:
    """Gated loudness of at least 0.4 s of sound in LUFS; -inf where nothing passes the gates."""
    weighted = wave.astype(np.float64)
    for numerator, denominator in (_high_shelf(4.0, math.sqrt(0.5), 1500.0 / sample_rate), _high_pass(0.5, 38.0 / sample_rate)):
        weighted = _filtered(weighted, numerator, denominator)
    count = round((wave.size / sample_rate - BLOCK_SECONDS) / (BLOCK_SECONDS / 4)) + 1
    edges = [(int(BLOCK_SECONDS * k * 0.25 * sample_rate), int(BLOCK_SECONDS * (k * 0.25 + 1) * sample_rate)) for k in range(count)]
    powers = np.array([np.sum(np.square(weighted[start:end])) for start, end in edges]) / (BLOCK_SECONDS * sample_rate)
    with np.errstate(divide="ignore"):
        levels = OFFSET + 10 * np.log10(powers)
    heard = levels >= ABSOLUTE_GATE
    if not heard.any():
        return -math.inf
    gate = OFFSET + 10 * math.log10(powers[heard].mean()) + RELATIVE_GATE
    return OFFSET + 10 * math.log10(powers[(levels > gate) & (levels > ABSOLUTE_GATE)].mean())


def _high_shelf(gain_db: float, q: float, frequency: float) -> tuple[Float64, Float64]:
    """Numerator and denominator, three coefficients each; `frequency` in cycles a sample (R. Bristow-Johnson's cookbook)."""
    a, w = 10 ** (gain_db / 40), 2 * math.pi * frequency
    cos, width = math.cos(w), 2 * math.sqrt(a) * math.sin(w) / (2 * q)
    b = np.array([a * (a + 1 + (a - 1) * cos + width), -2 * a * (a - 1 + (a + 1) * cos), a * (a + 1 + (a - 1) * cos - width)])
    c = np.array([a + 1 - (a - 1) * cos + width, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - width])
    return b / c[0], c / c[0]


def _high_pass(q: float, frequency: float) -> tuple[Float64, Float64]:
    """As `_high_shelf`."""
    w = 2 * math.pi * frequency
    cos, alpha = math.cos(w), math.sin(w) / (2 * q)
    return np.array([(1 + cos) / 2, -(1 + cos), (1 + cos) / 2]) / (1 + alpha), np.array([1 + alpha, -2 * cos, 1 - alpha]) / (
        1 + alpha
    )


def _filtered(x: Float64, b: Float64, a: Float64) -> Float64:
    """y[n] = b0 x[n] + b1 x[n-1] + b2 x[n-2] - a1 y[n-1] - a2 y[n-2], from rest: float64 [n] -> [n]."""
    length = FILTERED_AT_ONCE
    blocks = np.pad(x, (0, -x.size % length)).reshape(-1, length)
    step = np.array([[-a[1], 1.0], [-a[2], 0.0]])  # the state [2] from sample to sample; the output is its first number and b0 x
    taken = np.array([b[1] - a[1] * b[0], b[2] - a[2] * b[0]])
    powers = [np.eye(2)]
    for _ in range(length):
        powers.append(step @ powers[-1])
    seen = np.stack([power[0] for power in powers[:length]])  # [length, 2]: output of a state
    response = np.concatenate([b[:1], seen[:-1] @ taken])
    lags = np.subtract.outer(np.arange(length), np.arange(length))
    left = blocks @ np.stack([powers[length - 1 - k] @ taken for k in range(length)])  # [blocks, 2]
    states = np.empty_like(left)
    state = np.zeros(2)
    for index, given in enumerate(left):
        states[index] = state
        state = powers[length] @ state + given
    y: Float64 = blocks @ np.where(lags >= 0, response[lags], 0.0).T + states @ seen.T
    return y.ravel()[: x.size]
