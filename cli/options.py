"""What options of the command line say, read in one place: numbers, lists, sizes, shapes, boxes, amounts of memory.

Each function takes the text and the option's name, and raises nothing but ConfigError, which quotes the text and shows the form.
Digits are those of ASCII; spaces around a part do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from ..core.errors import ConfigError

if TYPE_CHECKING:
    from ..core.config import ClipSpec
    from ..core.model.masks import Box

_WHOLE = re.compile(r"-?[0-9]{1,9}")  # more digits are no size, frame or block
_ANY = -(10**9)  # what a number must be is said by what it is for
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_DURATION, _TIMES = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([smh])"), {"s": 1, "m": 60, "h": 3600}
_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)")
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
LEAST_BYTES, MOST_BYTES = 10**6, 10**15  # of memory: below, nothing runs; above, nobody has it


def parse_names(text: str, option: str) -> tuple[str, ...]:
    """ "full, tiny" -> its names, each once.

    Raises:
        ConfigError: a name is empty or stands there twice.
    """
    return distinct((part.strip() for part in text.split(",")), option)


def distinct(values: Iterable[str], option: str, empty: bool = False) -> tuple[str, ...]:
    """The values of a list, or of an option that may be repeated. `empty`: whether one may be an empty text.

    Raises:
        ConfigError: one is empty or stands there twice.
    """
    found: list[str] = []
    for value in values:
        if not value.strip() and not empty:
            raise ConfigError(f"{option} has an empty entry. Leave it out.")
        if value in found:
            raise ConfigError(f"{option} names {value!r} twice. Name it once.")
        found.append(value)
    return tuple(found)


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """ "0,15,29" -> its whole numbers, each once.

    Raises:
        ConfigError: a part is no whole number, or a number stands there twice.
    """
    numbers = _whole_numbers(text, ",", option, "numbers with commas between them, such as 0,15,29")
    return tuple(int(number) for number in distinct(map(str, numbers), option))


def parse_seconds(text: str, option: str, most: float = 30.0) -> tuple[float, ...]:
    """ "0, 0.5" -> its seconds, each once.

    Raises:
        ConfigError: a part is no number from 0 to `most`, or a number stands there twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(_SECONDS.fullmatch(part) and float(part) <= most for part in parts):
        raise ConfigError(f"{option} is {text!r}; write seconds from 0 to {most:g} with commas between them, such as 0,0.5,2.")
    return tuple(float(value) for value in distinct((str(float(part)) for part in parts), option))


def parse_duration(text: str, option: str, least: float, most: float) -> float:
    """ "10m", "90s", "1.5h" -> seconds from `least` to `most`.

    Raises:
        ConfigError: it is no time with its unit, or out of this range.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"{option} is {text!r}; write a time with its unit, such as 90s, 10m or 1h.")
    seconds = float(match[1]) * _TIMES[match[2]]
    if not least <= seconds <= most:
        raise ConfigError(f"{option} is {text!r}; it must be from {least:g}s to {most / 3600:g}h, such as 10m.")
    return seconds


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """ "256x384" -> height and width, 1 at least.

    Raises:
        ConfigError: it is not two such numbers.
    """
    height, width = _whole_numbers(text, "x", option, "HEIGHTxWIDTH, such as 256x256", 2, least=_ANY)
    for name, value in (("height", height), ("width", width)):
        if value < 1:
            raise ConfigError(f"{option} is {text!r}; its {name} must be at least 1, such as 16 or 32.")
    return height, width


def parse_shape(text: str, option: str) -> ClipSpec:
    """ "256x384x25" -> a clip: what `str` of one gives.

    Raises:
        ConfigError: it is not three numbers, or no clip.
    """
    from ..core.config import ClipSpec

    return ClipSpec(*_whole_numbers(text, "x", option, "HEIGHTxWIDTHxFRAMES, such as 256x256x25", 3, least=_ANY))


def parse_shapes(texts: Sequence[str], option: str) -> tuple[ClipSpec, ...]:
    """Several shapes, each once. Raises as `parse_shape`; also ConfigError where two are one shape."""
    shapes = tuple(parse_shape(text, option) for text in texts)
    distinct(map(str, shapes), option)
    return shapes


def parse_box(text: str, option: str) -> Box:
    """ "40,200,60,180" -> the box of these rows and columns.

    Raises:
        ConfigError: it is not four whole numbers.
    """
    from ..core.model.masks import Box

    form = "TOP,BOTTOM,LEFT,RIGHT in pixels of the portrait, such as 40,200,60,180"
    return Box(*_whole_numbers(text, ",", option, form, 4))


def parse_crop(text: str, option: str = "--crop") -> tuple[int, int, int]:
    """ "0,120,800" -> top, left and size.

    Raises:
        ConfigError: it is not three whole numbers, or the size is 0.
    """
    form = "TOP,LEFT,SIZE in pixels of the portrait, such as 0,120,800"
    top, left, size = _whole_numbers(text, ",", option, form, 3)
    if size == 0:
        raise ConfigError(f"{option} is {text!r}, of no size; write {form}.")
    return top, left, size


def parse_bytes(text: str, option: str) -> int:
    """ "4GB", "3.5 GiB" -> bytes.

    Raises:
        ConfigError: it is no amount, has no unit, or is less or more than any machine's memory.
    """
    match = _AMOUNT.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"{option} is {text!r}; write an amount such as 4GB or 3.5GiB.")
    number, unit = match.groups()
    if unit in ("", "k", "m", "g", "t"):
        unit = unit.upper() or "G"
        raise ConfigError(f"{option} is {text!r}: {number}{unit}B or {number}{unit}iB? Write the unit.")
    if unit not in _UNITS:
        raise ConfigError(f"{option} is {text!r}; there is no unit {unit!r}. Write an amount such as 4GB or 3.5GiB.")
    amount = int(Decimal(number) * _UNITS[unit])
    if not LEAST_BYTES <= amount <= MOST_BYTES:
        raise ConfigError(f"{option} is {text!r}; it must be from 1MB to 1000TB, such as 4GB.")
    return amount


def _whole_numbers(text: str, separator: str, option: str, form: str, count: int | None = None, least: int = 0) -> tuple[int, ...]:
    """The numbers of `text`; `count` of them where there is one. `form` is what to write instead."""
    parts = [part.strip() for part in text.lower().split(separator)]
    if not all(_WHOLE.fullmatch(part) and int(part) >= least for part in parts) or (count is not None and len(parts) != count):
        raise ConfigError(f"{option} is {text!r}; write {form}.")
    return tuple(map(int, parts))
