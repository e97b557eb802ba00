"""Sizes and frames that no model has: one sentence with the two nearest that one has, on every command that takes them."""

from __future__ import annotations

import pytest

from echoedge.cli.options import parse_shape, parse_size
from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError

SIZES = {
    "100x60": "height is 100; it must be a multiple of 16, such as 96 or 112.",
    "64x60": "width is 60; it must be a multiple of 16, such as 48 or 64.",
    "8x8": "height is 8; it must be a multiple of 16, such as 16 or 32.",
    "99999x64": "height is 99999; it must be a multiple of 16, such as 99984 or 100000.",
}
NO_SIDE = {"0x64": "'0x64'; its height must be at least 1", "64x-64": "'64x-64'; its width must be at least 1"}
FRAMES = {0: "1 or 5", -3: "1 or 5", 14: "13 or 17", 80: "77 or 81"}


@pytest.mark.parametrize("text", SIZES)
def test_the_nearest_sizes_are_named(text: str) -> None:
    for read in (lambda: ClipSpec(*parse_size(text), 25), lambda: parse_shape(f"{text}x25", "--also")):
        with pytest.raises(ConfigError) as caught:
            read()
        assert str(caught.value) == SIZES[text]


@pytest.mark.parametrize("text", NO_SIDE)
def test_a_size_without_a_side_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=NO_SIDE[text]):
        parse_size(text)


@pytest.mark.parametrize("frames", FRAMES)
def test_the_nearest_numbers_of_frames_are_named(frames: int) -> None:
    for read in (lambda: ClipSpec(64, 64, frames), lambda: parse_shape(f"64x64x{frames}", "--clip")):
        with pytest.raises(ConfigError, match=rf"frames is {frames}; it must be 4n\+1, such as {FRAMES[frames]}\."):
            read()


def test_what_is_legal_passes() -> None:
    assert str(ClipSpec(*parse_size("96x112"), 81)) == "96x112x81"
    assert str(parse_shape(" 64 x 80 x 1 ", "--clip")) == "64x80x1"
