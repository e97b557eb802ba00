"""Reading a bundle: nothing is believed that has not been checked."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import ClipSpec, ModelConfig
from ..errors import BundleError
from ..files import CLAIM, file_sha256, human_bytes
from .fields import MANIFEST, RECORDS, short
from .manifest import MENDING, Manifest
from .programs import FileEntry, FolderArtifact, Program

if TYPE_CHECKING:
    from ..plan import SamplingPlan

_MAX_MANIFEST_BYTES = 64 << 20
Stat = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `root` is its folder; `manifest_sha256` is that of the manifest's file as it was opened; `seen`: how the
    system described each file then, by which `require_unchanged` knows it again."""

    root: Path
    manifest: Manifest = field(repr=False)
    manifest_sha256: str = field(default="", repr=False)
    seen: dict[str, Stat] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> Bundle:
        """Read the manifest and check every file that it lists: its presence and size, and with `verify` its SHA-256.

        Files that it does not list are left alone; `extra_files` names them.

        Raises:
            BundleError: the folder or the manifest is missing or not valid, or a file is missing, cut off or altered. The message
                names up to five such files.
        """
        root = Path(path)
        data = _manifest_bytes(root)
        bundle = cls(root, _parsed_manifest(root, data), hashlib.sha256(data).hexdigest())
        entries = bundle.entries()
        bundle.seen.update((name, stat) for name in entries if (stat := _stat(root / name)))  # first: what changes later differs
        problems = [problem for name, entry in entries.items() if (problem := _problem(root, name, entry, verify))]
        if problems:
            told = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise BundleError(f"{root} is not complete: {told}. {MENDING}")
        return bundle

    def require_unchanged(self, *names: str) -> None:
        """That these files, or all, are those that were opened: what was read of them until now is of this manifest. A file whose
        description alone has changed is read again.

        Raises:
            BundleError: one was replaced or changed meanwhile.
        """
        for name in names or tuple(self.seen):
            before, now = self.seen.get(name), _stat(self.root / name)
            if before is None or before == now:
                continue
            if now is None or _problem(self.root, name, self.entries()[name], verify=True):
                raise BundleError(
                    f"{self.root} was replaced while it was in use: {name} is not the file that was opened. Run the same command "
                    "again."
                )
            self.seen[name] = now

    @property
    def clip(self) -> ClipSpec:
        """The main shape."""
        return self.manifest.clips[0].spec()

    @property
    def clips(self) -> tuple[ClipSpec, ...]:
        """Every shape that the bundle plays, the main one first."""
        return tuple(record.spec() for record in self.manifest.clips)

    def plays(self, clip: ClipSpec) -> bool:
        """Whether there are programs for clips of a shape: it is listed, or every program serves every shape and the portrait's
        encoder takes portraits of that size."""
        if clip in self.clips:
            return True
        programs, rate = self.manifest.programs.values(), (self.clip.fps, self.clip.sample_rate)
        if any(program.clip is not None for program in programs) or (clip.fps, clip.sample_rate) != rate:
            return False
        size = self.input_shape("image_encoder", "portrait")[2:]
        return clip.latent_frames > 1 and all(n in (-1, wanted) for n, wanted in zip(size, (clip.height, clip.width), strict=True))

    @property
    def bytes(self) -> int:
        """Of every file but the manifest and records."""
        return sum(entry.bytes for entry in self.entries().values())

    @property
    def roles(self) -> tuple[str, ...]:
        """What there are programs for, each once."""
        return tuple(dict.fromkeys(program.role for program in self.manifest.programs.values()))

    def program_for(self, role: str, clip: ClipSpec | None = None) -> Program:
        """The program that a player asks for by `role`, for clips of a shape, the main one by default.

        Raises:
            BundleError: there is none.
        """
        _lookup(self.roles, role, "program")
        wanted = str(clip or self.clip)
        of_role = [program for program in self.manifest.programs.values() if program.role == role]
        found = next((program for program in of_role if program.clip == wanted), None)
        found = found or next((program for program in of_role if program.clip is None), None)
        if found is None:
            shapes = ", ".join(program.clip for program in of_role if program.clip)
            raise BundleError(f"The bundle has no {role} for clips of {wanted}. It has: {shapes}.")
        return found

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.from_dict(self.manifest.model.config)

    def path(self, name: str) -> Path:
        """Where the file `name` of the manifest lies.

        Raises:
            BundleError: the manifest lists no such file.
        """
        return self.root / _lookup({*self.entries(), *(program.path for program in self.manifest.programs.values())}, name, "file")

    def program(self, name: str) -> Program:
        """The manifest's record of the program `name`; its file is `path(program.path)`.

        Raises:
            BundleError: there is none.
        """
        return self.manifest.programs[_lookup(self.manifest.programs, name, "program")]

    def input_shape(self, role: str, name: str, method: str = "forward", clip: ClipSpec | None = None) -> tuple[int, ...]:
        """The shape of the input `name` of a method of the program for `role`; -1 where the caller chooses.

        Raises:
            BundleError: there is no such program, method or input.
        """
        methods = self.program_for(role, clip).methods
        specs = {spec.name: spec.shape for spec in methods[_lookup(methods, method, f"method of {role}")].inputs}
        return tuple(size if isinstance(size, int) else -1 for size in specs[_lookup(specs, name, f"input of {role}")])

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of the safetensors file `name`.

        Raises:
            BundleError: there is no such file, it is not safetensors, or it holds a dtype that numpy lacks.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(self.path(name))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            self.require_unchanged(name)
            raise BundleError(f"{name} of {self.root} cannot be read as arrays ({error}). {MENDING}") from error
        self.require_unchanged(name)
        return tensors

    def plan(self) -> SamplingPlan:
        """The sampling plan of `plan.json`.

        Raises:
            BundleError, ConfigError: it is missing or not a plan.
        """
        from ..plan import SamplingPlan

        try:
            text = self.path("plan.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.require_unchanged("plan.json")
            raise BundleError(f"plan.json of {self.root} cannot be read ({error}). {MENDING}") from error
        self.require_unchanged("plan.json")
        return SamplingPlan.from_json(text)

    def extra_files(self) -> tuple[str, ...]:
        """Files in the folder that the manifest does not list and that are no records, nor the claim of who writes one, sorted."""
        known = {MANIFEST, *self.entries(), *(path.relative_to(self.root).as_posix() for path in self.record_files())}
        found = (Path(folder, name).relative_to(self.root).as_posix() for folder, _, names in os.walk(self.root) for name in names)
        return tuple(sorted(name for name in set(found) - known if not name.endswith(CLAIM)))

    def record_files(self) -> tuple[Path, ...]:
        """The files of what was measured after the export, by name, which is by date; see `core.bundle.records`."""
        return tuple(sorted(self.root.glob(f"{RECORDS}/*.json")))

    def entries(self) -> dict[str, FileEntry]:
        """Every file but the manifest; a program that is a folder is there as its files."""
        stored = (program.artifact for program in self.manifest.programs.values())
        files = (each for each in stored if not isinstance(each, FolderArtifact))
        return self.manifest.files | {each.path: FileEntry(sha256=each.sha256, bytes=each.bytes) for each in files}


def _stat(path: Path) -> Stat | None:
    """A file as the system describes it: another one under the name, or a write to it, changes that. None: it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _manifest_bytes(root: Path) -> bytes:
    path = root / MANIFEST
    if not root.exists():
        raise BundleError(f"There is no bundle {root}. Check the name, or export one.")
    if not root.is_dir():
        raise BundleError(f"{root} is a file; a bundle is a folder with a {MANIFEST}.")
    if not path.is_file():
        raise BundleError(f"{root} has no {MANIFEST}: it is not a bundle, or a copy that was cut off. {MENDING}")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has {human_bytes(path.stat().st_size)}; no manifest is that large. {MENDING}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}).") from error


def _parsed_manifest(root: Path, data: bytes) -> Manifest:
    try:
        return Manifest.from_json(data)
    except BundleError as error:
        raise BundleError(f"{root}: {error}") from error


def _problem(root: Path, name: str, entry: FileEntry, verify: bool) -> str | None:
    """What is wrong with one file, in words; None if nothing is."""
    path = root / name
    try:
        if not path.is_file():
            return f"{name} is missing ({human_bytes(entry.bytes)})"
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{name} has {size} bytes instead of {entry.bytes}"
        if not verify:
            return None
        found = file_sha256(path)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None if found == entry.sha256 else f"{name} was altered (SHA-256 {found[:12]}… instead of {entry.sha256[:12]}…)"


def _lookup(mapping: Iterable[str], name: str, noun: str) -> str:
    names = sorted(mapping)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BundleError(f"The bundle has no {noun} {name!r}. It has: {short(', '.join(names)) or 'none'}.{hint}")
    return name
