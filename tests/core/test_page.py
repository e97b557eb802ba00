"""core/train/page.py: a page says how far a run is, shows its losses and its samples, and reloads itself until the end."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from echoedge.core.errors import InputError
from echoedge.core.train.loop import Progress
from echoedge.core.train.page import FRAMES, GAP, LABEL, sample_sheet, write_page

LOSSES = {"loss": "Regression", "on-policy": "On-policy"}


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in found]


def test_a_page_shows_a_run(tmp_path: Path) -> None:
    log, sheet, page = tmp_path / "a.log", tmp_path / "step 50.png", tmp_path / "progress.html"
    log.write_text('{"step": 50, "loss": 0.5, "seconds": 9}\n{"step": 100, "loss": 0.25, "seconds": 18}\n')
    Image.new("RGB", (8, 4), (200, 30, 90)).save(sheet)
    write_page(page, "A <run>", Progress(100, 400, 3905.2), log, LOSSES, sheet)
    text = page.read_text()
    assert "Step 100 of 400, 65 min left." in text and "A &lt;run&gt;" in text and "<run>" not in text
    assert 'http-equiv="refresh"' in text and "step 50" in text
    curves, samples = pictures(text)
    assert curves.shape[1] > 900 and (samples == (200, 30, 90)).all()
    write_page(page, "A run", Progress(400, 400, None), log, LOSSES)
    text = page.read_text()
    assert "finished" in text and "refresh" not in text and len(pictures(text)) == 1


def test_a_run_without_losses_has_no_diagram(tmp_path: Path) -> None:
    log, page = tmp_path / "a.log", tmp_path / "progress.html"
    log.write_text('{"step": 50, "other": 0.5}\n')
    write_page(page, "A run", Progress(50, 400, 60.0), log, LOSSES)
    assert pictures(page.read_text()) == []
    with pytest.raises(InputError, match="is not a training log"):
        write_page(page, "A run", Progress(50, 400, 60.0), tmp_path / "none.log", LOSSES)


def test_a_sheet_has_the_clips_of_every_kind_below_each_other() -> None:
    shades = {"a": (40, 80), "b": (49, 89)}
    clips = {name: [np.full((5, 8, 10, 3), shade, np.uint8) for shade in each] for name, each in shades.items()}
    sheet = np.asarray(sample_sheet(clips))
    rows = [int(sheet[(8 + LABEL) * row + LABEL + 4, GAP + 5, 0]) for row in range(4)]
    assert rows == [40, 49, 80, 89] and sheet.shape[1] == FRAMES * (10 + GAP) + GAP
    for wrong in ({}, {"a": []}, {"a": clips["a"], "b": clips["b"][:1]}):
        with pytest.raises(InputError, match="make no sheet"):
            sample_sheet(wrong)
