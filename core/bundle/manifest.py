"""The bundle: a folder that holds everything a player needs, and a manifest that ties every byte of it to where it came from.

    NAME.echoedge/
      manifest.json                     this module's `Manifest`
      plan.json  step_tables.safetensors
      programs/   denoise.pte …         a program is a file, or a folder for Core ML (.mlpackage)
      prompts/    *.safetensors
      tests/      golden.safetensors
      records/    what was measured later (`core.bundle.records`): the manifest does not list it and never changes for it

`BundleWriter` hashes what it writes and gives the folder its name only when it is complete; `Bundle.open` believes nothing that it
has not checked. No torch here: a phone-sized environment reads bundles.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ..config import ClipSpec, ModelConfig
from ..errors import BundleError
from ..files import CHUNK_BYTES, atomic_folder, file_sha256, human_bytes, require_free_disk

if TYPE_CHECKING:
    from ..plan import SamplingPlan

FORMAT: Final = "echoedge.bundle/1"
MANIFEST = "manifest.json"
PROGRAMS = "programs"
RECORDS = "records"
DECODE_PROGRAMS: Final = {"full": "vae_decode", "tiny": "tiny_decode"}  # by decoder
CONDITION_PROGRAMS: Final = {  # what each gives the denoising step
    "text_conditions": ("text_k", "text_v"),
    "image_conditions": ("image_k", "image_v"),
    "audio_conditions": ("audio_k", "audio_v"),
    "patch_conditions": ("patch_bias",),
}
_MAX_MANIFEST_BYTES = 64 << 20
_MAX_PATH_LENGTH = 200
_PATH_PART = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")
_MENDING = "Copy the bundle again, or export it again."


# --- 1. the manifest -------------------------------------------------------------------------------------------------------------


def _bundle_path(value: str) -> str:
    """A path that means the same file on every system: relative, "/" between parts, letters, digits and "._+-"."""
    if len(value) > _MAX_PATH_LENGTH or not all(_PATH_PART.fullmatch(part) for part in value.split("/")):
        raise ValueError(f"{_short(repr(value))} is not a path inside a bundle: letters, digits and '._+-', parts joined by '/'")
    if value.casefold() == MANIFEST:
        raise ValueError(f"{MANIFEST} cannot list itself")
    if value.split("/")[0].casefold() == RECORDS:
        raise ValueError(f"{_short(value)} is where figures are kept that are measured after the export")
    return value


BundlePath = Annotated[str, AfterValidator(_bundle_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Name = Annotated[str, Field(min_length=1, max_length=_MAX_PATH_LENGTH)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelRecord(_Record):
    """The model that the bundle was compiled from."""

    preset: Name
    config: dict[str, Any]  # ModelConfig.to_dict()
    config_digest: Sha256  # ModelConfig.digest
    source_sha256: Sha256  # of the weights

    @model_validator(mode="after")
    def _config_matches_digest(self) -> Self:
        try:
            TypeAdapter(ModelConfig).validate_python(self.config)  # the types first: ModelConfig computes with the values
            digest = ModelConfig.from_dict(self.config).digest
        except ValidationError as error:
            raise ValueError(_first_mistakes(error)) from error
        except ArithmeticError as error:
            raise ValueError(f"the model configuration cannot work ({error})") from error
        if digest != self.config_digest:
            raise ValueError(f"the model configuration has digest {digest[:12]}…, not {self.config_digest[:12]}…")
        return self

    @classmethod
    def of(cls, config: ModelConfig, source_sha256: str) -> Self:
        as_json = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        return cls(preset=config.name, config=as_json, config_digest=config.digest, source_sha256=source_sha256)


class ClipRecord(_Record):
    """What one window of the bundle plays; the fields of `ClipSpec`."""

    height: int
    width: int
    frames: int
    fps: int
    sample_rate: int

    @model_validator(mode="after")
    def _is_a_clip(self) -> Self:
        try:
            self.spec()
        except ArithmeticError as error:
            raise ValueError(f"the clip cannot work ({error})") from error
        return self

    @classmethod
    def of(cls, clip: ClipSpec) -> Self:
        return cls(height=clip.height, width=clip.width, frames=clip.frames, fps=clip.fps, sample_rate=clip.sample_rate)

    def spec(self) -> ClipSpec:
        return ClipSpec(self.height, self.width, self.frames, self.fps, self.sample_rate)


class Hearing(_Record):
    """How a player hears a voice with the audio encoder's program, and what a window of the clip takes of what it heard.

    rows_per_frame: rows of features that a video frame has. neighbours: frames on either side that stand with each frame's features
    (0: the features go as they are). beyond_frames: so many frames after its last one a window hears too, as far as the clip goes.
    tail_frames: of silence, heard behind the voice. context_frames: of what the program reads at once, so many on either side are
    not kept, unless the voice begins or ends there. window: (samples, stride) of the encoder's first layer; the program then takes
    the voice at zero mean and unit variance, the first layer's statistics over the whole voice, and which rows are there
    (core/sampling/hearing.py); null where it takes the voice as it is and nothing else.
    """

    rows_per_frame: Annotated[int, Field(ge=1, le=16)] = 1
    neighbours: Annotated[int, Field(ge=0, le=16)] = 0
    beyond_frames: Annotated[int, Field(ge=0, le=16)] = 0
    tail_frames: Annotated[int, Field(ge=0, le=16)] = 0
    context_frames: Annotated[int, Field(ge=0, le=10_000)] = 0
    window: tuple[Annotated[int, Field(ge=1, le=64)], Annotated[int, Field(ge=1, le=64)]] | None = None


class Recipe(_Record):
    """How the weights are stored."""

    name: Name
    settings: dict[str, JsonValue] = {}


class TensorSpec(_Record):
    """One input or output of a program."""

    name: Name
    dtype: Literal["float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    shape: tuple[Count, ...]


class Method(_Record):
    """One entry point; the order of inputs and outputs is the order of the call."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Delegation(_Record):
    """How much of a method the accelerated backend took over. `other_ops`: operator -> count, of what it did not; `other_flops`:
    operator -> FLOPs of matrix products and convolutions among them; `other_seconds`: operator -> seconds in one call of the
    method, on the machine that compiled it; `border_bytes`: of tensors that leave the backend within the method, or come back."""

    delegate_calls: Count
    delegated_ops: Count
    other_ops: dict[str, Count] = {}
    delegated_flops: Count = 0
    other_flops: dict[str, Count] = {}
    other_seconds: dict[str, Annotated[float, Field(ge=0)]] = {}
    border_bytes: Count = 0

    @property
    def flops_share(self) -> float:
        """Of the method's FLOPs, those that the backend took; 1 where there are none."""
        outside = sum(self.other_flops.values())
        return self.delegated_flops / (self.delegated_flops + outside) if outside else 1.0


