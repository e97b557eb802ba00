"""runtime/play/picture_files.py: rare formats, depths, animations, and pictures that would give a flat or black portrait."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from echoedge.core.errors import InputError
from echoedge.runtime.play import picture_files
from echoedge.runtime.play.pictures import read_portrait_pixels

from .icc_for_tests import P3_PRIMARIES, p3_as_srgb, rgb_profile

SIDE = 64


def picture(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Smooth patches of colours: uint8 [side, side, 3]."""
    coarse = np.random.default_rng(seed).integers(40, 216, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def ramp(low: float, high: float, dtype: str) -> np.ndarray:
    """Numbers from `low` to `high`, all columns alike."""
    return np.linspace(low, high, SIDE).astype(dtype)[:, None].repeat(SIDE, axis=1)


def read(path: Path, image: Image.Image | None = None, **options: Any) -> tuple[np.ndarray, list[str]]:
    """The pixels of a file, written first if there is an image, and what was said."""
    if image is not None:
        image.save(path, **options)
    said: list[str] = []
    return read_portrait_pixels(path, SIDE, SIDE, warn=said.append).astype(int), said


def refused(path: Path, words: str, image: Image.Image | None = None, **options: Any) -> None:
    """The file is refused with these words, in one sentence that names it, and nothing else is said."""
    if image is not None:
        image.save(path, **options)
    said: list[str] = []
    with pytest.raises(InputError, match=words) as caught:
        read_portrait_pixels(path, SIDE, SIDE, warn=said.append)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert said == []


# --- 1. files in ISO boxes --------------------------------------------------------------------------------------------------------


def iso(major: bytes, *compatible: bytes) -> bytes:
    """The first box of a file of these brands, and nothing after it."""
    body = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic"), (b"msf1", b"hevc"), (b"heix",), (b"mif1", b"miaf")])
def test_heic_without_its_library(brands: tuple[bytes, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(iso(*brands) + bytes(200))
    refused(tmp_path / "a.jpg", r'is HEIC, which needs pillow-heif: pip install "echoedge\[heic\]", or save it as JPEG\.')


@pytest.mark.parametrize("brands", [(b"avif", b"mif1"), (b"mif1", b"avif", b"miaf"), (b"avis",)])
def test_avif_without_its_codec(brands: tuple[bytes, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files.features, "check", lambda _: False)
    (tmp_path / "a.jpg").write_bytes(iso(*brands) + bytes(200))
    refused(tmp_path / "a.jpg", "is AVIF, which this Pillow cannot read: pip install --upgrade pillow")


@pytest.mark.parametrize("brands", [(b"isom", b"mp42"), (b"qt  ",), (b"M4A ",)])
def test_videos_are_no_portraits(brands: tuple[bytes, ...], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(iso(*brands) + bytes(200))
    refused(tmp_path / "a.jpg", "is a video or a sound. Save one of its frames as PNG")


def heic(path: Path, pixels: np.ndarray, icc_profile: bytes | None = None, **options: Any) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(pixels)
    if icc_profile is not None:
        image.info["icc_profile"] = icc_profile
    pillow_heif.from_pillow(image).save(path, quality=95, **options)
    return path


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "jpg", "png"])
def test_heic_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    pixels, said = read(heic(tmp_path / f"a.{suffix}", picture()))
    assert np.abs(pixels - picture()).mean() < 3  # measured 0.9; of another picture 41
    assert np.abs(pixels - picture(1)).mean() > 20
    assert said == []


def test_heic_with_a_profile_as_phones_write_it(tmp_path: Path) -> None:
    pixels, said = read(heic(tmp_path / "a.heic", picture(), icc_profile=rgb_profile(P3_PRIMARIES)))
    assert np.abs(pixels - p3_as_srgb(picture())).mean() < 3  # measured 2.0
    assert np.abs(pixels - picture()).mean() > 5
    assert said == []


def test_heic_that_lies_on_its_side(tmp_path: Path) -> None:
    """The file says so twice, in its own boxes and in EXIF, as phones write it; it is turned once."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, _ = read(heic(tmp_path / "a.heic", picture(), exif=exif.tobytes()))
    assert np.abs(pixels - picture()[::-1].swapaxes(0, 1)).mean() < 3
    assert np.abs(pixels - picture()).mean() > 20


def test_heic_of_nothing_and_damaged_heic(tmp_path: Path) -> None:
    refused(heic(tmp_path / "a.heic", np.full((SIDE, SIDE, 3), 90, np.uint8)), "is of one colour")
    data = heic(tmp_path / "b.heic", picture()).read_bytes()
    for cut in (40, len(data) // 2):
        (tmp_path / "c.heic").write_bytes(data[:cut])
        refused(tmp_path / "c.heic", "cannot be read")
    refused(heic(tmp_path / "d.heic", picture(side=15)), "is 15 pixels wide and 15 high")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.avif", quality=95)
    (tmp_path / "a.avif").rename(tmp_path / "a.jpg")
    pixels, said = read(tmp_path / "a.jpg")
    assert np.abs(pixels - picture()).mean() < 3
    assert said == []


# --- 2. numbers of more than 8 bits -----------------------------------------------------------------------------------------------

LEVELS = np.linspace(0, 255, SIDE)[:, None, None]


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (ramp(0, 4095, "uint16"), "png"),  # 12 bits in 16
        (ramp(0, 1023, "uint16"), "tiff"),
        (ramp(30000, 32000, "uint16"), "png"),
        (ramp(-1000, 3000, "int32"), "tiff"),
        (ramp(0, 900000, "int32"), "tiff"),
        (ramp(0, 0.01, "float32"), "tiff"),
        (ramp(-7, 900, "float32"), "tiff"),
    ],
)
def test_numbers_that_fill_a_part_of_their_range_are_stretched(values: np.ndarray, suffix: str, tmp_path: Path) -> None:
    pixels, said = read(tmp_path / f"a.{suffix}", Image.fromarray(values))
    assert np.abs(pixels - LEVELS).max() <= 2  # measured 1
    assert len(said) == 1
    assert "run from" in said[0]
    assert "stretched to black and white" in said[0]


def test_numbers_that_fill_their_range_are_not(tmp_path: Path) -> None:
    for values in (ramp(0, 65535, "uint16"), ramp(0, 20000, "uint16")):
        pixels, said = read(tmp_path / "a.png", Image.fromarray(values))
        np.testing.assert_array_equal(pixels[..., 0], values >> 8)
        assert said == []


@pytest.mark.parametrize(("full", "words"), [(1.0, "1 as white"), (255.0, "255 as white")])
def test_floating_point_pixels(full: float, words: str, tmp_path: Path) -> None:
    pixels, said = read(tmp_path / "a.tiff", Image.fromarray(ramp(0, full / 2, "float32")))
    assert np.abs(pixels - LEVELS / 2).max() <= 1
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize("values", [np.full((SIDE, SIDE), 700, "uint16"), np.zeros((SIDE, SIDE), "float32")])
def test_one_number_is_no_picture(values: np.ndarray, tmp_path: Path) -> None:
    refused(tmp_path / "a.tiff", "is of one colour|is nearly black", Image.fromarray(values))


# --- 3. pictures of nothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "words"), [(0, "is nearly black"), (12, "is nearly black"), (128, "is of one colour"), (255, "is of one colour")]
)
def test_pictures_of_one_colour_are_refused(level: int, words: str, tmp_path: Path) -> None:
    flat = np.full((SIDE, SIDE, 3), level, np.uint8)
    refused(tmp_path / "a.png", words, Image.fromarray(flat))
    noise = np.random.default_rng(0).integers(-3, 4, (512, 512, 3))
    refused(tmp_path / "b.png", words, Image.fromarray((np.clip(noise + level, 0, 255)).astype(np.uint8)))
    flat[20:40, 20:40] = 200 if level < 200 else 60
    assert read(tmp_path / "c.png", Image.fromarray(flat))[1] == []


def test_a_dark_picture_is_a_picture(tmp_path: Path) -> None:
    dark = (picture() // 5).astype(np.uint8)
    pixels, said = read(tmp_path / "a.png", Image.fromarray(dark))
    np.testing.assert_array_equal(pixels, dark)
    assert said == []
    refused(tmp_path / "b.png", r"is nearly black \(its brightest part is \d+ of 255\)", Image.fromarray(picture() // 12))


def test_transparent_pictures(tmp_path: Path) -> None:
    clear = np.dstack([picture(), np.zeros((SIDE, SIDE), np.uint8)])
    pixels, said = read(tmp_path / "a.png", Image.fromarray(clear))
    np.testing.assert_array_equal(pixels, picture())
    assert len(said) == 1
    assert "its transparency is ignored" in said[0]
    half = clear.copy()
    half[:32, :, 3] = 255
    pixels, said = read(tmp_path / "b.png", Image.fromarray(half))
    assert np.unique(pixels[32:]).tolist() == [128]
    assert said == []
    refused(tmp_path / "c.png", "is fully transparent", Image.new("RGBA", (SIDE, SIDE)))


def frames(*pictures: np.ndarray) -> tuple[Image.Image, dict[str, Any]]:
    first, *others = (Image.fromarray(pixels) for pixels in pictures)
    return first, {"save_all": True, "append_images": others}


BLACK, GREY = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 128, np.uint8)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_the_first_picture_of_an_animation_that_is_not_flat(suffix: str, tmp_path: Path) -> None:
    image, options = frames(BLACK, GREY, picture(), picture(1))
    pixels, said = read(tmp_path / f"a.{suffix}", image, **options)
    assert np.abs(pixels - picture()).mean() < 6  # measured 4.2 of GIF's palette, 1.9 of WebP
    assert len(said) == 1
    assert said[0].endswith("begins with pictures that are flat or black; its picture 3 is taken.")
    image, options = frames(picture(1), BLACK)
    pixels, said = read(tmp_path / f"b.{suffix}", image, **options)
    assert np.abs(pixels - picture(1)).mean() < 6
    assert said == []
    refused(tmp_path / f"c.{suffix}", "is nearly black", *frames(BLACK, GREY)[:1], **frames(BLACK, GREY)[1])
