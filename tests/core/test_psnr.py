"""PSNR, cosine and largest difference against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echoedge.core.errors import InputError
from echoedge.core.metrics.psnr import CAP, cosine, max_abs, psnr


def test_psnr_of_a_known_error() -> None:
    a = np.full((4, 4), 100, np.uint8)
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255), abs=1e-9)
    assert psnr(a, a + np.uint8(10)) == pytest.approx(20 * math.log10(25.5), abs=1e-9)


def test_bytes_do_not_wrap_around() -> None:
    assert psnr(np.zeros(4, np.uint8), np.full(4, 255, np.uint8)) == pytest.approx(0.0)
    assert max_abs(np.zeros(4, np.uint8), np.full(4, 255, np.uint8)) == 255.0


def test_float_references_use_their_own_range_unless_told() -> None:
    a = np.asarray([-1.0, 0.0, 1.0])
    b = a + 0.1
    assert psnr(a, b) == pytest.approx(20 * math.log10(20), abs=1e-9)
    assert psnr(a, b, peak=1.0) == pytest.approx(20.0, abs=1e-9)


def test_small_errors_are_seen_in_float64() -> None:
    """float32 arithmetic would lose 1e-9 beside 1; the twin, no error at all, reaches the cap."""
    a = np.linspace(0, 1, 100)
    assert psnr(a, a + 1e-5) == pytest.approx(100.0, abs=1e-3)
    assert psnr(a, a) == CAP and psnr(a, a + 1e-9) == CAP


def test_not_a_number_is_not_hidden() -> None:
    broken = np.asarray([0.0, np.nan])
    assert math.isnan(psnr(np.asarray([0.0, 1.0]), broken)) and math.isnan(max_abs(np.asarray([0.0, 1.0]), broken))
    assert math.isnan(cosine(np.asarray([0.0, 1.0]), broken))


def test_cosine() -> None:
    assert cosine(np.asarray([[1.0, 0.0]]), np.asarray([[1.0, 1.0]])) == pytest.approx(math.sqrt(0.5))
    assert cosine(np.ones(3), -2 * np.ones(3)) == pytest.approx(-1.0)
    assert cosine(np.zeros(3), np.zeros(3)) == 1.0 and cosine(np.zeros(3), np.ones(3)) == 0.0


@pytest.mark.parametrize("measure", [psnr, cosine, max_abs])
def test_shapes_must_match_and_not_be_empty(measure) -> None:
    with pytest.raises(InputError, match="shapes"):
        measure(np.zeros(3), np.zeros((3, 1))) if measure is not psnr else psnr(np.zeros(3), np.zeros((3, 1)), peak=1.0)
    with pytest.raises(InputError, match="empty"):
        measure(np.zeros(0), np.zeros(0))


def test_a_constant_reference_needs_a_peak() -> None:
    with pytest.raises(InputError, match="peak"):
        psnr(np.ones(3), np.zeros(3))
    assert psnr(np.ones(3), np.zeros(3), peak=1.0) == pytest.approx(0.0)
