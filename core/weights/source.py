"""Where a model's modules come from: nano's weights in memory, or a folder of released weights that no machine need hold.

A `ModelSource` gives one part at a time, and the programs that are made of it (`unit`): whatever compiles or records a model asks
for units and does not know which model it is. Sources travel to other processes; what they have loaded does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from ..bundle import CONDITION_PROGRAMS, DECODE_PROGRAMS, Hearing
from ..config import ClipSpec, ModelConfig
from ..errors import CheckpointError
from ..files import file_sha256
from ..model.architecture import Architecture, ComponentName, skeleton
from ..model.attention import PROJECTIONS, Modality
from ..model.programs import (
    EntryPoints,
    Model,
    audio_conditions_program,
    audio_encoder_program,
    denoise_program,
    denoise_reusing_program,
    hearing_for,
    image_conditions_program,
    image_encoder_program,
    patch_conditions_program,
    text_conditions_program,
    text_encoder_program,
    vae_decode_program,
    vae_encode_program,
)
from ..model.transformer import DiT
from . import checkpoints
from .checkpoints import Checkpoint
from .nano import load_nano, weights_path
from .streamed import stream_transformer

Part = Literal["audio_encoder", "image_encoder", "text_encoder", "vae", "tiny_vae"]
OF_EVERY_SHAPE = ("text_encoder", "text_conditions", "image_conditions")  # roles that no clip's shape changes
_WITHOUT_BLOCKS = ("patch_conditions", "denoise_reusing")  # of the transformer's programs
_MODALITIES: dict[str, Modality] = {"text_conditions": "text", "image_conditions": "image", "audio_conditions": "audio"}


@dataclass(frozen=True)
class Making:
    """What units are made for. `text_rows`: of a prompt; `reuse`: the plan adds residuals again; `context_frames`: what the
    released speech encoder reads on either side of what is kept."""

    text_rows: int
    reuse: bool = False
    context_frames: int = 0


@dataclass(frozen=True)
class Unit:
    """One program to be: its role, its clip's shape (None: of every shape), its methods, made for clips of `made_for`, and the
    model's configuration. `blocks`: the transformer whose blocks come one at a time, where `methods` tell shapes and have no
    weights."""

    role: str
    clip: ClipSpec | None
    methods: EntryPoints
    made_for: ClipSpec
    config: ModelConfig
    blocks: DiT | None = None


class ModelSource(Protocol):
    """A model, a part at a time."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def held(self) -> Model | None:
        """The model in memory; None where its transformer's blocks come from a file, one at a time."""
        ...

    @property
    def reads_text(self) -> bool:
        """Whether it has a text encoder small enough to go into a bundle."""
        ...

    def digests(self, decoders: tuple[str, ...]) -> dict[str, str]:
        """SHA-256 by component of what its programs are made from.

        Raises:
            CheckpointError: something is missing or not what it should be, or a tensor's numbers cannot be meant.
        """
        ...

    def part(self, name: Part) -> nn.Module: ...

    def transformer(self, *only: str) -> DiT:
        """In inference mode, float32. `only`: prefixes of the tensors that are needed of a block; by default all are there."""
        ...

    def hearing(self, context_frames: int) -> Hearing:
        """How a player hears with the audio encoder's program."""
        ...


# ---- sources --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldSource:
    """A model that is in memory. `sha256`: of the weights that it has, as the manifest will name them."""

    model: Model
    sha256: str

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def held(self) -> Model:
        return self.model

    @property
    def reads_text(self) -> bool:
        return self.model.encoders is not None

    def digests(self, decoders: tuple[str, ...]) -> dict[str, str]:
        return {"weights": self.sha256}

    def part(self, name: Part) -> nn.Module:
        encoders = self.model.encoders
        held: dict[str, nn.Module | None] = {"vae": self.model.vae}
        if encoders is not None:
            held |= {"audio_encoder": encoders.audio, "image_encoder": encoders.image, "text_encoder": encoders.text}
        found = held.get(name)
        if found is None:
            raise CheckpointError(f"This model has no {name}. It has: {', '.join(held)}.")
        return found

    def transformer(self, *only: str) -> DiT:
        return self.model.dit

    def hearing(self, context_frames: int) -> Hearing:
        return Hearing.of(self.config)


