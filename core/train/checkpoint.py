"""Checkpoints that a killed run resumes from: written beside, then renamed, so that the last one on disk is always whole."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..files import atomic_file


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaces `path` by `state` (tensors, numbers, strings) in one step."""
    with atomic_file(path, force=True) as temporary, temporary.open("wb") as file:
        torch.save(state, file)  # given a path, it does not tell why it could not write


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state saved at `path`, or None where no run has saved one yet. Tensors stay in the file until they are touched; what is
    changed of them does not reach it."""
    if not path.exists():
        return None
    mapped = os.name != "nt"  # Windows replaces no file that is mapped
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))


def options_of(training: Any, made_from: str, extendable: tuple[str, ...] = ()) -> str:
    """The options of a run (a dataclass) and what it is made from, as JSON to be kept in its checkpoints; `extendable` options may
    change between runs."""
    options = {name: value for name, value in asdict(training).items() if name not in extendable}
    return json.dumps(options | {"made_from": made_from}, sort_keys=True)


def require_options(saved: dict[str, Any], options: str, path: Path) -> None:
    """Refuses to go on from a checkpoint of a run with other options.

    Raises:
        ConfigError: names the first option that differs, with both values; or the checkpoint is from before options were kept.
    """
    if "options" not in saved:
        raise ConfigError(f"{path} is of an earlier version, which did not keep its options. Use another folder.")
    theirs, ours = _flat(json.loads(saved["options"])), _flat(json.loads(options))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ConfigError(
                f"{path} belongs to a run with {name} {theirs.get(name)!r}, not {ours.get(name)!r}. Use the same options, or "
                "another folder."
            )


def _flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names."""
    if not isinstance(options, dict):
        return {prefix: options}
    return {
        key: value for name, part in options.items() for key, value in _flat(part, f"{prefix}.{name}" if prefix else name).items()
    }


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers by name: equal weights, equal text."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
