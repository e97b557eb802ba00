"""A picture file as 8-bit sRGB: formats, profiles, transparency, depths, animations, and what would give a flat or black portrait.

Whatever cannot be used raises `InputError` with a sentence that names the file, the reason and the remedy; what is mended is told.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from ...core.errors import InputError
from .opening import existing_file
from .profiles import ProfileError, to_srgb

Warn = Callable[[str], None]

MIN_PORTRAIT_SIDE = 16
MATTE = (128, 128, 128)  # behind transparent pixels: the model's zero
_REDUCE_ABOVE_PIXELS = 24_000_000
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, struct.error)  # of damaged files

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}  # ISO/IEC 23008-12, HEVC inside
_AVIF = {b"avif", b"avis"}
_HEIF = {b"mif1", b"msf1", b"miaf"}  # of any codec

_CELLS = 32  # a side of the averages that are looked at: noise is gone there, a face is not
_FLAT = 8  # levels between the extremes of the averages
_BLACK = 24  # levels of the brightest average
_MOST_FRAMES = 250  # looked at in an animation
_QUARTER = 0.25  # of a type's range: what fills less is stretched
_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Picture:
    """image: 8-bit RGB in sRGB, upright. height, width: of the file, in pixels, upright; of a large JPEG the image has fewer."""

    path: Path
    image: Image.Image
    height: int
    width: int


def open_picture(path: str | Path, warn: Warn, enough: int | None = None) -> Picture:
    """Reads a picture file of any format and mode that Pillow reads, and HEIC with the extra `heic`.

    Turned as its EXIF tag says; its ICC profile applied; transparent parts become mid grey; of an animation the first picture that
    is not flat; numbers that fill a small part of their range are stretched. Of a very large JPEG a smaller version whose sides
    still have `enough` pixels. `warn` gets a sentence for each thing that was mended.

    Raises:
        InputError: there is no such file; it is no picture, is damaged, is smaller than 16 pixels a side, has more pixels than
            Pillow accepts (179 million), is of one colour or nearly black, or needs a library that is not there.
    """
    path = existing_file(path, "portrait")
    codec = _iso_codec(path)
    if codec == "video":
        raise InputError(f"The portrait {path} is a video or a sound. Save one of its frames as PNG, and give that.")
    if codec == "AVIF" and not features.check("avif"):
        raise InputError(
            f"The portrait {path} is AVIF, which this Pillow cannot read: pip install --upgrade pillow, or save it as JPEG."
        )
    with _told(path):
        return _heic(path, warn) if codec == "HEIC" else _pillow(path, warn, enough)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of libraries as sentences."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and sloppy metadata
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(f"The portrait {path} has more than {limit} million pixels. Save a smaller copy.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"The portrait {path} is not an image in a known format. Save it as JPEG or PNG.") from error
    except _PILLOW_ERRORS as error:
        why = " ".join(str(error).split())
        raise InputError(f"The portrait {path} cannot be read ({why}). Save it again as JPEG or PNG.") from error


# --- 1. what kind of file ---------------------------------------------------------------------------------------------------------


def _iso_codec(path: Path) -> str | None:
    """HEIC, AVIF or video of a file in ISO boxes, by the brands in its first one; None of every other file."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[4:8] != b"ftyp":
        return None
    end = min(len(head), int.from_bytes(head[:4], "big"))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & _HEIC:
        return "HEIC"
    if brands & _AVIF:
        return "AVIF"
    return "HEIC" if brands & _HEIF else "video"


@dataclass(frozen=True)
class _Shot:
    """A decoded picture, what there is to know of it, and why it would give a flat or black portrait, if it would."""

    rgb: Image.Image
    notes: list[str]
    lacks: str | None

    def refuse_flat(self, path: Path) -> None:
        if self.lacks:
            raise InputError(f"The portrait {path} {self.lacks}. Give a picture that shows a face.")

    def picture(self, path: Path, warn: Warn, width: int, height: int) -> Picture:
        for note in self.notes:
            warn(note)
        return Picture(path, self.rgb, height, width)


def _shot(image: Image.Image, path: Path) -> _Shot:
    upright = ImageOps.exif_transpose(image)
    notes: list[str] = []
    rgb = _to_rgb(upright, path, notes)
    lacks = _lacks(rgb)
    if lacks and upright.has_transparency_data and upright.convert("RGBA").getchannel("A").getextrema()[1] == 0:
        lacks = "is fully transparent"
    return _Shot(rgb, notes, lacks)


def _heic(path: Path, warn: Warn) -> Picture:
    """The primary picture of a HEIC file; libheif has turned it."""
    try:
        import pillow_heif
    except ImportError as error:
        raise InputError(
            f'The portrait {path} is HEIC, which needs pillow-heif: pip install "echoedge[heic]", or save it as JPEG.'
        ) from error
    opened = pillow_heif.open_heif(path)
    width, height = opened.size
    _check_sides(path, width, height)
    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    shot = _shot(opened.to_pillow(), path)
    shot.refuse_flat(path)
    return shot.picture(path, warn, shot.rgb.width, shot.rgb.height)


