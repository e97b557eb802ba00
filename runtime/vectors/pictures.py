"""Portraits: turned, on grey, cropped, resized, as numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ..play.cropping import Crop, Part, is_cut, largest_part, place_part
from ..play.faces import Face
from ..play.picture_files import Picture, open_picture
from ..play.pictures import Portrait, to_signed
from .group import Group, levels, smooth

_ORIENTATION = 0x0112  # EXIF
_PARTS = (
    (64, 64, 64, 64), (100, 100, 64, 64), (101, 100, 64, 64), (1920, 1080, 64, 64), (1080, 1920, 64, 64), (768, 1024, 256, 256),
    (640, 480, 96, 64), (33, 1000, 64, 64), (517, 389, 256, 192), (65, 64, 64, 64), (70, 64, 64, 64), (300, 200, 48, 32),
)  # fmt: skip
_CROPS = (((0, 0, 64), (64, 64)), ((10, 20, 400), (64, 64)), ((3, 7, 150), (96, 64)), ((3, 7, 150), (64, 96)))
_FACES = ((100.0, 200.0, 300.0), (0.0, 0.0, 80.0), (900.0, 700.0, 400.0))


def build() -> Group:
    group = Group("picture")
    with TemporaryDirectory() as name:
        _read(group, Path(name))
    _parts(group)
    _resized(group)
    every = np.arange(256, dtype=np.uint8)
    grey = np.stack([every, every[::-1], np.roll(every, 128)], -1).reshape(16, 16, 3)
    group.case("signed", "every level", {"pixels": grey}, {"portrait": to_signed(grey)}, trap="v · (2 / 255) - 1 differs")
    for size, (height, width) in (
        ((70, 66), (64, 64)),
        ((150, 90), (32, 32)),
        ((40, 90), (48, 32)),
        ((31, 29), (48, 48)),
        ((64, 64), (64, 64)),
    ):
        pixels = levels(sum(size), *size, 3) if sum(size) % 2 else smooth(sum(size), *size)
        made = to_signed(_portrait(pixels).pixels(height, width))
        given = {"pixels": pixels, "height": height, "width": width}
        group.case("portrait", f"{size[0]}x{size[1]} as {height}x{width}", given, {"portrait": made})
    return group


def _portrait(pixels: np.ndarray) -> Portrait:
    return Portrait(Picture(Path("portrait.png"), Image.fromarray(pixels), *pixels.shape[:2]), None, lambda _: None)


def _read(group: Group, folder: Path) -> None:
    pixels = levels(3, 18, 24, 3)
    pixels[:9, :12] //= 4
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        Image.fromarray(pixels).save(folder / "turned.png", exif=exif)
        made = np.array(open_picture(folder / "turned.png", lambda _: None).image)
        group.case("orient", f"orientation {orientation}", {"pixels": pixels, "orientation": orientation}, {"pixels": made})
    layers = levels(4, 24, 20, 4)
    layers[:4, :, 3], layers[4:8, :, 3], layers[8:12, :, 3] = 0, 255, 128
    Image.fromarray(layers, "RGBA").save(folder / "clear.png")
    made = np.array(open_picture(folder / "clear.png", lambda _: None).image)
    group.case("matte", "transparent parts", {"pixels": layers}, {"pixels": made}, trap="c · α / 255 + …, rounded twice or cut off")


def _parts(group: Group) -> None:
    for image_height, image_width, height, width in _PARTS:
        for face in (None, *_FACES):
            part = largest_part(image_height, image_width, height, width)
            cut = is_cut(part, image_height, image_width)
            if cut:
                part = place_part(part, image_height, image_width, [Face(*face)] if face else [])
            elif face:
                continue
            told = f", a face at {face[0]:g},{face[1]:g}" if face else ""
            given = _given(image_height, image_width, height, width, face=list(face) if face else None)
            group.case("part", f"{image_height}x{image_width} as {height}x{width}{told}", given, {"part": _numbers(part)})
    for numbers, (height, width) in _CROPS:
        part = Crop(*numbers).part(480, 640, width / height)
        given = _given(480, 640, height, width, crop=list(numbers))
        group.case("part", f"crop {','.join(map(str, numbers))} as {height}x{width}", given, {"part": _numbers(part)})
    for numbers in ((100, 0, 400), (0, 300, 400), (0, 0, 15), (-1, 0, 64)):
        given = _given(480, 640, 64, 64, crop=list(numbers))
        name = f"crop {','.join(map(str, numbers))}"
        group.refused("part", name, given, partial(_cropped, *numbers))


def _cropped(top: int, left: int, size: int) -> Part:
    return Crop(top, left, size).part(480, 640)


def _given(image_height: int, image_width: int, height: int, width: int, **more: object) -> dict[str, object]:
    sizes = {"image_height": image_height, "image_width": image_width, "height": height, "width": width}
    return sizes | {"crop": None, "face": None} | more


def _numbers(part: Part) -> np.ndarray:
    return np.array([part.top, part.left, part.height, part.width])


def _resized(group: Group) -> None:
    for name, size, part, (height, width) in (
        ("down", (40, 50), Part(0, 0, 40, 50), (16, 20)), ("up", (17, 16), Part(0, 0, 17, 16), (32, 32)),
        ("a part", (60, 44), Part(3.5, 0.3, 41.2, 41.2), (16, 16)),
        ("as it is", (20, 20), Part(0, 0, 20, 20), (20, 20)), ("across alone", (24, 40), Part(0, 0, 24, 40), (24, 16)),
        ("down alone", (40, 24), Part(0, 0, 40, 24), (16, 24)),
        ("a third", (50, 50), Part(1 / 3, 2 / 3, 48.7, 48.9), (17, 19)), ("far down", (90, 110), Part(0, 10, 90, 90), (8, 8)),
        ("an edge", (30, 30), Part(0, 0, 30, 29.99), (16, 16)),
        ("far from the edge", (16, 700), Part(0, 600.3, 16, 80.7), (16, 48)),
    ):  # fmt: skip
        for kind, pixels in (
            ("noise", levels(len(name), *size, 3)),
            ("black and white", (levels(9, *size, 3) >> 7) * np.uint8(255)),
        ):
            portrait = _portrait(pixels)
            box = np.array(portrait.box(part), np.float64)
            given = {"pixels": pixels, "box": box, "height": height, "width": width}
            group.case("resize", f"{name}, {kind}", given, {"pixels": portrait.resized(part, height, width)})
