"""Programs of a bundle: what each is for, how it is called, where it lies, and what of it the accelerated backend took."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from ..config import ClipSpec
from .fields import BundlePath, Count, Name, Record, Sha256

PROGRAMS = "programs"
DECODE_PROGRAMS: Final = {"full": "vae_decode", "tiny": "tiny_decode"}  # by decoder
CONDITION_PROGRAMS: Final = {  # what each gives the denoising step
    "text_conditions": ("text_k", "text_v"),
    "image_conditions": ("image_k", "image_v"),
    "audio_conditions": ("audio_k", "audio_v"),
    "patch_conditions": ("patch_bias",),
}
Dimension = Count | Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


# ---- calls ----------------------------------------------------------------------------------------------------------------------


class TensorSpec(Record):
    """One input or output of a method. A dimension that is a name is the caller's to choose, the same throughout a call."""

    name: Name
    dtype: Literal["float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    shape: tuple[Dimension, ...]


class Method(Record):
    """One entry point; the order of inputs and outputs is the order of the call."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Placement(Record):
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


class FileEntry(Record):
    sha256: Sha256
    bytes: Count


class Figures(Record):
    """Agreement of two tensors. None: not measured. Equal tensors have `metrics.psnr.CAP` dB."""

    psnr_db: float | None = None
    cosine: float | None = None
    max_abs: float | None = None


# ---- artifacts ------------------------------------------------------------------------------------------------------------------


class _Stored(Record):
    path: BundlePath
    sha256: Sha256
    bytes: Count


class PteFile(_Stored):
    """A program of ExecuTorch. Several may lie in one file, where a method is named `prefix` + its name. `data`: a file of
    `Manifest.files` that holds the program's weights, which programs of other clip shapes share."""

    kind: Literal["pte"] = "pte"
    prefix: Annotated[str, Field(max_length=200)] = ""
    data: BundlePath | None = None


class FileArtifact(_Stored):
    """A program that is a file, .onnx, .pt2 and the like, with a file of its weights where they lie outside."""

    kind: Literal["file"] = "file"
    data: BundlePath | None = None


class FolderArtifact(_Stored):
    """A program that is a folder; its files are in `Manifest.files`, and `sha256` is `folder_sha256` of them. Several may lie in
    one folder, where a method is named `prefix` + its name."""

    kind: Literal["folder"] = "folder"
    prefix: Annotated[str, Field(max_length=200)] = ""


Artifact = Annotated[PteFile | FileArtifact | FolderArtifact, Field(discriminator="kind")]
Kind = Literal["pte", "file", "folder"]
ARTIFACTS: Final[Mapping[str, type[PteFile | FileArtifact | FolderArtifact]]] = {
    "pte": PteFile, "file": FileArtifact, "folder": FolderArtifact,
}  # fmt: skip


class Program(Record):
    """A compiled program. role: what a player asks for it by; clip: of which of the bundle's shapes, HEIGHTxWIDTHxFRAMES, None: of
    every one; placement: by method, what the backend took; layers: how many got which weights, of convolutions
    those of 8 bits alone; demanded, measured: its agreement with full precision, None where nothing is demanded, or where the
    machine that compiled it could not run it."""

    role: Name
    clip: Name | None
    methods: dict[str, Method]
    artifact: Artifact
    placement: dict[str, Placement] = {}
    layers: dict[str, Count] = {}
    demanded: Figures | None = None
    measured: Figures | None = None

    @property
    def path(self) -> str:
        return self.artifact.path

    @property
    def data(self) -> str | None:
        """The file of its weights, where they lie outside."""
        return None if isinstance(self.artifact, FolderArtifact) else self.artifact.data

    @property
    def prefix(self) -> str:
        """What stands before a method's name in the file."""
        return "" if isinstance(self.artifact, FileArtifact) else self.artifact.prefix

    @model_validator(mode="after")
    def _placement_is_about_methods(self) -> Self:
        strangers = sorted(set(self.placement) - set(self.methods))
        if strangers:
            raise ValueError(f"placement of {', '.join(strangers)}, which {self.path} does not have")
        return self


def shaped_name(name: str, clip: ClipSpec) -> str:
    """The name of a program for clips of a shape that is not the bundle's main one."""
    return f"{name}-{clip}"


def folder_sha256(entries: Mapping[str, FileEntry]) -> str:
    """SHA-256 of a folder: of the lines "sha256  path\\n" of its files, sorted by path."""
    return hashlib.sha256("".join(f"{entries[path].sha256}  {path}\n" for path in sorted(entries)).encode()).hexdigest()
