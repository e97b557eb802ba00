"""Where the files of a checkpoint are: in a folder, in those below it and in those beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..config import Variant
from ..errors import CheckpointError
from ..model.architecture import ComponentName
from .accounts import BASE_FOLDER, NEEDED_FOR, TensorSource
from .recognition import AUDIO_PARTS, audio_variant
from .tensor_files import INDEX_SUFFIX, TensorFile, read_shards, read_tensor_file

_SINGLE_FILES: dict[ComponentName, re.Pattern[str]] = {
    "vae": re.compile(r"wan2[._]1[._-]vae.*\.(safetensors|pth|pt|gguf)", re.IGNORECASE),
    "clip": re.compile(r"(models_clip|open-clip).*\.(safetensors|pth|pt|gguf)", re.IGNORECASE),
    "text_encoder": re.compile(r"(models_t5_)?umt5.*\.(safetensors|pth|pt|gguf)", re.IGNORECASE),
    "tiny_vae": re.compile(r"taew2_1\.(safetensors|pth)", re.IGNORECASE),
}
_QUANTISED = re.compile(r"fp8|int8|nf4|gguf", re.IGNORECASE)  # copies that are passed over where there are others
_OVERLAY_CHECKPOINT = re.compile(r"checkpoint-.*\.(pth|pt|safetensors)")
_MODEL = "diffusion_pytorch_model"
_DEPTH = 3


def folders_in(top: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """`top` and the folders below it, hidden ones excepted, sorted."""
    yield top
    if depth:
        try:
            below = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return
        for path in below:
            yield from folders_in(path, depth - 1)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file() or (path.is_symlink() and not path.exists()))
    except OSError:
        return []


Places = dict[ComponentName, list[tuple[Path, ...]]]


def places(folders: Iterable[Path]) -> Places:
    """Candidates for every component in these folders; a candidate is the files that are read as one."""
    found: Places = {name: [] for name in NEEDED_FOR}
    for folder in folders:
        names = _names_in(folder)
        for component, pattern in _SINGLE_FILES.items():
            matching = [name for name in names if pattern.fullmatch(name)]
            matching = [name for name in matching if not _QUANTISED.search(name)] or matching
            by_stem = {Path(name).stem: name for name in sorted(matching, key=lambda name: name.endswith(".safetensors"))}
            found[component] += [(folder / name,) for name in by_stem.values()]
        groups = _transformer_groups(names, merge=_is_base_folder(folder, names) or folder.name == "transformer")
        found["transformer"] += [tuple(folder / name for name in group) for group in groups]
        if "wav2vec" in folder.name.lower():
            weights = next((name for name in ("model.safetensors", "pytorch_model.bin") if name in names), None)
            found["wav2vec2"] += [(folder / weights,)] if weights else []
        if "umt5" in folder.name.lower() and {"tokenizer.json", "spiece.model"} & set(names):
            found["tokenizer"].append((folder,))
    return found


def _is_base_folder(folder: Path, names: list[str]) -> bool:
    """Wan's folder, by its name or by what lies in it."""
    others = [_SINGLE_FILES[component] for component in ("vae", "clip", "text_encoder")]
    return "wan2" in folder.name.lower() or any(pattern.fullmatch(name) for pattern in others for name in names)


def _transformer_groups(names: list[str], merge: bool) -> list[tuple[str, ...]]:
    """Of the files in one folder, those that may hold a transformer: one file, an index, or (`merge`) shards without an index;
    where there is nothing else, a file in a format of quantised weights, so that it is refused by its name."""
    groups: list[tuple[str, ...]] = [(name,) for name in names if _OVERLAY_CHECKPOINT.fullmatch(name)]
    whole = next((name for name in (f"{_MODEL}.bin", f"{_MODEL}.safetensors", _MODEL + INDEX_SUFFIX) if name in names), None)
    if whole:
        return [*groups, (whole,)]
    known = (*_SINGLE_FILES.values(), _OVERLAY_CHECKPOINT)
    loose = [name for name in names if name.endswith(".safetensors") and not any(p.fullmatch(name) for p in known)]
    if merge and loose:
        return [*groups, tuple(loose)]
    quantised = [name for name in names if name.endswith(".gguf") and not any(p.fullmatch(name) for p in known)]
    return groups or ([(quantised[0],)] if quantised else [])


