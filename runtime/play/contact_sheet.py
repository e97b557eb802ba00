"""One picture of a clip: the portrait, frames at equal spacing, and below them the speech, on the same axis of time."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ...core.errors import InputError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

# Pillow's own font has no more than ASCII and a few signs.
_IN_ASCII = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "→": "->", "≈": "~", "µ": "u", "•": "·"})


@dataclass(frozen=True)
class SheetRow:
    """One clip of the sheet. `frames`: uint8 [T, H, W, 3]; `note`: quieter, at the end of the label's line, such as a figure."""

    label: str
    frames: Pixels
    note: str = ""


@dataclass(frozen=True)
class SheetStyle:
    """Sizes in points, of `scale` pixels each. Tiles are `tile` points high and as wide as the frames' aspect makes them."""

    tile: int = 96
    gap: int = 8
    margin: int = 28
    label_line: int = 26  # above each row of tiles
    title_line: int = 34
    row_gap: int = 10
    portrait_gap: int = 28
    strip: int = 56  # height of the waveform
    strip_gap: int = 20  # between the tiles and the waveform
    bar: int = 2  # width of a bar of the waveform; bars are 1.5 widths apart
    corner: int = 6
    title_size: int = 18
    label_size: int = 13
    small_size: int = 11
    scale: int = 2
    paper: Colour = (251, 250, 247)
    ink: Colour = (33, 36, 41)
    quiet: Colour = (122, 126, 132)
    hairline: Colour = (176, 178, 178)
    accent: Colour = (15, 118, 110)


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    fps: float,
    portrait: Pixels | None = None,
    audio: Floats | None = None,
    sample_rate: int = 16000,
    columns: int = 8,
    title: str = "",
    style: SheetStyle | None = None,
) -> Image.Image:
    """Lay out a sheet: RGB, about 900×300 points for one row of 8 square frames.

    The clip is cut into `columns` equal spans; the middle frame of each is shown above its span of the waveform, and a tick marks
    the frame's time there, to the nearest bar. All rows show the same frame numbers. `portrait` is uint8 [H, W, 3]; `audio` is
    float [n] in [-1, 1], drawn relative to its own peak.

    Raises:
        InputError: there is no row; the rows are not uint8 [T, H, W, 3] of one shape; `columns` is not between 1 and T.
    """
    _check(rows, columns)
    style = style or SheetStyle()
    count, height, width = rows[0].frames.shape[:3]
    chosen = [int((column + 0.5) * count / columns) for column in range(columns)]

    # 1. where everything lies, in points
    tile_width = round(style.tile * width / height)
    pitch = tile_width + style.gap
    top = style.margin + (style.title_line if title else 0)
    portrait_width = 0 if portrait is None else round(style.tile * portrait.shape[1] / portrait.shape[0])
    left = style.margin + (0 if portrait is None else portrait_width + style.portrait_gap)
    right = left + columns * pitch - style.gap
    row_tops = [top + style.label_line + number * (style.label_line + style.tile + style.row_gap) for number in range(len(rows))]
    strip_top = row_tops[-1] + style.tile + style.strip_gap
    strip_bottom = strip_top + style.strip
    sheet = _Canvas(right + style.margin, strip_bottom + style.margin + style.small_size, style)

    # 2. title, portrait, rows of frames
    if title:
        sheet.text(style.margin, style.margin + style.title_size, title, style.ink, style.title_size)
    if portrait is not None:
        sheet.text(style.margin, row_tops[0] - 9, "Portrait", style.ink, style.label_size)
        sheet.picture(portrait, style.margin, row_tops[0], portrait_width, style.tile)
    for row, row_top in zip(rows, row_tops, strict=True):
        sheet.text(left, row_top - 9, row.label, style.ink, style.label_size)
        sheet.text(right, row_top - 9, row.note, style.quiet, style.small_size, anchor="rs")
        for column, frame in enumerate(chosen):
            sheet.picture(row.frames[frame], left + column * pitch, row_top, tile_width, style.tile)

    # 3. the speech: its axis runs half a gap beyond the tiles, so that each tile stands above the middle of its span
    start, length = left - style.gap / 2, columns * pitch
    bars = int(length / (1.5 * style.bar))
    marked = [int((frame + 0.5) / count * bars) for frame in chosen]
    for column, (frame, bar) in enumerate(zip(chosen, marked, strict=True)):
        x, tile_middle = start + (bar + 0.5) * length / bars, left + column * pitch + tile_width / 2
        sheet.line(tile_middle, strip_top - style.strip_gap + 4, tile_middle, strip_top - style.strip_gap + 8, style.hairline)
        sheet.line(tile_middle, strip_top - style.strip_gap + 8, x, strip_top - 4, style.hairline)
        sheet.line(x, strip_top - 4, x, strip_bottom + 2, style.hairline)
        sheet.text(x, strip_bottom + style.small_size + 6, f"{(frame + 0.5) / fps:.2f} s", style.quiet, style.small_size, "ms")
    if audio is None:
        sheet.line(start, (strip_top + strip_bottom) / 2, start + length, (strip_top + strip_bottom) / 2, style.hairline)
        return sheet.finish()
    levels = _levels(audio, round(count / fps * sample_rate), bars)
    sheet.bars(levels, marked, start, length, (strip_top + strip_bottom) / 2, style.strip / 2)
    if portrait is not None:
        sheet.text(style.margin, (strip_top + strip_bottom) / 2 + 4, "Speech", style.ink, style.label_size)
    return sheet.finish()


