"""Which part of a portrait is kept where its aspect is not the clip's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...core.errors import InputError
from .faces import Face

if TYPE_CHECKING:
    from ...core.model.masks import Box

# A cut below this share of a side is what sizes in multiples of 16 leave over: centred, as it always was, and not worth a word.
UNSEEN = 0.05
# How much of what a tall picture loses it loses at the top. People stand with their head near the upper edge: eyes lie on the
# upper third of a photographer's frame, and heads of whole figures begin at the edge. A tenth keeps both: of 9:16 it takes 4 % of
# the height off the top, less than the room above a head; a fifth would cut into the head of a whole figure.
TOP_SHARE = 0.1
FACE_HEIGHT = 0.45  # the face's middle, as a share of what is kept: where portraits have it
SMALLEST_CROP = 16  # pixels


@dataclass(frozen=True)
class Part:
    """A rectangle of a picture, in its pixels, rows from the top."""

    top: float
    left: float
    height: float
    width: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def right(self) -> float:
        return self.left + self.width


@dataclass(frozen=True)
class Crop:
    """What the user wants kept: rows from `top` on, `size` of them, columns from `left` on, as many as the clip's aspect asks for.

    Raises:
        InputError: a number is negative, or the size is below 16 pixels.
    """

    top: int
    left: int
    size: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Crop:
        """(top, left, size). Raises as the class; also InputError where it is not three whole numbers."""
        if len(numbers) != 3 or not all(isinstance(number, int) for number in numbers):
            raise InputError(f"crop is {numbers!r}; give (top, left, size) as three whole numbers.")
        return cls(*numbers)

    def __post_init__(self) -> None:
        if min(self.top, self.left) < 0 or self.size < SMALLEST_CROP:
            raise InputError(f"--crop is {self}; top and left must be 0 at least, the size {SMALLEST_CROP} pixels.")

    def __str__(self) -> str:
        return f"{self.top},{self.left},{self.size}"

    def part(self, image_height: int, image_width: int, aspect: float = 1.0) -> Part:
        """The rectangle, `aspect` (width / height) being the clip's.

        Raises:
            InputError: it reaches beyond the picture.
        """
        part = Part(self.top, self.left, self.size, self.size * aspect)
        if part.bottom > image_height or part.right > image_width + 0.5:
            raise InputError(
                f"--crop {self} ends at row {part.bottom:.0f} and column {part.right:.0f}, but the portrait has "
                f"{image_height} rows and {image_width} columns. Give TOP,LEFT,SIZE within it."
            )
        return Part(part.top, part.left, part.height, min(part.width, image_width - part.left))


def within_crop(face: Box, crop: Crop) -> Box:
    """A face's box in pixels of a square crop; what lies outside it is cut off.

    Raises:
        InputError: nothing of the face is in the crop.
    """
    y0, y1 = (min(max(0, edge - crop.top), crop.size) for edge in (face.y0, face.y1))
    x0, x1 = (min(max(0, edge - crop.left), crop.size) for edge in (face.x0, face.x1))
    if face.y0 < face.y1 and face.x0 < face.x1 and (y0 == y1 or x0 == x1):
        raise InputError(
            f"--face {face.y0},{face.y1},{face.x0},{face.x1} lies outside --crop {crop}. Both are in the portrait's pixels."
        )
    return replace(face, y0=y0, y1=y1, x0=x0, x1=x1)


def largest_part(image_height: int, image_width: int, height: int, width: int) -> Part:
    """The largest centred rectangle of the aspect of height × width."""
    scale = min(image_width / width, image_height / height)
    left, top = (image_width - width * scale) / 2, (image_height - height * scale) / 2
    return Part(top, left, min(height * scale, image_height - top), min(width * scale, image_width - left))


def is_cut(part: Part, image_height: int, image_width: int) -> bool:
    """Whether more is lost than what a clip's multiples of 16 leave over."""
    return min(part.height / image_height, part.width / image_width) < 1 - UNSEEN


def place_part(part: Part, image_height: int, image_width: int, faces: Sequence[Face]) -> Part:
    """The rectangle moved so that it holds the first face; without one, of a tall picture, a tenth of the cut is at the top."""
    room_down, room_right = image_height - part.height, image_width - part.width
    if faces:
        face = faces[0]
        top = face.top + face.size / 2 - FACE_HEIGHT * part.height
        left = face.left + face.size / 2 - part.width / 2
        return Part(min(max(0.0, top), room_down), min(max(0.0, left), room_right), part.height, part.width)
    return Part(TOP_SHARE * room_down, part.left, part.height, part.width)


def cut_sentence(name: object, part: Part, image_height: int, image_width: int, size: str, faces: Sequence[Face] | None) -> str:
    """What was cut off and why there; `faces`: None where nothing looked for them."""
    rows, columns = round(image_height - part.height), round(image_width - part.width)
    if rows >= columns:
        top = min(round(part.top), rows)
        lost = f"{top} of {image_height} rows at the top and {rows - top} at the bottom"
    else:
        left = min(round(part.left), columns)
        lost = f"{left} of {image_width} columns on the left and {columns - left} on the right"
    if faces:
        why = "the face is kept" if len(faces) == 1 else f"the largest of {len(faces)} faces is kept"
    elif faces is None:
        why = 'no face was looked for (pip install "echoedge[face]" does)'
    else:
        why = "no face was found"
    return f"The portrait {name} is cropped to {size}: {lost} are cut off; {why}. Choose the part with --crop TOP,LEFT,SIZE."
