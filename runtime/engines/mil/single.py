"""The interpreter with the file's weights and float32 for all else, as an engine."""

from __future__ import annotations

from ....core.bundle import Bundle
from ....core.config import ClipSpec
from . import engine


def open_bundle(bundle: Bundle, clip: ClipSpec, threads: int | None) -> engine.MilEngine:
    """Raises as `engine.MilEngine`."""
    return engine.open_bundle(bundle, clip, threads, "fp32")
