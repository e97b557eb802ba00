"""Writing a bundle: it hashes what it writes and gives the folder its name only when it is complete."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import JsonValue, ValidationError

from ..errors import BundleError
from ..files import CHUNK_BYTES, atomic_folder, file_sha256, require_free_disk
from .fields import MANIFEST, bundle_path, first_mistakes, short
from .manifest import ClipRecord, Manifest, ModelRecord, Parity, PlayingRecord, Saving, TargetRecord, WeightsRecord
from .programs import ARTIFACTS, PROGRAMS, Figures, FileEntry, Kind, Method, Placement, Program, folder_sha256
from .reader import Bundle


class BundleWriter:
    """Collects a bundle in a temporary folder and gives it its name when it is complete.

        with BundleWriter("nano.echoedge") as writer:
            writer.add_json("plan.json", plan)
            writer.add_program("denoise", "denoise.pte", role="denoise", clip="256x256x25", methods=…)
            writer.finish(model=…, clips=…, target=…, weights=…, versions=…, playing=…)

    Nothing appears under `path` if the body raises, is interrupted, or ends without `finish`. With `force` an existing bundle is
    replaced at the end; a folder that is not a bundle never is. `expected_bytes` is checked against the free disk at the start.

    Raises (on entering):
        OutputError: `path` exists and `force` is off, or cannot be written.
        ResourceError: the disk lacks `expected_bytes`.
    """

    def __init__(self, path: str | Path, force: bool = False, expected_bytes: int = 0) -> None:
        self.path = Path(path)
        self.force = force
        self.expected_bytes = expected_bytes
        self._files: dict[str, FileEntry] = {}
        self._programs: dict[str, Program] = {}
        self._folder: Path | None = None
        self._finished = False
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        require_free_disk(self.path, self.expected_bytes)
        self._folder = self._exit.enter_context(atomic_folder(self.path, self.force, marker=MANIFEST))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and not self._finished:
            problem = BundleError(f"{self.path} was not written: BundleWriter.finish() was not called.")
            self._exit.__exit__(BundleError, problem, None)
            raise problem
        self._exit.__exit__(kind, error, trace)

    @property
    def folder(self) -> Path:
        """The temporary folder. An exporter may write straight into it; `add_file` and `add_program` then hash in place.

        Raises:
            BundleError: the writer has not been entered.
        """
        if self._folder is None:
            raise BundleError("Open the writer first: with BundleWriter(path) as writer.")
        return self._folder

    def add_bytes(self, name: str, data: bytes) -> FileEntry:
        """Write `data` as the file `name`, a path inside the bundle.

        Raises:
            BundleError: `name` is not such a path or is taken.
            ResourceError: the disk is full.
        """
        target = self._claim(name)
        require_free_disk(target, len(data))
        target.write_bytes(data)
        return self._record(name, FileEntry(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))

    def add_json(self, name: str, data: JsonValue) -> FileEntry:
        """Write `data` as JSON (UTF-8, no NaN or infinity). Raises as `add_bytes`; also BundleError if it is not JSON."""
        try:
            text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise BundleError(f"{name} cannot be written as JSON ({error}).") from error
        return self.add_bytes(name, text)

    def add_tensors(self, name: str, tensors: Mapping[str, np.ndarray]) -> FileEntry:
        """Write named arrays as safetensors. Raises as `add_bytes`; also BundleError for a dtype that safetensors lacks."""
        from safetensors import SafetensorError
        from safetensors.numpy import save

        try:
            data = save({key: np.asarray(value, order="C") for key, value in tensors.items()})
        except (SafetensorError, KeyError, TypeError) as error:
            raise BundleError(f"{name} cannot be written as safetensors ({error}).") from error
        return self.add_bytes(name, data)

    def add_file(self, name: str, source: str | Path) -> FileEntry:
        """Copy the file `source` to `name`; if it lies there already (see `folder`) it is only hashed. Raises as `add_bytes`."""
        return self._record(name, self._copy(name, Path(source)))

    def add_program(
        self,
        name: str,
        source: str | Path,
        *,
        role: str,
        clip: str | None,
        methods: Mapping[str, Method],
        placement: Mapping[str, Placement] | None = None,
        layers: Mapping[str, int] | None = None,
        demanded: Figures | None = None,
        measured: Figures | None = None,
        kind: Kind = "pte",
        prefix: str = "",
        data: str | None = None,
    ) -> Program:
        """Copy a compiled program, a file or a folder, to programs/, keeping the name of `source`.

        With a `prefix` (see `PteFile`) further programs may lie in the same file or folder. `data`: the file, added before, that
        holds its weights. The other arguments are the fields of `Program`.

        Raises:
            BundleError: `name` or a path is taken or cannot be used, `source` does not exist, is empty, or is not of its `kind`.
            ResourceError: the disk is full.
        """
        source = Path(source)
        if name in self._programs:
            raise BundleError(f"The bundle has a program {name!r} already.")
        path = f"{PROGRAMS}/{source.name}"
        if source.exists() and source.is_dir() != (kind == "folder"):
            raise BundleError(f"The program {source} is a {'folder' if source.is_dir() else 'file'}, not of the kind {kind!r}.")
        twin = next((program for program in self._programs.values() if program.path == path and prefix and program.prefix), None)
        if twin is not None:
            sha256, size = twin.artifact.sha256, twin.artifact.bytes
        elif source.is_dir():
            inside = sorted(file for file in source.rglob("*") if file.is_file())
            names = [f"{path}/{file.relative_to(source).as_posix()}" for file in inside]
            entries = {entry_name: self.add_file(entry_name, file) for entry_name, file in zip(names, inside, strict=True)}
            if not entries:
                raise BundleError(f"The program {source} is an empty folder.")
            sha256, size = folder_sha256(entries), sum(entry.bytes for entry in entries.values())
        else:
            entry = self._copy(path, source)
            sha256, size = entry.sha256, entry.bytes
        stored: dict[str, Any] = {"path": path, "sha256": sha256, "bytes": size}
        stored |= {"prefix": prefix} if kind != "file" else {}
        stored |= {"data": data} if kind != "folder" else {}
        try:
            program = Program(
                role=role, clip=clip, methods=dict(methods), artifact=ARTIFACTS[kind](**stored), placement=dict(placement or {}),
                layers=dict(layers or {}), demanded=demanded, measured=measured,
            )  # fmt: skip
        except ValidationError as error:
            raise BundleError(f"The record of program {name!r} is not valid: {first_mistakes(error)}.") from error
        self._programs[name] = program
        return program

    def finish(
        self,
        *,
        model: ModelRecord,
        clips: Iterable[ClipRecord],
        target: TargetRecord,
        weights: WeightsRecord,
        versions: Mapping[str, str],
        playing: PlayingRecord,
        parity: Parity | None = None,
        memory: Mapping[str, JsonValue] | None = None,
        savings: Iterable[Saving] = (),
    ) -> Manifest:
        """Write the manifest; the folder takes its name when the `with` block ends.

        Raises:
            BundleError: the manifest would not be valid, or the folder holds files that were not added.
            ResourceError: the disk is full.
        """
        try:
            manifest = Manifest(
                model=model, clips=tuple(clips), target=target, weights=weights, versions=dict(versions), programs=self._programs,
                files=self._files, playing=playing, parity=parity or Parity(), memory=dict(memory or {}), savings=tuple(savings),
            )  # fmt: skip
        except ValidationError as error:
            raise BundleError(f"The manifest would not be valid: {first_mistakes(error)}.") from error
        data = manifest.to_json()
        if Manifest.from_json(data) != manifest:
            raise BundleError("The manifest does not survive JSON: a key or a value has a type that JSON changes.")
        strangers = Bundle(self.folder, manifest).extra_files()
        if strangers:
            raise BundleError(f"{short(', '.join(strangers))}: written into the bundle's folder, but not added to the bundle.")
        require_free_disk(self.folder, len(data))
        (self.folder / MANIFEST).write_bytes(data)
        self._finished = True
        return manifest

    def _claim(self, name: str) -> Path:
        """Where `name` is written, its folder made."""
        if self._finished:
            raise BundleError(f"{name} comes too late: the manifest is written.")
        try:
            bundle_path(name)
        except ValueError as error:
            raise BundleError(f"{error}.") from error
        taken = {path.casefold() for path in (*self._files, *(program.path for program in self._programs.values()))}
        if name.casefold() in taken:
            raise BundleError(f"The bundle has a file {name} already.")
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _record(self, name: str, entry: FileEntry) -> FileEntry:
        self._files[name] = entry
        return entry

    def _copy(self, name: str, source: Path) -> FileEntry:
        target = self._claim(name)
        if not source.is_file():
            raise BundleError(f"{source} does not exist; it was to become {name}.")
        if target.exists() and target.samefile(source):
            return FileEntry(sha256=file_sha256(source), bytes=source.stat().st_size)
        require_free_disk(target, source.stat().st_size)
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as reader, target.open("wb") as writer:
            while chunk := reader.read(CHUNK_BYTES):
                digest.update(chunk)
                size += writer.write(chunk)
        shutil.copymode(source, target)
        return FileEntry(sha256=digest.hexdigest(), bytes=size)
