"""Embedded ICC profiles: a picture's colours as sRGB, with Pillow's LittleCMS."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}  # of a profile that fits a picture's mode
# LittleCMS's shortcuts are 10 levels off in the shadows of grey, which is looked up in a table here, and 6 of CMYK, at its speed.
_FLAGS = {"L": ImageCms.Flags.NOOPTIMIZE, "CMYK": ImageCms.Flags.HIGHRESPRECALC}


class ProfileError(ValueError):
    """A profile that cannot be used; the text says why."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of mode RGB, L, CMYK or LAB in sRGB: mode RGB, 8 bits. `profile`: ICC; None of LAB, which needs none.

    Colours that sRGB has not are cut off at its edge (relative colorimetric, black points matched); CMYK is compressed into sRGB as
    its profile says (perceptual). A picture that the profile changes by a level at most is sRGB already, and stays as it is.

    Raises:
        ProfileError: the profile is damaged, describes another kind of colours than the picture has, or leads nowhere.
    """
    intent = ImageCms.Intent.PERCEPTUAL if image.mode == "CMYK" else ImageCms.Intent.RELATIVE_COLORIMETRIC
    try:
        source = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        described = source.xcolor_space.strip()
        if described != _SPACES[image.mode]:
            raise ProfileError(f"it describes {described or 'unknown'} colours, the picture has {_SPACES[image.mode]}")
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(source), ImageCms.createProfile("sRGB"), image.mode, "RGB", intent,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | _FLAGS.get(image.mode, ImageCms.Flags.NONE),
        )  # fmt: skip
        if image.mode in ("RGB", "L"):
            probe = _probe(image.mode)
            table = np.asarray(ImageCms.applyTransform(probe, transform))
            if np.abs(table.astype(int) - np.asarray(probe.convert("RGB"))).max() <= 1:
                return image.convert("RGB")
            if image.mode == "L":
                return Image.fromarray(table[0][np.asarray(image)])
        converted = ImageCms.applyTransform(image, transform)
    except ProfileError:
        raise
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError) as error:  # a name in it may not even be a text
        raise ProfileError(str(error) or type(error).__name__) from error
    assert converted is not None
    return converted


def _probe(mode: str) -> Image.Image:
    """Every grey level, or colours of the whole cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
