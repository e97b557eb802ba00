"""The whole folder of golden vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...core.files import atomic_folder
from . import bundles, film, generator, heard, inputs, json_numbers, measured, pictures, sounds, steps, windowing
from .group import index

INDEX = "index.json"
GROUPS = (
    json_numbers.build, generator.build, steps.build, windowing.build, sounds.build, heard.build, inputs.build, pictures.build,
    film.colour,
    film.mp4, bundles.build, measured.build,
)  # fmt: skip


def write_vectors(out: Path, force: bool = False) -> dict[str, int]:
    """Writes the folder `out` -> how many cases each group has.

    Raises:
        OutputError: there is such a folder and `force` is off, or it is none of vectors, or cannot be written.
        ResourceError: the disk is full.
    """
    with atomic_folder(out, force, marker=INDEX) as folder:
        groups = [build() for build in GROUPS]
        files: dict[str, bytes] = {}
        for group in groups:
            for name, data in group.written().items():
                if files.setdefault(name, data) != data:
                    raise AssertionError(f"two files are called {name}")
        files[INDEX] = index(groups, files, lambda data: hashlib.sha256(data).hexdigest())
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return {group.name: len(group.cases) for group in groups}
