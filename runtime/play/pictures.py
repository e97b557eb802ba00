"""Portraits in: a picture file as pixels of a clip's size. Pixels are uint8 [H, W, 3] or float32 [3, H, W] in [-1, 1].

Whatever cannot be used raises `InputError` with a sentence that names the file, the reason and the remedy.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...core.config import SIZE_MULTIPLE
from ...core.errors import InputError
from ...core.plan.long_video import to_uint8
from .opening import existing_file

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

MIN_PORTRAIT_SIDE = 16
MATTE = (128, 128, 128)  # behind transparent pixels: the model's zero
_REDUCE_ABOVE_PIXELS = 24_000_000
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, struct.error)  # of damaged files


def read_portrait(path: str | Path, height: int, width: int) -> Floats:
    """An image file as float32 [3, height, width] in [-1, 1]; see `read_portrait_pixels`."""
    return to_signed(read_portrait_pixels(path, height, width))


def read_portrait_pixels(path: str | Path, height: int, width: int) -> Pixels:
    """An image file as uint8 [height, width, 3].

    Any format and mode that Pillow reads, turned as its EXIF tag says; transparent parts become mid grey; of an animation the first
    frame. The largest centred rectangle of the target's aspect is kept and resized with Lanczos in 8 bits, as upstream resizes.

    Raises:
        InputError: there is no such file; it is no image, is damaged, is smaller than 16 pixels a side, or has more pixels than
            Pillow accepts (179 million).
    """
    rgb = _open_portrait(path, 4 * max(height, width))
    scale = min(rgb.width / width, rgb.height / height)
    left, top = (rgb.width - width * scale) / 2, (rgb.height - height * scale) / 2
    box = (left, top, min(left + width * scale, rgb.width), min(top + height * scale, rgb.height))
    return np.array(rgb.resize((width, height), Image.Resampling.LANCZOS, box=box))


def portrait_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file in pixels, turned as its EXIF tag says. Raises as `read_portrait_pixels`."""
    rgb = _open_portrait(path, None)
    return rgb.height, rgb.width


def _open_portrait(path: str | Path, enough: int | None) -> Image.Image:
    """The picture in 8-bit RGB; of a very large JPEG a smaller version whose sides still have `enough` pixels."""
    path = existing_file(path, "portrait")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and sloppy metadata
            with Image.open(path) as image:
                if min(image.size) < MIN_PORTRAIT_SIDE:
                    raise InputError(
                        f"The portrait {path} is {image.width} pixels wide and {image.height} high; it needs at least "
                        f"{MIN_PORTRAIT_SIDE} a side."
                    )
                if enough and image.width * image.height > _REDUCE_ABOVE_PIXELS:  # JPEG decodes to a half, a quarter or an eighth
                    image.draft(None, (enough, enough))
                return _to_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise InputError(f"The portrait {path} has more than {limit} million pixels. Save a smaller copy.") from error
    except UnidentifiedImageError as error:
        raise InputError(f"The portrait {path} is not an image in a known format. Save it as JPEG or PNG.") from error
    except _PILLOW_ERRORS as error:
        raise InputError(f"The portrait {path} cannot be read ({error}). Save it again as JPEG or PNG.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of an image of any mode."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips it at 255
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"its values run from {grey.min()} to {grey.max()}, beyond 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*MATTE, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def to_signed(pixels: Pixels) -> Floats:
    """uint8 [..., H, W, 3] -> float32 [3, ..., H, W] in [-1, 1]: an image, or frames [T, H, W, 3] -> [3, T, H, W]."""
    scaled: Floats = pixels.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, 0))


def to_pixels(signed: Floats, upstream_compat: bool = False) -> Pixels:
    """float32 [3, ..., H, W] in [-1, 1], clipped -> uint8 [..., H, W, 3], rounded (see `to_uint8`); the inverse of `to_signed`."""
    levels = to_uint8((np.clip(signed, -1, 1) + np.float32(1)) / np.float32(2), upstream_compat)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def resize_pixels(pixels: Pixels, height: int, width: int) -> Pixels:
    """uint8 [h, w, 3] -> [height, width, 3] with Lanczos in 8 bits; stretched where the aspects differ."""
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def reference_video(pictures: Sequence[Pixels], frames: int, height: int, width: int) -> tuple[Pixels, Floats]:
    """The video that a clip's model is given, uint8 [T, height, width, 3], and its mask, float32 [T, height, width], 1 = to paint.

    The k pictures, uint8 [h, w, 3] of any sizes, are the first k frames and known; the others repeat the first picture and are not.
    Each is resized to the clip's size without cropping. `output_size` gives a size of nearly the picture's aspect.
    Source: upstream `get_image_to_video_latent2` and `3`.

    Raises:
        InputError: there is no picture, or more of them than frames.
    """
    if not 1 <= len(pictures) <= frames:
        raise InputError(f"A clip of {frames} frames cannot begin with {len(pictures)} pictures; give 1 to {frames}.")
    known = np.stack([resize_pixels(picture, height, width) for picture in pictures])
    mask = np.ones((frames, height, width), np.float32)
    mask[: len(known)] = 0
    return np.concatenate([known, np.repeat(known[:1], frames - len(known), 0)]), mask


def output_size(image_height: int, image_width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """Height and width of a clip that keeps the image's aspect and has about the target's area, in multiples of 16; never enlarged.

    Source: upstream `get_sample_size`.

    Raises:
        InputError: a side would be below 16 pixels.
    """
    ratio = max(1.0, math.sqrt(image_width * image_height / (target_height * target_width)))
    height, width = (int(side / ratio // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in (image_height, image_width))
    if min(height, width) < SIZE_MULTIPLE:
        raise InputError(
            f"An image {image_width} pixels wide and {image_height} high is too small or too narrow for a clip. Crop it."
        )
    return height, width
