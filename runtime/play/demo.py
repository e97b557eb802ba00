"""The demo's contact sheet: the clip that was written, read back from the MP4."""

from __future__ import annotations

from pathlib import Path

from ...core.bundle import Bundle
from ...core.files import atomic_file
from .clips import read_clip
from .contact_sheet import SheetRow, contact_sheet
from .cropping import Crop
from .pictures import Portrait


def write_contact_sheet(
    bundle: Bundle, clip_path: Path, portrait: Path, out: Path, force: bool = False, crop: Crop | None = None
) -> None:
    """Portrait, frames of the clip and its sound, as one PNG; what a clip cuts off of the portrait is faded."""

    def heard_before(_: str) -> None:
        """What there is to know of the portrait was told when the clip was made."""

    clip = read_clip(clip_path)
    sheet = contact_sheet(
        [SheetRow(f"{bundle.manifest.model.preset}, {bundle.manifest.weights.name}", clip.frames)],
        fps=clip.fps,
        portrait=Portrait.open(portrait, heard_before, crop).shown(bundle.clip.height, bundle.clip.width),
        audio=clip.audio,
        sample_rate=clip.sample_rate,
        columns=min(10, len(clip.frames)),
        title="EchoEdge: a portrait and a voice",
    )
    with atomic_file(out, force) as temporary:
        sheet.save(temporary, format="PNG")
