"""Colours that stay where the first frame has them: every channel of LAB is moved to the reference's mean and standard deviation.

Long clips drift in colour, so upstream saves its frames like this. Pixels are uint8 [H, W, 3], sRGB. LAB (CIE 1976, D65) is in the
scale of 8-bit pictures: L · 255/100, a + 128, b + 128.

Upstream rounds LAB to 8 bits on the way there and back, which moves saturated colours by up to 27 levels even where nothing is to
be matched; here LAB is not rounded. With `upstream_compat` it is, in the integer arithmetic that upstream's library has for it: one
level of LAB decides over many levels of RGB, so anything close would not do.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import InputError

Pixels = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

# Linear sRGB to XYZ, and XYZ of white, as upstream's library has them.
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.950456, 1.0, 1.088754])
_DARK = 216 / 24389  # below it the cube root of LAB is a straight line
_SLOPE, _OFFSET = 841 / 108, 16 / 116

_FLAT = 0.005  # a standard deviation below this, in levels, is none

# The integer arithmetic: bits behind the point of the matrix, of linear light and of the root.
_MATRIX_BITS, _LIGHT_BITS = 12, 3
_ROOT_BITS = _MATRIX_BITS + _LIGHT_BITS


# ---- RGB <-> LAB -----------------------------------------------------------------------------------------------------------------


def _linear(srgb: Doubles) -> Doubles:
    """sRGB in 0 … 1 -> linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@cache
def _linear_levels() -> Doubles:
    return _linear(np.arange(256) / 255)


def rgb_to_lab(pixels: Pixels) -> Doubles:
    """uint8 [..., 3] -> LAB in levels, not rounded."""
    xyz = _linear_levels()[pixels] @ (_TO_XYZ / _WHITE[:, None]).T
    fx, fy, fz = np.moveaxis(np.where(xyz > _DARK, np.cbrt(xyz), _SLOPE * xyz + _OFFSET), -1, 0)
    return np.stack([(116 * fy - 16) * 2.55, 500 * (fx - fy) + 128, 200 * (fy - fz) + 128], -1)


def lab_to_rgb(lab: Doubles) -> Pixels:
    """LAB in levels [..., 3] -> uint8, rounded; colours that sRGB has not are cut off."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    fy = (lightness / 2.55 + 16) / 116
    f = np.stack([fy + (a - 128) / 500, fy, fy - (b - 128) / 200], -1)
    xyz = np.where(f > np.cbrt(_DARK), f**3, (f - _OFFSET) / _SLOPE) * _WHITE
    linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


@cache
def _integer_tables() -> tuple[Integers, Integers, Integers]:
    """Linear light by level, the root by linear light, and the matrix. Roots are in single precision: three round otherwise."""
    light = np.rint(_linear_levels() * 255 * 2**_LIGHT_BITS).astype(np.int64)
    x = (np.arange(256 * 3 // 2 * 2**_LIGHT_BITS) / (255 * 2**_LIGHT_BITS)).astype(np.float32).astype(np.float64)
    root = np.where(x < _DARK, _SLOPE * x + _OFFSET, x ** float(np.float32(1 / 3))).astype(np.float32)
    matrix = np.rint(2**_MATRIX_BITS * _TO_XYZ / _WHITE[:, None]).astype(np.int64)
    return light, np.rint(root.astype(np.float64) * 2**_ROOT_BITS).astype(np.int64), matrix


def _shifted(values: Integers, bits: int) -> Integers:
    """values / 2^bits, rounded, halves up."""
    return (values + (1 << bits - 1)) >> bits


def rgb_to_lab8(pixels: Pixels) -> Pixels:
    """uint8 [..., 3] -> LAB in whole levels, to the last bit what upstream's library (OpenCV) computes."""
    light, root, matrix = _integer_tables()
    fx, fy, fz = np.moveaxis(root[_shifted(light[pixels] @ matrix.T, _MATRIX_BITS)], -1, 0)
    scale, offset = (116 * 255 + 50) // 100, -((16 * 255 * 2**_ROOT_BITS + 50) // 100)
    middle = 128 * 2**_ROOT_BITS
    lab = np.stack([scale * fy + offset, 500 * (fx - fy) + middle, 200 * (fy - fz) + middle], -1)
    return np.clip(_shifted(lab, _ROOT_BITS), 0, 255).astype(np.uint8)


# ---- matching --------------------------------------------------------------------------------------------------------------------


def _lab(pixels: Pixels, upstream_compat: bool) -> Doubles:
    return rgb_to_lab8(pixels).astype(np.float64) if upstream_compat else rgb_to_lab(pixels)


def _statistics(lab: Doubles, upstream_compat: bool) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation of each channel; upstream's have two decimals."""
    mean, deviation = lab.mean((0, 1)), lab.std((0, 1))
    return (np.around(mean, 2), np.around(deviation, 2)) if upstream_compat else (mean, deviation)


class ColourMatcher:
    """Gives every frame the colours of the first one, which stays as it is; one after the other, in constant memory."""

    def __init__(self, reference: Pixels | None = None, upstream_compat: bool = False) -> None:
        """`reference`: the picture to match; None for the first frame."""
        self.upstream_compat = upstream_compat
        self._target: tuple[Doubles, Doubles] | None = None
        if reference is not None:
            self._learn(reference)

    def _learn(self, reference: Pixels) -> None:
        _require_pixels(reference)
        self._target = _statistics(_lab(reference, self.upstream_compat), self.upstream_compat)

    def __call__(self, frame: Pixels) -> Pixels:
        """uint8 [H, W, 3] -> the same with the reference's mean and standard deviation in L, a and b.

        A channel without any spread keeps its spread of none and takes on the mean.

        Raises:
            InputError: the frame has another shape or type, or no pixels.
        """
        if self._target is None:
            self._learn(frame)
            return frame
        _require_pixels(frame)
        lab = _lab(frame, self.upstream_compat)
        (mean, deviation), (wanted_mean, wanted_deviation) = _statistics(lab, self.upstream_compat), self._target
        flat = deviation < _FLAT
        scale = np.where(flat, 1.0, wanted_deviation / np.where(flat, 1.0, deviation))
        matched = np.clip((lab - mean) * scale + wanted_mean, 0, 255)
        return lab_to_rgb(np.rint(matched) if self.upstream_compat else matched)


def match_colours(frame: Pixels, reference: Pixels, upstream_compat: bool = False) -> Pixels:
    """`frame` with the colours of `reference`, uint8 [H, W, 3] of any sizes. Source: upstream `color_transfer`.

    Raises:
        InputError: either is no such picture.
    """
    return ColourMatcher(reference, upstream_compat)(frame)


def _require_pixels(pixels: NDArray[Any]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(f"A frame to match is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [height, width, 3].")