class _Canvas:
    """An image that is drawn on in points; it is drawn twice as large as it will be, which smooths lines and corners."""

    def __init__(self, width: int, height: int, style: SheetStyle) -> None:
        self.style = style
        self._scale = 2 * style.scale
        self._image = Image.new("RGB", (width * self._scale, height * self._scale), style.paper)
        self._draw = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        return self._image.reduce(2)

    def _pixels(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self._scale), round(y * self._scale)

    def text(self, x: float, y: float, text: str, colour: Colour, size: int, anchor: str = "ls") -> None:
        """`y` is the baseline."""
        plain = unicodedata.normalize("NFC", text).translate(_IN_ASCII)
        self._draw.text(self._pixels(x, y), plain, colour, ImageFont.load_default(size * self._scale), anchor=anchor)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self._draw.line((self._pixels(x0, y0), self._pixels(x1, y1)), colour, max(1, self._scale // 2))

    def picture(self, pixels: Pixels, x: float, y: float, width: int, height: int) -> None:
        """Scaled to fill, with round corners. Small frames are enlarged with Lanczos and a little sharpening."""
        size = self._pixels(width, height)
        scaled = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        if size[0] > pixels.shape[1]:
            scaled = scaled.filter(ImageFilter.UnsharpMask(radius=3, percent=60, threshold=1))
        fine = 4  # the corners are drawn larger and reduced, which smooths them
        mask = Image.new("L", (size[0] * fine, size[1] * fine), 0)
        corner = self.style.corner * self._scale * fine
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), corner, 255)
        self._image.paste(scaled, self._pixels(x, y), mask.resize(size, Image.Resampling.BOX))

    def bars(self, levels: Floats, marked: Sequence[int], start: float, length: float, middle: float, reach: float) -> None:
        """Upright bars of `levels` in [0, 1], symmetric about `middle`, spread over `length`; the `marked` ones in ink."""
        half_width = self.style.bar / 2
        for bar, level in enumerate(levels):
            x, half = start + (bar + 0.5) * length / len(levels), max(float(level) * reach, half_width)
            (x0, y0), (x1, y1) = self._pixels(x - half_width, middle - half), self._pixels(x + half_width, middle + half)
            colour = self.style.ink if bar in marked else self.style.accent
            self._draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), half_width * self._scale, colour)


def _levels(audio: Floats, samples: int, bars: int) -> Floats:
    """Peaks of `bars` equal spans of `samples` samples (what is missing is silence), the largest being 1: float32 [bars]."""
    wave = np.abs(np.pad(audio[:samples], (0, max(0, samples - audio.size))))
    edges = np.linspace(0, samples, bars + 1).astype(int)
    peaks = np.array([wave[low : max(high, low + 1)].max(initial=0) for low, high in pairwise(edges)], np.float32)
    return peaks / max(float(peaks.max()), 1e-9)


def _check(rows: Sequence[SheetRow], columns: int) -> None:
    if not rows:
        raise InputError("A contact sheet needs at least one row of frames.")
    for row in rows:
        if row.frames.ndim != 4 or row.frames.shape[3] != 3 or row.frames.dtype != np.uint8:
            raise InputError(f"Row {row.label!r} is {row.frames.dtype} {list(row.frames.shape)}; it must be uint8 [T, H, W, 3].")
        if row.frames.shape != rows[0].frames.shape:
            shapes = f"{list(row.frames.shape)} and {list(rows[0].frames.shape)}"
            raise InputError(f"Rows {row.label!r} and {rows[0].label!r} have shapes {shapes}; they must be equal.")
    if not 1 <= columns <= len(rows[0].frames):
        raise InputError(f"columns is {columns}; it must be between 1 and the number of frames, {len(rows[0].frames)}.")