def folders_beside(folder: Path) -> list[Path]:
    """The folder that `folder` lies in, the component folders beside it, and those below them."""
    outer = folder.parent
    siblings = [path for path in folders_in(outer, 1) if path not in (folder, outer)]
    return [outer, *(below for path in siblings if any(places([path]).values()) for below in folders_in(path, _DEPTH - 1))]


@dataclass(frozen=True)
class Candidate:
    """Files that may hold a transformer, and what they turned out to be."""

    paths: tuple[Path, ...]
    source: TensorSource | None
    problem: str | None  # why there is no source

    @classmethod
    def read(cls, paths: tuple[Path, ...]) -> Candidate:
        try:
            return cls(paths, read_source(paths), None)
        except CheckpointError as error:
            return cls(paths, None, str(error))

    @property
    def variant(self) -> Variant | None:
        return audio_variant(self.source.entries) if self.source else None

    @property
    def role(self) -> Literal["overlay", "base", "unreadable", "other"]:
        if self.source is None:
            return "unreadable"
        if self.variant:
            return "overlay"
        return "base" if "blocks.0.self_attn.q.weight" in self.source.entries else "other"


def read_source(paths: tuple[Path, ...]) -> TensorSource:
    """What these files hold, read as one.

    Raises:
        CheckpointError: one cannot be read, or it is not clear which of its tensors are meant.
    """
    files: list[TensorFile] = []
    for path in paths:
        files += read_shards(path) if path.name.endswith(INDEX_SUFFIX) else [read_tensor_file(path)]
    source = TensorSource(tuple(files))
    _ = source.entries  # whatever is wrong with the names is said here
    return source


def overlay_of(candidates: list[Candidate], wanted: Variant | None) -> Candidate | None:
    """The candidate with EchoMimic's audio part; without one, a file outside Wan's folder that is damaged or something else."""
    present = [candidate for candidate in candidates if candidate.role == "overlay"]
    matching = [candidate for candidate in present if wanted in (None, candidate.variant)]
    if len(matching) > 1:
        listed = ", ".join(f"{candidate.paths[0]} ({candidate.variant})" for candidate in matching)
        differ = len({candidate.variant for candidate in matching}) > 1
        remedy = "Say which model is meant, flash or preview" if differ else "Name the file that is meant"
        raise CheckpointError(f"{len(matching)} transformers could be meant: {listed}. {remedy}.")
    if matching:
        return matching[0]
    outside = [candidate for candidate in candidates if not _is_base_folder(candidate.paths[0].parent, [])]
    unreadable = next((candidate for candidate in outside if candidate.role == "unreadable"), None)
    if unreadable is None and present:
        require_variant(present[0], wanted)
    return unreadable or next((candidate for candidate in outside if candidate.role == "other"), None)


def require_variant(candidate: Candidate, wanted: Variant | None) -> None:
    if wanted is not None and candidate.variant not in (None, wanted):
        found = cast(Variant, candidate.variant)
        raise CheckpointError(
            f"{candidate.paths[0]} is the {found} transformer: it has {AUDIO_PARTS[found]}*. "
            f"Give the folder of {wanted}, or ask for {found}."
        )


def nearest(candidates: list[tuple[Path, ...]], near: Path, what: str, favourite: str = BASE_FOLDER) -> tuple[Path, ...]:
    """Of files that could be `what`, those that lie nearest; among equally near ones those in the folder called `favourite`."""

    def steps(paths: tuple[Path, ...]) -> int:
        return len(Path(os.path.relpath(paths[0], near)).parts)

    best = [paths for paths in candidates if steps(paths) == min(map(steps, candidates))]
    if len(best) > 1:
        best = [paths for paths in best if favourite in paths[0].parts] or best
    if len(best) > 1:
        raise CheckpointError(
            f"{len(best)} files could be the {what}: {', '.join(str(paths[0]) for paths in best)}. Give a folder that has only one."
        )
    return best[0] if best else ()


def base_of(candidates: list[Candidate], overlay: Candidate | None, near: Path) -> Candidate | None:
    """Wan's transformer: the nearest one; without one, a file in Wan's folder that is damaged or something else."""
    rest = [candidate for candidate in candidates if candidate is not overlay]
    for role in ("base", "unreadable", "other"):
        of_role = {candidate.paths: candidate for candidate in rest if candidate.role == role}
        if of_role:
            return of_role[nearest(list(of_role), near, "base transformer")]
    return None
