"""Training curves as a picture, from the logs that training writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError

Points = Sequence[tuple[float, float]]

_SCALE = 2  # pixels of one point
_PANEL, _MARGIN, _TITLE, _AXIS = (470, 250), 28, 34, 44
_PAPER, _INK, _QUIET, _GRID = (251, 250, 247), (33, 36, 41), (122, 126, 132), (224, 223, 219)
_COLOURS = ((15, 118, 110), (194, 90, 32), (88, 80, 160))
_TICKS = 5


@dataclass(frozen=True)
class Panel:
    """One diagram: curves by name, drawn against the step; `log` for a logarithmic scale of values above 0."""

    title: str
    curves: Mapping[str, Points]
    log: bool = False


def read_log(path: Path, *keys: str) -> dict[str, Points]:
    """The values of `keys` in a log of JSON lines, against their `step`; keys that never occur are left out.

    Raises:
        InputError: the log cannot be read, or is not one.
    """
    try:
        kept: list[tuple[float, dict[str, float]]] = []
        for line in map(json.loads, path.read_text().splitlines()):
            step = float(line["step"])
            if kept and kept[-1][0] == step:  # a step may have several lines
                line = kept.pop()[1] | line
            kept = [(earlier, values) for earlier, values in kept if earlier < step]  # a resumed run repeats steps
            kept.append((step, line))
        found = {key: [(step, float(line[key])) for step, line in kept if key in line] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a training log: {error}.") from error
    return {key: points for key, points in found.items() if points}


def draw_curves(panels: Sequence[Panel]) -> Image.Image:
    """The panels side by side, RGB, about 500×330 points each.

    Raises:
        InputError: there is no panel, a panel has no points, or a value cannot be drawn.
    """
    for panel in panels:
        values = [value for points in panel.curves.values() for point in points for value in point]
        if (
            not values
            or not all(map(math.isfinite, values))
            or (panel.log and any(y <= 0 for c in panel.curves.values() for _, y in c))
        ):
            raise InputError(f"The panel {panel.title!r} has no points that can be drawn.")
    if not panels:
        raise InputError("There is no panel to draw.")
    width = _MARGIN + len(panels) * (_PANEL[0] + _AXIS + _MARGIN)
    image = Image.new("RGB", (width * _SCALE, (2 * _MARGIN + _TITLE + _PANEL[1] + 20) * _SCALE), _PAPER)
    for number, panel in enumerate(panels):
        _draw_panel(ImageDraw.Draw(image), panel, _MARGIN + _AXIS + number * (_PANEL[0] + _AXIS + _MARGIN), _MARGIN + _TITLE)
    return image


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    width, height = _PANEL
    title, small = ImageFont.load_default(15 * _SCALE), ImageFont.load_default(11 * _SCALE)
    height_of = math.log10 if panel.log else float
    xs = [x for points in panel.curves.values() for x, _ in points]
    ys = [height_of(y) for points in panel.curves.values() for _, y in points]
    low, high = min(ys), max(ys)
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    last = max(xs) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (left + width * x / last) * _SCALE, (top + height * (high - y) / (high - low)) * _SCALE

    draw.text((left * _SCALE, (top - _TITLE) * _SCALE), panel.title, _INK, title)
    for tick in range(_TICKS):
        share = tick / (_TICKS - 1)
        value = low + share * (high - low)
        (x0, y), (x1, _) = place(0, value), place(last, value)
        draw.line((x0, y, x1, y), _GRID, _SCALE)
        draw.text((x0 - 6 * _SCALE, y), f"{10**value if panel.log else value:.3g}", _QUIET, small, anchor="rm")
        draw.text((place(share * last, low)[0], (top + height + 6) * _SCALE), f"{share * last:.0f}", _QUIET, small, anchor="mt")
    at = left * _SCALE + draw.textlength(panel.title, title) + 16 * _SCALE
    for (name, points), colour in zip(panel.curves.items(), _COLOURS * len(panel.curves), strict=False):
        draw.line([place(x, height_of(y)) for x, y in points], colour, 2 * _SCALE, joint="curve")
        draw.text((at, (top - _TITLE + 4) * _SCALE), name, colour, small)
        at += draw.textlength(name, small) + 12 * _SCALE


def training_curves(transformer: Path, autoencoder: Path) -> Image.Image:
    """The curves of `train nano` from the folders of its logs: the autoencoder's PSNR, the transformer's losses.

    Raises:
        InputError: a log is missing.
    """
    loss = read_log(transformer / "dit.log", "loss", "preference")
    panels = [Panel("Transformer, flow matching", {"loss": loss.get("loss", ())}, log=True)]
    if "preference" in loss:
        panels.append(Panel("Transformer, preference steps", {"loss": loss["preference"]}))
    if (autoencoder / "vae.log").exists():  # not where a VAE was given
        psnr = read_log(autoencoder / "vae.log", "psnr_db")
        panels.insert(0, Panel("Autoencoder, PSNR in dB", {"training clips": psnr.get("psnr_db", ())}))
    return draw_curves(panels)
