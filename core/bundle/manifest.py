"""`manifest.json`: the bundle's passport, format "echoedge.bundle/2".

    NAME.echoedge/
      manifest.json                     this module's `Manifest`
      plan.json  step_tables.safetensors
      programs/   denoise.pte …         a program is a file, or a folder for Core ML (.mlpackage)
      prompts/    *.safetensors
      tests/      golden.safetensors
      records/    what was measured later (`core.bundle.records`): the manifest does not list it and never changes for it

docs/BUNDLE.md says what every field means to a player. No torch here: a phone-sized environment reads bundles.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, TypeAdapter, ValidationError, model_validator

from ..config import AUDIO_RADIUS, PATCH, SPATIAL_STRIDE, TEMPORAL_STRIDE, ClipSpec, ModelConfig
from ..errors import BundleError
from .fields import MANIFEST, BundlePath, Count, Name, Record, Sha256, first_mistakes, short
from .programs import Figures, FileEntry, FolderArtifact, Program, folder_sha256
from .upgrade import upgraded

FORMAT: Final = "echoedge.bundle/2"
OLD_FORMAT: Final = "echoedge.bundle/1"
MENDING = "Copy the bundle again, or export it again."
CHECKSUM: Final = "checksum"  # of the manifest's own bytes: the SHA-256 that they have with zeros in its place
_NO_SUM = b"0" * 64
_LAST_SUM = re.compile(rb'("checksum":\s*")([0-9a-f]{64})("\s*\}\s*)\Z')
_NAME = re.compile(r"echoedge\.bundle/(\d{1,6})")


# ---- the model and what it plays ------------------------------------------------------------------------------------------------


class ModelRecord(Record):
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
            raise ValueError(first_mistakes(error)) from error
        except ArithmeticError as error:
            raise ValueError(f"the model configuration cannot work ({error})") from error
        if digest != self.config_digest:
            raise ValueError(f"the model configuration has digest {digest[:12]}…, not {self.config_digest[:12]}…")
        return self

    @classmethod
    def of(cls, config: ModelConfig, source_sha256: str) -> Self:
        as_json = json.loads(json.dumps(config.to_dict(), allow_nan=False))
        return cls(preset=config.name, config=as_json, config_digest=config.digest, source_sha256=source_sha256)


class ClipRecord(Record):
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


class Hearing(Record):
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

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """How a model hears a whole voice at once. Of two rows a frame, a frame of silence goes behind the voice, for the encoder
        makes one row less than those of a voice, and windows hear up to the next one."""
        if config.audio_path.per_frame:
            return cls(neighbours=AUDIO_RADIUS)
        return cls(rows_per_frame=2, beyond_frames=TEMPORAL_STRIDE - 1, tail_frames=1)


class PlayingRecord(Record):
    """What a player of any language has to know of the model, as numbers.

    latent_channels, temporal_stride, spatial_stride, patch: of latents [C, F, h, w], where a clip of T frames has F = 1 + (T - 1) /
    temporal_stride latent frames of h = H / spatial_stride rows, and a token is `patch` × `patch` latent pixels. mask_channels: of
    `y`, before its latents. encode_unknown: whether frames of which nothing is known are encoded too, at mid grey. text_length:
    rows of a prompt that the model attends to; text_rows: that programs read, the padding collapsed into one; text_dim: width.
    text_ids: what a text encoder's program takes, the bytes of UTF-8, padded with pad_id; null where there is none. decoders: roles
    of the programs that make frames of latents, by name. hearing: see `Hearing`.
    """

    latent_channels: Annotated[int, Field(ge=1, le=1024)]
    temporal_stride: Annotated[int, Field(ge=1, le=64)]
    spatial_stride: Annotated[int, Field(ge=1, le=64)]
    patch: Annotated[int, Field(ge=1, le=16)]
    mask_channels: Annotated[int, Field(ge=1, le=64)]
    encode_unknown: bool
    text_length: Annotated[int, Field(ge=1, le=100_000)]
    text_rows: Annotated[int, Field(ge=1, le=100_000)]
    text_dim: Annotated[int, Field(ge=1, le=100_000)]
    text_ids: Literal["utf-8 bytes"] | None = None
    pad_id: Count = 256
    decoders: dict[Name, Name]
    hearing: Hearing

    @classmethod
    def of(cls, config: ModelConfig, *, text_rows: int, reads_text: bool, hearing: Hearing, decoders: Mapping[str, str]) -> Self:
        """Of a model's configuration."""
        return cls(
            latent_channels=config.latent_channels, temporal_stride=TEMPORAL_STRIDE, spatial_stride=SPATIAL_STRIDE, patch=PATCH,
            mask_channels=config.mask_channels, encode_unknown=config.encode_unknown, text_length=config.text_len,
            text_rows=text_rows, text_dim=config.text_dim, text_ids="utf-8 bytes" if reads_text else None,
            decoders=dict(decoders), hearing=hearing,
        )  # fmt: skip


class TargetRecord(Record):
    """What the bundle was compiled for. backend: of the target, where it has several; precision: what programs compute in, None in
    bundles of format 1 that do not say."""

    name: Name
    backend: Annotated[str, Field(max_length=200)] = ""
    precision: Literal["fp32", "bf16", "fp16"] | None = None


class WeightsRecord(Record):
    """How the weights are stored."""

    name: Name
    settings: dict[str, JsonValue] = {}


class Parity(Record):
    """What is demanded of a whole clip against full precision: of "latents" and of "frames"."""

    demanded: dict[Literal["latents", "frames"], Figures] = {}


class Saving(Record):
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


# ---- the manifest ---------------------------------------------------------------------------------------------------------------


