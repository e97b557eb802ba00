"""Files that people bring, before anything in them is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer


def open_for_reading(path: Path) -> InputContainer:
    """Open a media file; a playlist in it cannot make FFmpeg reach for the network."""
    import av

    return av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")


def existing_file(path: str | Path, noun: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no {noun} {path}. Check the name.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the name of a {noun}.")
    if path.stat().st_size == 0:
        raise InputError(f"The {noun} {path} is empty (0 bytes). Copy it again.")
    return path
