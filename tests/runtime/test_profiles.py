"""runtime/play/profiles.py, against profiles written here and the closed form of what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from echoedge.runtime.play.pictures import read_portrait_pixels

from .icc_for_tests import (
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    cmyk_profile,
    lab_as_srgb,
    linear_grey_profile,
    p3_as_srgb,
    rgb_profile,
)

# Measured: P3 0.6, grey 0.5, CMYK 1.4, where its table holds L*a*b* in 8 bits.
ALLOWED = 2


def cube() -> np.ndarray:
    """Colours of the whole cube: uint8 [32, 32, 3]."""
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def read(path: Path, image: Image.Image, said: list[str], **options: Any) -> np.ndarray:
    image.save(path, **options)
    return read_portrait_pixels(path, image.height, image.width, warn=said.append).astype(int)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_display_p3_becomes_srgb(suffix: str, tmp_path: Path) -> None:
    said: list[str] = []
    pixels = read(tmp_path / f"a.{suffix}", Image.fromarray(cube()), said, icc_profile=rgb_profile(P3_PRIMARIES))
    expected = p3_as_srgb(cube())
    assert np.abs(pixels - expected).max() <= ALLOWED
    assert np.abs(cube() - expected).max() > 20  # what the profile is worth
    assert said == []


def test_display_p3_behind_transparency(tmp_path: Path) -> None:
    said: list[str] = []
    rgba = np.dstack([cube(), np.full((32, 32), 255, np.uint8)])
    rgba[:8, :, 3] = 0
    pixels = read(tmp_path / "a.png", Image.fromarray(rgba), said, icc_profile=rgb_profile(P3_PRIMARIES))
    assert np.abs(pixels - p3_as_srgb(cube()))[8:].max() <= ALLOWED
    assert np.unique(pixels[:8]).tolist() == [128]
    assert said == []


def test_pictures_in_srgb_stay_as_they_are(tmp_path: Path) -> None:
    for profile in (rgb_profile(SRGB_PRIMARIES), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        said: list[str] = []
        np.testing.assert_array_equal(read(tmp_path / "a.png", Image.fromarray(cube()), said, icc_profile=profile), cube())
        assert said == []


def test_grey_levels_of_linear_light(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    light = grey / 255
    expected = 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    for mode in ("L", "LA", "I;16"):
        image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
        said: list[str] = []
        pixels = read(tmp_path / "a.png", image, said, icc_profile=linear_grey_profile())
        assert np.abs(pixels - expected[..., None]).max() <= ALLOWED
        assert said == []
    assert np.abs(grey - expected).max() > 40


def press(inks: np.ndarray) -> np.ndarray:
    """L*a*b* of inks [..., 4]: linear; white without ink, black of black."""
    c, m, y, k = np.moveaxis(inks, -1, 0)
    return np.stack([100 - 10 * (c + m + y) - 70 * k, 20 * m - 20 * c, 20 * y - 10 * c], axis=-1)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk(suffix: str, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 160, (2, 2, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    said: list[str] = []
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    pixels = read(tmp_path / f"a.{suffix}", Image.fromarray(levels, "CMYK"), said, icc_profile=cmyk_profile(press), **options)
    expected = lab_as_srgb(press(levels / 255))
    assert np.abs(pixels - expected).max() <= ALLOWED
    assert np.abs(np.asarray(Image.fromarray(levels, "CMYK").convert("RGB")) - expected).max() > 20
    assert said == []


def test_lab(tmp_path: Path) -> None:
    """LAB needs no profile: it is one."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(cube()), srgb, lab, outputMode="LAB")
    assert image is not None
    said: list[str] = []
    difference = np.abs(read(tmp_path / "a.tiff", image, said) - cube())
    assert difference.mean() < 2
    assert said == []


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (b"not a profile at all", "cannot open profile"),
        (rgb_profile(P3_PRIMARIES)[:140], "cannot"),
        (rgb_profile(P3_PRIMARIES, black=True), "nothing is left of the picture"),
        (linear_grey_profile(), "it describes GRAY colours, the picture has RGB"),
    ],
)
def test_damaged_profiles_are_ignored_with_a_warning(profile: bytes, why: str, tmp_path: Path) -> None:
    said: list[str] = []
    np.testing.assert_array_equal(read(tmp_path / "a.png", Image.fromarray(cube()), said, icc_profile=profile), cube())
    assert len(said) == 1
    assert f"The colour profile in {tmp_path / 'a.png'} cannot be used" in said[0]
    assert why in said[0]


@pytest.mark.parametrize("seed", range(40))
def test_profiles_with_wrong_bytes_do_no_harm(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray((rgb_profile(P3_PRIMARIES), cmyk_profile(press), linear_grey_profile())[seed % 3])
    for place in rng.integers(0, min(len(data), 400), 6):
        data[place] = rng.integers(256)
    mode = ("RGB", "CMYK", "L")[seed % 3]
    said: list[str] = []
    pixels = read(tmp_path / "a.tiff", Image.fromarray(cube()).convert(mode), said, icc_profile=bytes(data))
    assert pixels.shape == (32, 32, 3)
    assert len(said) <= 1
