"""Loudness, output sizes and clip lengths against upstream's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from echoedge.core.errors import InputError
from echoedge.runtime.play.pictures import output_size
from echoedge.runtime.play.speech import clip_frames, normalise_loudness

from .goldens import Comparison, Golden, check

FPS = 25  # upstream's literal


@check("audio_frontend")
def loudness(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative. Measured: 0.001 of that."""
    for name, wave in case.tensors().items():
        if name.startswith("in/wav"):
            name = f"out/{name.removeprefix('in/')}"
            yield name, normalise_loudness(wave.numpy(), case.call["sr"], case.call["lufs"]), case.tensors()[name]


@check("sizes")
def sizes(case: Golden) -> Iterator[Comparison]:
    """Output sizes, by image and target; clip lengths, by seconds and cap."""
    for name, theirs in case.results.items():
        if isinstance(theirs, dict):
            for pipeline in theirs.keys() - {"w", "h", "target"}:
                yield f"results/{name}/{pipeline}", _size(theirs), theirs[pipeline] if min(theirs[pipeline]) else None
        else:
            yield f"results/{name}", _frames(name), theirs if theirs >= 1 else None


def _size(image: dict[str, Any]) -> list[int] | None:
    """None if we refuse the image, where upstream goes on with an empty one."""
    try:
        return list(output_size(image["h"], image["w"], *image["target"]))
    except InputError:
        return None


def _frames(name: str) -> int | None:
    """None if we refuse the sound, where upstream goes on with no frames."""
    found = re.fullmatch(r"dur([\d.e+-]+)(?:_cap(\d+|None))?", name)
    if found is None:
        raise ValueError(f"A clip length is named {name!r}, which does not read dur…_cap….")
    cap = int(found[2]) if found[2] not in (None, "None") else None
    try:
        return clip_frames(float(found[1]), FPS, cap, upstream_compat=True)
    except InputError:
        return None
