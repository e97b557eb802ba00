"""Checkpoints that a killed run resumes from: written beside, then renamed, so that the last one on disk is always whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaces `path` by `state` (tensors, numbers, strings) in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved at `path`, or None where no run has saved one yet."""
    if not path.exists():
        return None
    return dict(torch.load(path, map_location="cpu", weights_only=True))