@cache
def _nano(path: Path) -> Model:
    return load_nano(path=path)


@dataclass(frozen=True)
class NanoSource:
    """nano, from a weights file: that of the package by default. Each process loads it once."""

    path: Path | None = None

    def _loaded(self) -> HeldSource:
        path = self.path or weights_path()
        return HeldSource(_nano(path), file_sha256(path))

    @property
    def config(self) -> ModelConfig:
        return self._loaded().config

    @property
    def held(self) -> Model:
        return self._loaded().model

    @property
    def reads_text(self) -> bool:
        return True

    def digests(self, decoders: tuple[str, ...]) -> dict[str, str]:
        return self._loaded().digests(decoders)

    def part(self, name: Part) -> nn.Module:
        return self._loaded().part(name)

    def transformer(self, *only: str) -> DiT:
        return self._loaded().transformer()

    def hearing(self, context_frames: int) -> Hearing:
        return self._loaded().hearing(context_frames)


_COMPONENTS: dict[Part, ComponentName] = {
    "audio_encoder": "wav2vec2", "image_encoder": "clip", "vae": "vae", "tiny_vae": "tiny_vae",
}  # fmt: skip


@dataclass(frozen=True)
class CheckpointSource:
    """A folder of released weights. `variant`: flash or preview; None for what the weights are."""

    folder: str
    variant: str | None
    sizes: Architecture

    @property
    def config(self) -> ModelConfig:
        return self.sizes.transformer

    @property
    def held(self) -> None:
        return None

    @property
    def reads_text(self) -> bool:
        return False  # umT5 is larger than everything else together

    def _opened(self) -> Checkpoint:
        return Checkpoint.open(self.folder, self.variant)

    def digests(self, decoders: tuple[str, ...]) -> dict[str, str]:
        checkpoint, accounts, found = self._opened(), [], {}
        wanted: list[ComponentName] = ["transformer", "vae", "clip", "wav2vec2", *(["tiny_vae"] if "tiny" in decoders else [])]  # type: ignore[list-item]
        for name in wanted:
            layout = self.sizes.layout(name)
            assert layout is not None
            account = checkpoint.examined(checkpoint.account(name, layout), layout)
            if account.status != "complete":
                raise CheckpointError(account.complaint())
            accounts.append(account)
        for account in accounts:
            used = [path for path in account.files if account.origins.get(path)]  # in the order in which they are read
            found[str(account.name)] = hashlib.sha256("".join(f"{file_sha256(path)}\n" for path in used).encode()).hexdigest()
        return found

    def part(self, name: Part) -> nn.Module:
        checkpoint, sizes = self._opened(), self.sizes
        loaders: dict[Part, Callable[[], nn.Module]] = {
            "vae": lambda: checkpoints.load_vae(checkpoint, config=sizes.transformer.vae),
            "tiny_vae": lambda: checkpoints.load_tiny_vae(checkpoint, config=sizes.tiny_vae),
            "image_encoder": lambda: checkpoints.load_image_encoder(checkpoint, config=sizes.clip),
            "audio_encoder": lambda: checkpoints.load_speech_encoder(checkpoint, config=sizes.wav2vec2),
        }
        if name not in loaders:
            raise CheckpointError(f"A checkpoint's {name} goes into no bundle. These do: {', '.join(loaders)}.")
        return loaders[name]()

    def transformer(self, *only: str) -> DiT:
        return stream_transformer(self._opened(), self.config, only)

    def hearing(self, context_frames: int) -> Hearing:
        return hearing_for(self.config, self.sizes.wav2vec2, context_frames)