class Program(_Record):
    """A compiled program: a file, or a folder whose files are in `Manifest.files` (then `sha256` is `folder_sha256` of them).

    Several programs may lie in one file, where a method is named `prefix` + its name. `data`: a file of `Manifest.files` that holds
    the program's weights, which programs of other clip shapes share.
    """

    path: BundlePath
    sha256: Sha256
    bytes: Count
    methods: dict[str, Method]
    delegation: dict[str, Delegation] = {}
    prefix: Annotated[str, Field(max_length=_MAX_PATH_LENGTH)] = ""
    data: BundlePath | None = None

    @model_validator(mode="after")
    def _delegation_is_about_methods(self) -> Self:
        strangers = sorted(set(self.delegation) - set(self.methods))
        if strangers:
            raise ValueError(f"delegation of {', '.join(strangers)}, which {self.path} does not have")
        return self


class FileEntry(_Record):
    sha256: Sha256
    bytes: Count


class Figures(_Record):
    """Agreement of two tensors. None: not measured. Equal tensors have `metrics.psnr.CAP` dB."""

    psnr_db: float | None = None
    cosine: float | None = None
    max_abs: float | None = None


class Parity(_Record):
    """Compiled against reference, demanded and found: by program name, or "latents" or "frames" for a whole clip."""

    thresholds: dict[str, Figures] = {}
    measured: dict[str, Figures] = {}


class Saving(_Record):
    """What a rewrite saves of one window, applied alone to the naive step (`targets/rewrites/hoist.py`).

    `parameters`: how many the step leaves unread because of it, or, of dead-parameters, how many go in all. `kept_bytes`: what is
    held instead, float32, per window and guidance branch, per plan or per program, as `per` says.
    """

    name: Name
    flops_without: Count
    flops_with: Count
    parameters: Count
    kept_bytes: Count
    per: Literal["branch", "plan", "program"]


