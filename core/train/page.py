"""A page beside a training run: how far it is, its losses, its newest samples. It reloads itself, from a file, without a server."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files import atomic_file
from .curves import Panel, draw_curves, read_log
from .loop import Progress
from .pace import in_words

RELOADED_S = 15
FRAMES, LABEL, GAP = 6, 22, 4  # of a clip that a sheet shows; pixels of a row's name, and between frames
_STYLE = """
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1rem; font: 16px/1.5 system-ui, sans-serif }
body { color: #212429; background: #fbfaf7 }
h1 { font-size: 1.3rem; font-weight: 600 } p { color: #5d6166 } img { width: 100%; height: auto }
progress { width: 100%; height: .6rem; accent-color: #0f766e } figure { margin: 1.5rem 0 } figcaption { color: #5d6166 }
@media (prefers-color-scheme: dark) { body { color: #e4e3df; background: #1b1d20 } p, figcaption { color: #a2a6ab } }
"""


def write_page(path: Path, title: str, progress: Progress, log: Path, losses: Mapping[str, str], sheet: Path | None = None) -> None:
    """Writes the page. `losses`: keys of the log, and what a diagram of each is called; those that it has not are left out.
    `sheet`: a picture of the newest samples, where there is one.

    Raises:
        InputError: the log cannot be read.
    """
    known = read_log(log, *losses)
    panels = [Panel(losses[name], {name: points}, log=all(value > 0 for _, value in points)) for name, points in known.items()]
    pictures = [("Losses by step, of the training batches.", draw_curves(panels))] if panels else []
    if sheet is not None and sheet.exists():
        with Image.open(sheet) as opened:
            pictures.append((sheet.stem, opened.convert("RGB")))
    end = "finished" if progress.seconds_left is None else f"{in_words(progress.seconds_left)} left"
    reload = "" if progress.seconds_left is None else f'<meta http-equiv="refresh" content="{RELOADED_S}">'
    figures = "".join(
        f'<figure><img src="data:image/png;base64,{_png(image)}" alt="{html.escape(said)}"><figcaption>{html.escape(said)}'
        "</figcaption></figure>"
        for said, image in pictures
    )
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{reload}'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<progress value="{progress.step}" max="{progress.steps}"></progress>'
        f"<p>Step {progress.step:,} of {progress.steps:,}, {end}.</p>{figures}</body></html>"
    )
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(text)


def sample_sheet(rows: Mapping[str, Sequence[NDArray[np.uint8]]]) -> Image.Image:
    """Clips [T, H, W, 3] by what the row of each kind is called: clip k of every kind below each other, frames side by side.

    Raises:
        InputError: there is no clip, or kinds have different numbers of them.
    """
    counts = {len(clips) for clips in rows.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"Rows of {sorted(counts)} clips make no sheet. Give each kind the same number, one at least.")
    order = [(name, clips[k]) for k in range(counts.pop()) for name, clips in rows.items()]
    _, height, width = order[0][1].shape[:3]
    sheet = Image.new("RGB", (FRAMES * (width + GAP) + GAP, len(order) * (height + LABEL) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (name, clip) in enumerate(order):
        top = row * (height + LABEL)
        draw.text((GAP, top + 3), name, "black", font)
        for column, frame in enumerate(np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)):
            sheet.paste(Image.fromarray(clip[frame]), (GAP + column * (width + GAP), top + LABEL))
    return sheet


def _png(image: Image.Image) -> str:
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return base64.b64encode(stored.getvalue()).decode()