def _pillow(path: Path, warn: Warn, enough: int | None) -> Picture:
    with Image.open(path) as image:
        width, height = image.size
        _check_sides(path, width, height)
        if enough and width * height > _REDUCE_ABOVE_PIXELS:  # JPEG decodes to a half, a quarter or an eighth
            image.draft(None, (enough, enough))
        decoded = image.size
        shot = first = _shot(image, path)
        for index in range(1, _MOST_FRAMES):
            if not shot.lacks:
                break
            try:
                image.seek(index)
            except EOFError:  # an animation's end, or a file of one picture
                break
            shot = _shot(image, path)
            shot.notes.append(f"The portrait {path} begins with pictures that are flat or black; its picture {index + 1} is taken.")
        if shot.lacks:
            first.refuse_flat(path)
    if shot.rgb.size != decoded:  # turned by a quarter
        width, height = height, width
    return shot.picture(path, warn, width, height)


def _check_sides(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_PORTRAIT_SIDE:
        raise InputError(
            f"The portrait {path} is {width} pixels wide and {height} high; it needs at least {MIN_PORTRAIT_SIDE} a side."
        )


# --- 2. any mode as RGB -----------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image, path: Path, notes: list[str]) -> Image.Image:
    """8-bit sRGB of an image of any mode; what there is to know goes to `notes`."""
    alpha: Image.Image | None = None
    if image.mode.startswith("I") or image.mode == "F":
        colours = Image.fromarray(_levels(np.asarray(image), path, notes))
    elif image.has_transparency_data:
        kind = "LA" if image.mode in ("LA", "La") else "RGBA"
        layers = image.convert(kind)
        alpha, colours = layers.getchannel("A"), layers.convert(kind[:-1])
    elif image.mode in ("RGB", "L", "CMYK", "LAB"):
        colours = image
    else:
        colours = image.convert("L" if image.mode == "1" else "RGB")

    profile = image.info.get("icc_profile")
    rgb: Image.Image | None = None
    if profile or colours.mode == "LAB":
        try:
            rgb = to_srgb(colours, None if colours.mode == "LAB" else profile)
            if _lacks(rgb) and colours.mode != "LAB" and not _lacks(colours.convert("RGB")):
                rgb = None
                raise ProfileError("nothing is left of the picture")
        except ProfileError as error:
            notes.append(f"The colour profile in {path} cannot be used ({error}); its colours are taken as sRGB.")
    rgb = rgb or colours.convert("RGB")
    if alpha is None:
        return rgb
    shown = Image.composite(rgb, Image.new("RGB", rgb.size, MATTE), alpha)
    if _lacks(shown) and not _lacks(rgb):
        notes.append(f"The portrait {path} is transparent where its picture is; its transparency is ignored.")
        return rgb
    return shown


def _levels(values: NDArray[Any], path: Path, notes: list[str]) -> NDArray[np.uint8]:
    """Numbers of any type [H, W] -> grey levels. Pillow's own conversion clips at 255.

    16-bit numbers that fill a quarter of their range keep their high byte; numbers that fill less, or whose range is not known, are
    stretched between their 0.1st and 99.9th percentile.
    """
    if not np.isfinite(values).all():
        raise ValueError("some of its floating-point pixels are not finite")
    some = values.reshape(-1)[:: -(-values.size // _SAMPLES)]
    low, high = (float(level) for level in np.percentile(some, (0.1, 99.9)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    least, most = float(values.min()), float(values.max())
    floating = values.dtype.kind == "f"
    for full in (1, 255) if floating else (65535,):
        if least >= 0 and most <= full and high - low >= _QUARTER * full:
            if not floating:
                return (values.astype(np.int64) >> 8).astype(np.uint8)
            notes.append(f"The portrait {path} has floating-point pixels; 0 is taken as black and {full} as white.")
            return np.rint(values.astype(np.float64) * (255 / full)).astype(np.uint8)
    notes.append(
        f"The values in {path} run from {least:g} to {most:g}, not over their type's range; they are stretched to black and white."
    )
    stretched = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-300))
    return np.rint(np.clip(stretched, 0, 255)).astype(np.uint8)


# --- 3. pictures of nothing -------------------------------------------------------------------------------------------------------


def _lacks(rgb: Image.Image) -> str | None:
    """Why a picture would give a flat or black portrait; None of a picture that shows something."""
    cells = np.asarray(rgb.resize((min(_CELLS, rgb.width), min(_CELLS, rgb.height)), Image.Resampling.BOX)).reshape(-1, 3)
    if cells.max() < _BLACK:
        return f"is nearly black (its brightest part is {cells.max()} of 255)"
    if np.ptp(cells.astype(int), axis=0).max() < _FLAT:
        return "is of one colour"
    return None
