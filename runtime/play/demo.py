"""The demo's contact sheet: the clip that was written, read back from the MP4."""

from __future__ import annotations

from pathlib import Path

from ...core.bundle import Bundle
from ...core.files import atomic_file
from .clips import read_clip
from .contact_sheet import SheetRow, contact_sheet
from .pictures import read_portrait_pixels


def write_contact_sheet(bundle: Bundle, clip_path: Path, portrait: Path, out: Path, force: bool = False) -> None:
    """Portrait, frames of the clip and its sound, as one PNG."""
    clip = read_clip(clip_path)
    sheet = contact_sheet(
        [SheetRow(f"{bundle.manifest.model.preset}, {bundle.manifest.weights.name}", clip.frames)],
        fps=clip.fps,
        portrait=read_portrait_pixels(portrait, bundle.clip.height, bundle.clip.width),
        audio=clip.audio,
        sample_rate=clip.sample_rate,
        columns=min(10, len(clip.frames)),
        title="EchoEdge: a portrait and a voice",
    )
    with atomic_file(out, force) as temporary:
        sheet.save(temporary, format="PNG")
