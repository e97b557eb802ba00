"""Noise from a counter-based generator, the same bits in every language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .plan import Float32, Float64, check_seed

_MASK32 = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: npt.ArrayLike, key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    `counter` is [4, ...] and `key` two words, all unsigned 32-bit; returns [4, ...] uint32.
    """
    c0, c1, c2, c3 = np.asarray(counter, dtype=np.uint64)
    k0, k1 = key
    mask, shift = np.uint64(_MASK32), np.uint64(32)
    m0, m1 = (np.uint64(multiplier) for multiplier in _PHILOX_MULTIPLIERS)
    for _ in range(10):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & mask, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + _PHILOX_WEYL[0]) & _MASK32, (k1 + _PHILOX_WEYL[1]) & _MASK32
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def noise(seed: int, shape: Sequence[int], first_frame: int = 0) -> Float32:
    """Standard normal latents [C, F, h, w], float32, whose frame f is latent frame `first_frame + f` of the endless clip of `seed`.

    The address of a value depends on its frame, channel, row and column alone, so a longer clip begins with the same frames:
    - Within a frame, values are numbered e = (channel · h + row) · w + column; block e // 4 gives four of them.
    - The block's words (u0, u1, u2, u3) are Philox4x32-10 of counter (e // 4, latent frame, 0, 0) and of the seed's low and high
      32 bits as key.
    - A word u is the uniform (u + 0.5) / 2^32, never 0 or 1. Values 0 and 1 of the block are r·cos(2π·U(u1)) and r·sin(2π·U(u1))
      with r = sqrt(-2 ln U(u0)); values 2 and 3 come from u2 and u3 in the same way (Box and Muller 1958).
    - `log` and `cos_sin_turns` use only float64 operations that IEEE 754 rounds exactly (+, -, ×, ÷, sqrt, no fused
      multiply-add), so every language gets the same bits; each product r·cos, r·sin is rounded once, to nearest even, to float32.

    Raises:
        ConfigError: the seed is not an integer of 0 .. 2^64-1, or the shape is not four sizes of at least 1.
    """
    seed = check_seed(seed)
    if len(shape) != 4 or any(size < 1 for size in shape) or first_frame < 0:
        raise ConfigError(
            f"Noise of shape {tuple(shape)} from latent frame {first_frame}: give four sizes from 1 and a frame from 0."
        )
    channels, frames, height, width = shape
    per_frame = channels * height * width
    blocks = (per_frame + 3) // 4
    if blocks > _MASK32 or first_frame + frames > _MASK32:
        raise ConfigError(
            f"Noise of shape {tuple(shape)} from latent frame {first_frame} is beyond the generator's 2^32 blocks or frames."
        )
    latents = np.empty((frames, per_frame), dtype=np.float32)
    counter = np.zeros((4, blocks), dtype=np.uint64)
    counter[0] = np.arange(blocks, dtype=np.uint64)
    for frame in range(frames):
        counter[1] = first_frame + frame
        normals = box_muller(philox(counter, (seed & _MASK32, seed >> 32))).normals
        latents[frame] = normals.T.reshape(-1)[:per_frame]  # rounded to float32
    return np.ascontiguousarray(latents.reshape(frames, channels, height, width).swapaxes(0, 1))


class BoxMuller(NamedTuple):
    """What becomes of the words [4, m] of m blocks, float64: uniforms [4, m]; ln of those of words 0 and 2, cosines and sines of
    those of words 1 and 3, [2, m]; normals [4, m], before they are rounded to float32."""

    uniforms: Float64
    logarithms: Float64
    cosines: Float64
    sines: Float64
    normals: Float64


def box_muller(words: npt.NDArray[np.uint32]) -> BoxMuller:
    """Four standard normals from the four words of each block, uint32 [4, m]."""
    uniforms = (words.astype(np.float64) + 0.5) / 4294967296.0
    logarithms = log(uniforms[0::2])
    radius = np.sqrt(-2.0 * logarithms)
    cosines, sines = cos_sin_turns(uniforms[1::2])
    normals = np.empty(words.shape)
    normals[0::2] = radius * cosines
    normals[1::2] = radius * sines
    return BoxMuller(uniforms, logarithms, cosines, sines, normals)


_LN2 = 0.6931471805599453


def log(x: Float64) -> Float64:
    """ln x for normal x > 0, relative error below 4e-16.

    x = m · 2^e with m in [√½, √2); ln x = e · ln 2 + 2 s (1 + s²/3 + s⁴/5 + … + s²⁰/21), s = (m - 1) / (m + 1), by Horner's rule.
    """
    mantissa, exponent = np.frexp(x)  # mantissa in [0.5, 1)
    low = mantissa < 0.7071067811865476
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = (exponent - low).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, 1.0 / 21.0)
    for odd in range(19, 0, -2):
        series = series * square + 1.0 / odd
    return power * _LN2 + 2.0 * s * series


def cos_sin_turns(u: Float64) -> tuple[Float64, Float64]:
    """cos 2πu and sin 2πu for u in [0, 1), absolute error below 4e-16.

    The nearest quarter turn q = floor(4u + ½) leaves y = (4u - q) · π/2 in [-π/4, π/4] for the Taylor series up to y¹⁸ and y¹⁷, by
    Horner's rule in y²; q mod 4 then swaps and negates.
    """
    quarter = np.floor(4.0 * u + 0.5)
    y = (4.0 * u - quarter) * 1.5707963267948966
    square = y * y
    cosine = np.full_like(y, -1.0 / math.factorial(18))
    sine = np.full_like(y, 1.0 / math.factorial(17))
    for order in range(16, -1, -2):
        cosine = cosine * square + (-1.0) ** (order // 2) / math.factorial(order)
    for order in range(15, 0, -2):
        sine = sine * square + (-1.0) ** (order // 2) / math.factorial(order)
    sine = sine * y
    turn = quarter.astype(np.int64) % 4
    return np.choose(turn, [cosine, -sine, -cosine, sine]), np.choose(turn, [sine, cosine, -sine, -cosine])
