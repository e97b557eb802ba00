"""Files that people bring, before anything in them is decoded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ...core.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer


def open_for_reading(source: Path | IO[bytes]) -> InputContainer:
    """Open a media file; a playlist in it cannot make FFmpeg reach for the network, a colon in its name is no protocol."""
    import av

    place = os.path.abspath(source) if isinstance(source, Path) else source
    return av.open(place, "r", options={"protocol_whitelist": "file"}, metadata_errors="replace")


def existing_file(path: str | Path, noun: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no {noun} {path}. Check the name.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the name of a {noun}.")
    if path.stat().st_size == 0:
        raise InputError(f"The {noun} {path} is empty (0 bytes). Copy it again.")
    return path