def digest_of(digests: Mapping[str, str]) -> str:
    """One SHA-256 of all components: that of the weights file where there is one file."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(digests.items())).encode()).hexdigest()


# ---- units ----------------------------------------------------------------------------------------------------------------------


def roles_of(source: ModelSource, decoders: tuple[str, ...], reuse: bool) -> tuple[str, ...]:
    """The programs that play `source`, in the order in which a player runs them."""
    return (
        "audio_encoder", "image_encoder", *(("text_encoder",) if source.reads_text else ()), "vae_encode", *CONDITION_PROGRAMS,
        "denoise", *(("denoise_reusing",) if reuse else ()), *(DECODE_PROGRAMS[name] for name in decoders),
    )  # fmt: skip


def entry_points(source: ModelSource, role: str, clip: ClipSpec, making: Making) -> EntryPoints:
    """The methods of the program `role` for clips of a shape, with their weights: what computes them in full precision.

    Raises:
        CheckpointError: the source has no such part.
    """
    if role in _TRANSFORMERS:
        return _TRANSFORMERS[role](source.transformer(*_needed(role)), clip, making)
    if role not in _ENCODERS:
        raise CheckpointError(f"There is no program {role!r}. There are: {', '.join((*_ENCODERS, *_TRANSFORMERS))}.")
    return _ENCODERS[role](source, clip, making)


def unit(source: ModelSource, role: str, clip: ClipSpec, making: Making) -> Unit:
    """The program `role` for clips of a shape, to be compiled. Raises as `entry_points`."""
    shape = None if role in OF_EVERY_SHAPE else clip
    if source.held is not None or role not in _TRANSFORMERS or role in _WITHOUT_BLOCKS:
        return Unit(role, shape, entry_points(source, role, clip, making), clip, source.config)
    methods = _TRANSFORMERS[role](skeleton(DiT, source.config), clip, making)
    return Unit(role, shape, methods, clip, source.config, source.transformer(*_needed(role)))


class SourcePrograms(Mapping[str, EntryPoints]):
    """Programs by role, made when they are asked for; of a source that is not held, the last one and no other is kept."""

    def __init__(self, source: ModelSource, clip: ClipSpec, making: Making, decoders: tuple[str, ...] = ("full",)) -> None:
        self.source, self.clip, self.making, self.decoders = source, clip, making, decoders
        self._roles = roles_of(source, decoders, making.reuse)
        self._made: dict[str, EntryPoints] = {}

    def __getitem__(self, role: str) -> EntryPoints:
        if role not in self._roles:
            raise KeyError(role)
        if role not in self._made:
            if self.source.held is None:
                self._made.clear()
            self._made[role] = entry_points(self.source, role, self.clip, self.making)
        return self._made[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


_ENCODERS: dict[str, Callable[[ModelSource, ClipSpec, Making], EntryPoints]] = {
    "audio_encoder": lambda source, clip, making: audio_encoder_program(
        source.part("audio_encoder"), clip, source.config.variant, making.context_frames  # type: ignore[arg-type]
    ),
    "image_encoder": lambda source, clip, _: image_encoder_program(source.part("image_encoder"), clip),  # type: ignore[arg-type]
    "text_encoder": lambda source, _, __: text_encoder_program(source.part("text_encoder"), source.config),  # type: ignore[arg-type]
    "vae_encode": lambda source, clip, _: vae_encode_program(source.part("vae"), clip),  # type: ignore[arg-type]
    "vae_decode": lambda source, clip, _: vae_decode_program(source.part("vae"), clip),  # type: ignore[arg-type]
    "tiny_decode": lambda source, clip, _: vae_decode_program(source.part("tiny_vae"), clip),  # type: ignore[arg-type]
}  # fmt: skip
_TRANSFORMERS: dict[str, Callable[[DiT, ClipSpec, Making], EntryPoints]] = {
    "text_conditions": lambda dit, _, making: text_conditions_program(dit, making.text_rows),
    "image_conditions": lambda dit, _, __: image_conditions_program(dit),
    "audio_conditions": lambda dit, clip, _: audio_conditions_program(dit, clip),
    "patch_conditions": lambda dit, clip, _: patch_conditions_program(dit, clip),
    "denoise": lambda dit, clip, making: denoise_program(dit, clip, making.text_rows, making.reuse),
    "denoise_reusing": lambda dit, clip, _: denoise_reusing_program(dit, clip),
}


def _needed(role: str) -> tuple[str, ...]:
    """Prefixes of a block's tensors that a program of the transformer computes with; none: all of them, or no block is run."""
    return tuple(f"cross_attn.{name}." for name in PROJECTIONS[_MODALITIES[role]]) if role in _MODALITIES else ()