class Manifest(_Record):
    """`manifest.json`: the bundle's passport."""

    format: Literal["echoedge.bundle/1"] = FORMAT
    model: ModelRecord
    clip: ClipRecord
    target: Literal["executorch", "coreml", "onnx"]
    weights: Recipe
    versions: dict[str, str]
    programs: dict[Name, Program]
    files: dict[BundlePath, FileEntry]
    parity: Parity = Parity()
    memory: dict[str, JsonValue] = {}
    backend: Name = "xnnpack"  # of the target, where it has several
    precision: Literal["fp32", "bf16", "fp16"] | None = None  # what programs compute in; None in bundles that do not say
    other_clips: tuple[ClipRecord, ...] = ()  # further shapes; their programs are named `Bundle.program_name`
    hearing: Hearing | None = None  # bundles from before it was written down: as the model hears a whole voice
    savings: tuple[Saving, ...] = ()  # what left the step, counted at export; bundles of earlier versions lack it

    @model_validator(mode="after")
    def _paths_are_distinct(self) -> Self:
        folders = {program.path: files for program in self.programs.values() if (files := self.folder_files(program))}
        shared: dict[str, Program] = {}  # programs of one file
        for name, program in self.programs.items():
            first = shared.setdefault(program.path, program)
            if program is not first and (
                not (program.prefix and first.prefix) or (program.sha256, program.bytes) != (first.sha256, first.bytes)
            ):
                raise ValueError(f"{program.path} is listed twice, as {first.path}, and {name} does not say what of it is its own")
        entries = [f"{program.path} {program.prefix}{method}" for program in self.programs.values() for method in program.methods]
        if len(set(entries)) != len(entries):
            raise ValueError("two programs have one method of one file")
        for name, program in self.programs.items():
            if program.data is not None and program.data not in self.files:
                raise ValueError(f"{name} has its weights in {program.data}, which is not among the files")
        seen: dict[str, str] = {}  # a phone's storage may not tell upper from lower case
        for path in (*shared, *self.files):
            if path.casefold() in seen:
                raise ValueError(f"{path} is listed twice, as {seen[path.casefold()]}")
            seen[path.casefold()] = path
        for path in seen.values():
            for parent in PurePosixPath(path).parents:
                owner = seen.get(str(parent).casefold())
                if owner is not None and owner not in folders:
                    raise ValueError(f"{path} lies inside {owner}, which is a file")
        for program in self.programs.values():
            inside = folders.get(program.path)
            if inside and (program.sha256, program.bytes) != (folder_sha256(inside), sum(entry.bytes for entry in inside.values())):
                raise ValueError(f"SHA-256 or size of {program.path} is not that of its files")
        return self

    def folder_files(self, program: Program) -> dict[str, FileEntry]:
        """The files of a program that is a folder; empty if it is a file."""
        return {path: entry for path, entry in self.files.items() if path.startswith(program.path + "/")}

    def to_json(self) -> bytes:
        """UTF-8, one field a line.

        Raises:
            BundleError: a value has no form in JSON.
        """
        try:
            return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except ValueError as error:
            raise BundleError(f"The manifest cannot be written as JSON ({error}).") from error

    @classmethod
    def from_json(cls, text: bytes | str) -> Manifest:
        """Parse and validate a manifest. Earlier ones had a list of `benchmarks`, which is left out (`core.bundle.records`).

        Raises:
            BundleError: it is cut off, not JSON, of another format, or a field is missing, unknown or wrong.
        """
        try:
            data = json.loads(text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} is cut off or damaged ({error}). {_MENDING}") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise BundleError(
                f"{MANIFEST} has format {_short(repr(found))}; this version of EchoEdge reads {FORMAT!r}. "
                "Export the bundle again, or install the version that wrote it."
            )
        if isinstance(data.get("benchmarks"), list):
            del data["benchmarks"]
            text = json.dumps(data)
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise BundleError(f"{MANIFEST} is not valid: {_first_mistakes(error)}. {_MENDING}") from error


def shaped_name(name: str, clip: ClipSpec) -> str:
    """The name of a program for clips of a shape that is not the bundle's main one."""
    return f"{name}-{clip}"


