"""runtime/play/contact_sheet.py: what is drawn where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from echoedge.core.errors import InputError
from echoedge.runtime.play.contact_sheet import SheetRow, SheetStyle, contact_sheet

STYLE = SheetStyle()
RED, BLUE = (200, 30, 30), (30, 30, 200)


def film(frames: int = 24, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame t is grey of level 10·t."""
    return np.repeat(np.arange(frames, dtype=np.uint8)[:, None, None, None] * 10, 3, axis=3).repeat(height, 1).repeat(width, 2)


def plain(colour: tuple[int, int, int], frames: int = 24) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (frames, 64, 64, 3)).copy()


def count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly that colour."""
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


def columns_of(sheet: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """The x that have a pixel of that colour."""
    return np.flatnonzero((np.asarray(sheet) == colour).all(axis=2).any(axis=0))


def tile_colours(sheet: Image.Image, columns: int) -> list[int]:
    """The grey level in the middle of each tile of the first row, of a sheet without portrait and title."""
    y = (STYLE.margin + STYLE.label_line + STYLE.tile // 2) * STYLE.scale
    pitch = STYLE.tile + STYLE.gap
    return [sheet.getpixel(((STYLE.margin + column * pitch + STYLE.tile // 2) * STYLE.scale, y))[0] for column in range(columns)]  # type: ignore[index]


def test_frames_are_spaced_equally() -> None:
    sheet = contact_sheet([SheetRow("nano", film())], fps=25, columns=6)
    assert sheet.mode == "RGB"
    assert tile_colours(sheet, 6) == [20, 60, 100, 140, 180, 220]  # frames 2, 6, 10 …, the middles of six spans of 4
    assert tile_colours(contact_sheet([SheetRow("nano", film())], fps=25, columns=3), 3) == [40, 120, 200]


def test_size_is_the_sum_of_its_parts() -> None:
    one = contact_sheet([SheetRow("a", film())], fps=25, columns=4)
    two = contact_sheet([SheetRow("a", film()), SheetRow("b", film())], fps=25, columns=4)
    assert one.width == two.width == (2 * STYLE.margin + 4 * STYLE.tile + 3 * STYLE.gap) * STYLE.scale
    assert two.height - one.height == (STYLE.row_gap + STYLE.label_line + STYLE.tile) * STYLE.scale
    wide = contact_sheet([SheetRow("a", film(width=128))], fps=25, columns=4)
    assert wide.width - one.width == 4 * STYLE.tile * STYLE.scale
    large = contact_sheet([SheetRow("a", film())], fps=25, columns=4, style=SheetStyle(scale=3))
    assert large.width * 2 == one.width * 3


def test_portrait_and_rows_are_there() -> None:
    sheet = contact_sheet([SheetRow("a", plain(RED))], fps=25, portrait=plain(BLUE)[0], columns=4)
    tile = (STYLE.tile * STYLE.scale) ** 2
    assert count(sheet, RED) == pytest.approx(4 * tile, rel=0.02)
    assert count(sheet, BLUE) == pytest.approx(tile, rel=0.02)
    assert columns_of(sheet, BLUE).max() < columns_of(sheet, RED).min()
    assert count(contact_sheet([SheetRow("a", plain(RED))], fps=25, columns=4), BLUE) == 0


def test_speech_stands_below_its_frames() -> None:
    """A sound in the second quarter only: its bars lie under the second of four tiles."""
    wave = np.zeros(24 * 640, np.float32)
    wave[6 * 640 : 12 * 640] = 0.3
    sheet = contact_sheet([SheetRow("a", plain(RED))], fps=25, audio=wave, columns=4)
    pixels = (np.asarray(sheet) == STYLE.accent).all(axis=2)
    high = np.flatnonzero(pixels.sum(axis=0) > STYLE.strip * STYLE.scale / 2) / STYLE.scale
    left = STYLE.margin + STYLE.tile + STYLE.gap / 2
    assert (high.min(), high.max()) == pytest.approx((left, left + STYLE.tile + STYLE.gap), abs=3)
    late = contact_sheet([SheetRow("a", plain(RED))], fps=25, audio=np.roll(wave, 6 * 640), columns=4)
    assert late != sheet


def test_loudness_of_the_drawing_is_relative() -> None:
    wave = np.sin(np.arange(24 * 640) / 50).astype(np.float32)
    rows = [SheetRow("a", film())]
    assert contact_sheet(rows, fps=25, audio=wave) == contact_sheet(rows, fps=25, audio=wave * np.float32(0.5))
    assert contact_sheet(rows, fps=25, audio=wave) != contact_sheet(rows, fps=25, audio=wave**2)


@pytest.mark.parametrize("samples", [0, 100, 24 * 640, 10**6])
def test_sound_of_any_length(samples: int) -> None:
    rows = [SheetRow("a", film())]
    size = contact_sheet(rows, fps=25).size
    assert contact_sheet(rows, fps=25, audio=np.zeros(samples, np.float32)).size == size


def test_words_are_drawn() -> None:
    bare = contact_sheet([SheetRow("", film())], fps=25)
    assert contact_sheet([SheetRow("nano", film())], fps=25) != bare
    assert contact_sheet([SheetRow("", film(), note="41 dB")], fps=25) != bare
    assert contact_sheet([SheetRow("", film())], fps=25, title="EchoEdge").height == bare.height + STYLE.title_line * STYLE.scale
    signs, ascii_only = SheetRow("64×64 – ≥ 40 dB", film()), SheetRow("64x64 - >= 40 dB", film())
    assert contact_sheet([signs], fps=25) == contact_sheet([ascii_only], fps=25)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([], 4, "at least one row"),
        ([SheetRow("a", film().astype(np.float32))], 4, "Row 'a' is float32"),
        ([SheetRow("a", film()[0])], 4, r"\[64, 64, 3\]; it must be uint8"),
        ([SheetRow("a", film()[..., :1])], 4, "it must be uint8"),
        ([SheetRow("a", film()), SheetRow("b", film(20))], 4, "Rows 'b' and 'a' have shapes"),
        ([SheetRow("a", film(3))], 4, "columns is 4; it must be between 1 and the number of frames, 3"),
        ([SheetRow("a", film())], 0, "columns is 0"),
    ],
)
def test_sheets_that_cannot_be(rows: list[SheetRow], columns: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        contact_sheet(rows, fps=25, columns=columns)
