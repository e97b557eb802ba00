"""Portraits in: a picture file as pixels of a clip's size. Pixels are uint8 [H, W, 3] or float32 [3, H, W] in [-1, 1].

Whatever cannot be used raises `InputError` with a sentence that names the file, the reason and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.config import SIZE_MULTIPLE
from ...core.errors import InputError
from ...core.plan.long_video import to_uint8
from .cropping import Crop, Part, cut_sentence, is_cut, largest_part, place_part
from .faces import Face, find_faces
from .picture_files import Picture, Warn, open_picture

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SHOWN_ASPECT = 3  # of a picture that is shown whole: beyond, its kept part would be too small to see
_FADE = 0.25  # how much stays of what was cut off, where it is shown


@dataclass(frozen=True)
class Portrait:
    """A picture file, decoded once, of which clips of any size take what they need.

    crop: what the user wants kept; without one it is the largest rectangle of the clip's aspect.
    """

    picture: Picture
    crop: Crop | None
    warn: Warn

    @classmethod
    def open(cls, path: str | Path, warn: Warn = print, crop: Crop | None = None, enough: int | None = None) -> Portrait:
        """Reads a file as `open_picture` does; `enough`: pixels a side that the clip makes use of.

        Raises:
            InputError: the file cannot be used; the crop reaches beyond the picture.
        """
        portrait = cls(open_picture(path, warn, None if crop else enough), crop, warn)
        if crop is not None:
            crop.part(portrait.picture.height, portrait.picture.width)
        return portrait

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the file, upright: of the crop, a square, if there is one."""
        return (self.crop.size, self.crop.size) if self.crop else (self.picture.height, self.picture.width)

    def part(self, height: int, width: int) -> Part:
        """What a clip of height × width keeps, in pixels of the file; `warn` hears what is cut off.

        Raises:
            InputError: the crop, at the clip's aspect, reaches beyond the picture.
        """
        sides = (self.picture.height, self.picture.width)
        if self.crop is not None:
            return self.crop.part(*sides, width / height)
        part = largest_part(*sides, height, width)
        if not is_cut(part, *sides):
            return part
        image = self.picture.image
        scale, faces = sides[1] / image.width, find_faces(image)
        if faces:
            faces = [Face(face.top * scale, face.left * scale, face.size * scale) for face in faces]
        part = place_part(part, *sides, faces or ())
        self.warn(cut_sentence(self.picture.path, part, *sides, f"{height}x{width}", faces))
        return part

    def pixels(self, height: int, width: int) -> Pixels:
        """uint8 [height, width, 3]: the kept part resized with Lanczos in 8 bits, as upstream resizes. Raises as `part`."""
        return self.resized(self.part(height, width), height, width)

    def resized(self, part: Part, height: int, width: int) -> Pixels:
        """A part of the picture, uint8 [height, width, 3]: across and then down, each rounded to 8 bits. In one call Pillow 13
        begins with what is cheaper, and earlier ones across, so that a portrait would depend on the version."""
        left, top, right, bottom = self.box(part)
        image, lanczos = self.picture.image, Image.Resampling.LANCZOS
        across = image.resize((width, image.height), lanczos, box=(left, 0, right, image.height))
        return np.array(across.resize((width, height), lanczos, box=(0, top, width, bottom)))

    def box(self, part: Part) -> tuple[float, float, float, float]:
        """left, top, right, bottom of a part, in pixels of the image as it was decoded."""
        image = self.picture.image
        across, down = image.width / self.picture.width, image.height / self.picture.height
        return part.left * across, part.top * down, min(part.right * across, image.width), min(part.bottom * down, image.height)

    def shown(self, height: int, width: int) -> Pixels:
        """uint8 [h, w, 3]: the whole picture, faded where a clip of height × width does not reach, with the part that it shows as
        large as the clip; of a very long picture, or one that is not cut, that part alone. Raises as `part`."""
        part, (whole_height, whole_width) = self.part(height, width), (self.picture.height, self.picture.width)
        scale = height / part.height
        shape = (round(whole_height * scale), round(whole_width * scale))
        if not is_cut(part, whole_height, whole_width) or max(shape) > _SHOWN_ASPECT * max(height, width):
            return self.resized(part, height, width)
        whole = np.array(self.picture.image.resize(shape[::-1], Image.Resampling.LANCZOS))
        faded = np.rint(255 - (255 - whole.astype(np.float32)) * np.float32(_FADE)).astype(np.uint8)
        kept = (
            slice(round(part.top * scale), round(part.bottom * scale)),
            slice(round(part.left * scale), round(part.right * scale)),
        )
        faded[kept] = whole[kept]
        return faded


def read_portrait(path: str | Path, height: int, width: int, crop: Crop | None = None, warn: Warn = print) -> Floats:
    """An image file as float32 [3, height, width] in [-1, 1]; see `read_portrait_pixels`."""
    return to_signed(read_portrait_pixels(path, height, width, crop, warn))


def read_portrait_pixels(path: str | Path, height: int, width: int, crop: Crop | None = None, warn: Warn = print) -> Pixels:
    """An image file as uint8 [height, width, 3], resized with Lanczos as upstream resizes; see `open_picture`, `Portrait`.

    Raises:
        InputError: the file cannot be used; the crop reaches beyond the picture.
    """
    return Portrait.open(path, warn, crop, 4 * max(height, width)).pixels(height, width)


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