def folder_sha256(entries: Mapping[str, FileEntry]) -> str:
    """SHA-256 of a folder: of the lines "sha256  path\\n" of its files, sorted by path."""
    return hashlib.sha256("".join(f"{entries[path].sha256}  {path}\n" for path in sorted(entries)).encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{_short(text)} is not a finite number")
    return value


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "…"


def _first_mistakes(error: ValidationError, count: int = 3) -> str:
    mistakes = error.errors(include_url=False, include_context=False, include_input=False)
    told = [(_short(".".join(map(str, mistake["loc"]))), _short(mistake["msg"])) for mistake in mistakes[:count]]
    more = [f"and {len(mistakes) - count} more"] if len(mistakes) > count else []
    return "; ".join([f"{place}: {message}" if place else message for place, message in told] + more)


# --- 2. writing ------------------------------------------------------------------------------------------------------------------


class BundleWriter:
    """Collects a bundle in a temporary folder and gives it its name when it is complete.

        with BundleWriter("nano.echoedge") as writer:
            writer.add_json("plan.json", plan)
            writer.add_program("denoise", "denoise.pte", methods)
            writer.finish(model=…, clip=…, target=…, weights=…, versions=…)

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
        methods: Mapping[str, Method],
        delegation: Mapping[str, Delegation] | None = None,
        prefix: str = "",
        data: str | None = None,
    ) -> Program:
        """Copy a compiled program, a file or a folder, to programs/, keeping the name of `source`.

        With a `prefix` (see `Program`) further programs may lie in the same file. `data`: the file, added before, that holds its
        weights.

        Raises:
            BundleError: `name` or a path is taken or cannot be used, `source` does not exist or is empty.
            ResourceError: the disk is full.
        """
        source = Path(source)
        if name in self._programs:
            raise BundleError(f"The bundle has a program {name!r} already.")
        path = f"{PROGRAMS}/{source.name}"
        twin = next((program for program in self._programs.values() if program.path == path and prefix and program.prefix), None)
        if twin is not None:
            sha256, size = twin.sha256, twin.bytes
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
        try:
            program = Program(
                path=path, sha256=sha256, bytes=size, methods=dict(methods), delegation=dict(delegation or {}), prefix=prefix,
                data=data,
            )  # fmt: skip
        except ValidationError as error:
            raise BundleError(f"The record of program {name!r} is not valid: {_first_mistakes(error)}.") from error
        self._programs[name] = program
        return program

    def finish(
        self,
        *,
        model: ModelRecord,
        clip: ClipRecord,
        target: Literal["executorch", "coreml", "onnx"],
        weights: Recipe,
        versions: Mapping[str, str],
        parity: Parity | None = None,
        memory: Mapping[str, JsonValue] | None = None,
        backend: str = "xnnpack",
        precision: Literal["fp32", "bf16", "fp16"] | None = None,
        other_clips: Iterable[ClipRecord] = (),
        hearing: Hearing | None = None,
        savings: Iterable[Saving] = (),
    ) -> Manifest:
        """Write the manifest; the folder takes its name when the `with` block ends.

        Raises:
            BundleError: the manifest would not be valid, or the folder holds files that were not added.
            ResourceError: the disk is full.
        """
        try:
            manifest = Manifest(
                model=model, clip=clip, target=target, weights=weights, versions=dict(versions), programs=self._programs,
                files=self._files, parity=parity or Parity(), memory=dict(memory or {}), backend=backend,
                precision=precision, other_clips=tuple(other_clips), hearing=hearing, savings=tuple(savings),
            )  # fmt: skip
        except ValidationError as error:
            raise BundleError(f"The manifest would not be valid: {_first_mistakes(error)}.") from error
        data = manifest.to_json()
        if Manifest.from_json(data) != manifest:
            raise BundleError("The manifest does not survive JSON: a key or a value has a type that JSON changes.")
        strangers = Bundle(self.folder, manifest).extra_files()
        if strangers:
            raise BundleError(f"{_short(', '.join(strangers))}: written into the bundle's folder, but not added to the bundle.")
        require_free_disk(self.folder, len(data))
        (self.folder / MANIFEST).write_bytes(data)
        self._finished = True
        return manifest

    def _claim(self, name: str) -> Path:
        """Where `name` is written, its folder made."""
        if self._finished:
            raise BundleError(f"{name} comes too late: the manifest is written.")
        try:
            _bundle_path(name)
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


# --- 3. reading ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `root` is its folder; `manifest_sha256` is that of the manifest's file as it was opened."""

    root: Path
    manifest: Manifest = field(repr=False)
    manifest_sha256: str = field(default="", repr=False)

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
        problems = [problem for name, entry in bundle._entries().items() if (problem := _problem(root, name, entry, verify))]
        if problems:
            told = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise BundleError(f"{root} is not complete: {told}. {_MENDING}")
        return bundle

    @property
    def clip(self) -> ClipSpec:
        return self.manifest.clip.spec()

    @property
    def clips(self) -> tuple[ClipSpec, ...]:
        """Every shape that the bundle plays, the main one first."""
        return (self.clip, *(record.spec() for record in self.manifest.other_clips))

    def program_name(self, name: str, clip: ClipSpec) -> str:
        """What `name` is called for clips of the shape `clip`; programs that no shape changes have one name."""
        special = shaped_name(name, clip)
        return special if clip != self.clip and special in self.manifest.programs else name

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.from_dict(self.manifest.model.config)

    def path(self, name: str) -> Path:
        """Where the file `name` of the manifest lies.

        Raises:
            BundleError: the manifest lists no such file.
        """
        return self.root / _lookup({*self._entries(), *(program.path for program in self.manifest.programs.values())}, name, "file")

    def program(self, name: str) -> Program:
        """The manifest's record of the program `name`; its file is `path(program.path)`.

        Raises:
            BundleError: there is none.
        """
        return self.manifest.programs[_lookup(self.manifest.programs, name, "program")]

    def input_shape(self, program: str, name: str, method: str = "forward") -> tuple[int, ...]:
        """The shape of the input `name` of a program's method.

        Raises:
            BundleError: there is no such program, method or input.
        """
        methods = self.program(program).methods
        specs = {spec.name: spec.shape for spec in methods[_lookup(methods, method, f"method of {program}")].inputs}
        return specs[_lookup(specs, name, f"input of {program}")]

    def read_tensors(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of the safetensors file `name`.

        Raises:
            BundleError: there is no such file, it is not safetensors, or it holds a dtype that numpy lacks.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.path(name))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{name} of {self.root} cannot be read as arrays ({error}). {_MENDING}") from error

    def plan(self) -> SamplingPlan:
        """The sampling plan of `plan.json`.

        Raises:
            BundleError, ConfigError: it is missing or not a plan.
        """
        from ..plan import SamplingPlan

        try:
            text = self.path("plan.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"plan.json of {self.root} cannot be read ({error}). {_MENDING}") from error
        return SamplingPlan.from_json(text)

    def extra_files(self) -> tuple[str, ...]:
        """Files in the folder that the manifest does not list and that are no records, sorted."""
        known = {MANIFEST, *self._entries(), *(path.relative_to(self.root).as_posix() for path in self.record_files())}
        found = (Path(folder, name).relative_to(self.root).as_posix() for folder, _, names in os.walk(self.root) for name in names)
        return tuple(sorted(set(found) - known))

    def record_files(self) -> tuple[Path, ...]:
        """The files of what was measured after the export, by name, which is by date; see `core.bundle.records`."""
        return tuple(sorted(self.root.glob(f"{RECORDS}/*.json")))

    def _entries(self) -> dict[str, FileEntry]:
        """Every file but the manifest; a program that is a folder is there as its files."""
        programs = (program for program in self.manifest.programs.values() if not self.manifest.folder_files(program))
        return self.manifest.files | {program.path: FileEntry(sha256=program.sha256, bytes=program.bytes) for program in programs}


def _manifest_bytes(root: Path) -> bytes:
    path = root / MANIFEST
    if not root.exists():
        raise BundleError(f"There is no bundle {root}. Check the name, or export one.")
    if not root.is_dir():
        raise BundleError(f"{root} is a file; a bundle is a folder with a {MANIFEST}.")
    if not path.is_file():
        raise BundleError(f"{root} has no {MANIFEST}: it is not a bundle, or a copy that was cut off. {_MENDING}")
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has {human_bytes(path.stat().st_size)}; no manifest is that large. {_MENDING}")
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
        raise BundleError(f"The bundle has no {noun} {name!r}. It has: {_short(', '.join(names)) or 'none'}.{hint}")
    return name