class Manifest(Record):
    """`manifest.json`. clips: every shape that the bundle plays, the main one first; savings: what left the step, counted at export
    (bundles of earlier versions lack it)."""

    format: Literal["echoedge.bundle/2"] = FORMAT
    model: ModelRecord
    clips: tuple[ClipRecord, ...]
    target: TargetRecord
    weights: WeightsRecord
    versions: dict[str, str]
    programs: dict[Name, Program]
    files: dict[BundlePath, FileEntry]
    playing: PlayingRecord
    parity: Parity = Parity()
    memory: dict[str, JsonValue] = {}
    savings: tuple[Saving, ...] = ()

    @model_validator(mode="after")
    def _programs_are_of_clips(self) -> Self:
        if not self.clips:
            raise ValueError("there is no clip shape")
        shapes = [str(clip.spec()) for clip in self.clips]
        if len(set(shapes)) != len(shapes):
            raise ValueError(f"a clip shape is listed twice: {', '.join(shapes)}")
        places: dict[tuple[str, str | None], str] = {}
        for name, program in self.programs.items():
            if program.clip is not None and program.clip not in shapes:
                raise ValueError(f"{name} is for clips of {program.clip}; the bundle has {', '.join(shapes)}")
            twin = places.setdefault((program.role, program.clip), name)
            if twin != name:
                raise ValueError(f"{twin} and {name} are both the {program.role} of {program.clip or 'every shape'}")
        return self

    @model_validator(mode="after")
    def _paths_are_distinct(self) -> Self:
        folders = {program.path: files for program in self.programs.values() if (files := self.folder_files(program))}
        shared: dict[str, Program] = {}  # programs of one file
        for name, program in self.programs.items():
            first = shared.setdefault(program.path, program)
            one, other = program.artifact, first.artifact
            if program is not first and (
                not (program.prefix and first.prefix) or (one.sha256, one.bytes) != (other.sha256, other.bytes)
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
            inside, whole = folders.get(program.path), program.artifact
            if isinstance(whole, FolderArtifact) != bool(inside):
                raise ValueError(f"{program.path} is a {'folder without' if not inside else 'file with'} files inside")
            if inside and (whole.sha256, whole.bytes) != (folder_sha256(inside), sum(entry.bytes for entry in inside.values())):
                raise ValueError(f"SHA-256 or size of {program.path} is not that of its files")
        return self

    @property
    def demanded(self) -> dict[str, Figures]:
        """What is asked for against full precision: of programs by name, and of a whole clip's "latents" and "frames"."""
        programs = {name: program.demanded for name, program in self.programs.items() if program.demanded is not None}
        return programs | {str(name): figures for name, figures in self.parity.demanded.items()}

    def folder_files(self, program: Program) -> dict[str, FileEntry]:
        """The files of a program that is a folder; empty if it is a file."""
        return {path: entry for path, entry in self.files.items() if path.startswith(program.path + "/")}

    def to_json(self) -> bytes:
        """UTF-8, one field a line, a checksum last.

        Raises:
            BundleError: a value has no form in JSON.
        """
        content = {**self.model_dump(mode="json"), CHECKSUM: _NO_SUM.decode()}
        try:
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except ValueError as error:
            raise BundleError(f"The manifest cannot be written as JSON ({error}).") from error
        return _summed(text, hashlib.sha256(text).hexdigest().encode())

    @classmethod
    def from_json(cls, text: bytes | str) -> Manifest:
        """Parse and validate a manifest; one of format 1 is read as one of format 2 (`upgrade.py`).

        Raises:
            BundleError: it is cut off, not JSON, of another format, its checksum is of other bytes, or a field is missing, unknown
                or wrong.
        """
        data = read_document(text)
        found = data.get("format") if isinstance(data, dict) else None
        try:
            if found == OLD_FORMAT:
                data = upgraded(data)
            elif found != FORMAT:
                raise BundleError(f"{MANIFEST} has format {short(repr(found))}; {_remedy(found)}")
            if CHECKSUM in data:
                _check_sum(text.encode(errors="surrogatepass") if isinstance(text, str) else text, data.pop(CHECKSUM))
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            raise BundleError(f"{MANIFEST} is not valid: {first_mistakes(error)}. {MENDING}") from error


def read_document(text: bytes | str) -> Any:
    """What a manifest's JSON says: no key twice, every number finite.

    Raises:
        BundleError: it is cut off, or no such JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is cut off or damaged ({error}). {MENDING}") from error


def _summed(text: bytes, digits: bytes) -> bytes:
    """The bytes of a manifest with `digits` in the place of its checksum, which is its last field."""
    return _LAST_SUM.sub(lambda found: found[1] + digits + found[3], text, count=1)


def _check_sum(text: bytes, told: object) -> None:
    """Raises BundleError: the checksum is not the last field, or of other bytes than these."""
    digest = hashlib.sha256(_summed(text, _NO_SUM)).hexdigest()
    if _LAST_SUM.search(text) is None or digest != told:
        raise BundleError(f"{MANIFEST} was altered (its {CHECKSUM} is {short(str(told))[:12]}…, not {digest[:12]}…). {MENDING}")


def _remedy(found: object) -> str:
    """What to do about a format that this version does not read."""
    number = _NAME.fullmatch(found) if isinstance(found, str) else None
    if number is not None and int(number[1]) > 2:
        return f"it is newer than this version of EchoEdge, which reads up to {FORMAT!r}. Install a newer EchoEdge."
    return f"this version of EchoEdge reads {OLD_FORMAT!r} and {FORMAT!r}. Export the bundle again."


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short(text)} is not a finite number")
    return value
