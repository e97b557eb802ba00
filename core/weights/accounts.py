"""What of a component is there: every tensor that is expected has to be found, and every one found has to be known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import CheckpointError
from ..model.architecture import ComponentName, TransformerLayout
from ..model.pretrained import EncoderConfig, Shapes
from ..model.pretrained_text import PromptTokenizer
from .recognition import audio_variant, recognise, scales_among
from .tensor_files import SHORT_NAMES, TensorFile, TensorInfo
from .wrappings import Unwrapped, adapters_among, fitting, unwrap

NEEDED_FOR: dict[ComponentName, str] = {
    "transformer": "everything",
    "vae": "portraits in, frames out",
    "clip": "image tokens of the portrait",
    "wav2vec2": "speech features",
    "text_encoder": "new prompts",
    "tokenizer": "new prompts",
    "tiny_vae": "quick previews; optional",
}
BASE_FOLDER = "Wan2.1-Fun-V1.1-1.3B-InP"
OVERLAY_FILE = "transformer/diffusion_pytorch_model.safetensors"
_FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8_"))
_LISTED = 4  # names of each kind in an error
_LOOKED_FOR: dict[ComponentName, str] = {
    "transformer": f"diffusion_pytorch_model.safetensors (or .bin, or checkpoint-….pth) in transformer/ and {BASE_FOLDER}/",
    "vae": "Wan2.1_VAE.pth",
    "clip": "models_clip_….pth",
    "wav2vec2": "a folder chinese-wav2vec2-base or wav2vec2-base-960h with pytorch_model.bin or model.safetensors",
    "text_encoder": "models_t5_umt5-xxl-enc-….pth",
    "tokenizer": "a folder umt5-xxl with tokenizer.json",
    "tiny_vae": "taew2_1.pth or taew2_1.safetensors",
}


@dataclass(frozen=True)
class Entry:
    """A tensor's place: a file, and its name there."""

    file: TensorFile
    stored: str

    @property
    def info(self) -> TensorInfo:
        return self.file.tensors[self.stored]


@dataclass(frozen=True)
class TensorSource:
    """Files that are read as one: a file, or the shards of one. Their tensors, under names without what tools put into them."""

    files: tuple[TensorFile, ...]

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """By name, without what tools put into it.

        Raises:
            CheckpointError: two files have one tensor, or there are several sets of the same tensors and none is to be preferred.
        """
        files: dict[str, TensorFile] = {}
        for file in self.files:
            for name in file.tensors:
                twin = files.setdefault(name, file)
                if twin is not file:
                    raise CheckpointError(f"{twin.path} and {file.path} both hold {name}. Take away the file that is not meant.")
        return {name: Entry(files[own], own) for name, own in self._unwrapped.names.items()}

    @cached_property
    def _unwrapped(self) -> Unwrapped:
        return unwrap([name for file in self.files for name in file.tensors], self.files[0].path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read otherwise than it is stored, a sentence each."""
        notes = [note for file in self.files for note in file.notes]
        found, where = self._unwrapped, self.files[0].path.name
        if found.words:
            notes.append(f"The names of {where} are read without {', '.join(map(repr, found.words))}.")
        for front, count in found.left.items():
            what = f"of {front!r}" if front else "without a prefix"
            taken = f"those of {found.chosen!r}" if found.chosen else "those without a prefix"
            notes.append(f"Of {where} {count:,} tensors {what} are left aside: {taken} are read.")
        return tuple(notes)

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Of all tensors, as they are stored and as they are read."""
        stored = {name: info for file in self.files for name, info in file.tensors.items()}
        return stored | {name: entry.info for name, entry in self.entries.items()}


Status = Literal["complete", "incomplete", "damaged", "unreadable", "absent"]


@dataclass(frozen=True)
class Account:
    """What of a component is there. Tensors in the files are used, dropped for a reason, or unexpected."""

    name: ComponentName
    title: str
    files: tuple[Path, ...] = ()
    bytes: int = 0
    stored: int = 0  # tensors in the files
    found: int = 0  # of those expected
    expected: int = 0  # in the released file for this component: what is used, and flash's dead tensors
    used: int = 0
    parameters: int = 0  # in the tensors found
    expected_parameters: int = 0
    used_parameters: int = 0
    types: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> tensors
    origins: Mapping[Path, int] = field(default_factory=dict)  # file -> tensors used
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    mistyped: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    hint: str | None = None
    problem: str | None = None  # why the files cannot be read at all
    notes: tuple[str, ...] = ()  # what was read otherwise than it is stored
    wrong_values: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)  # see `values.examine`; looked for where asked for

    @property
    def status(self) -> Status:
        if self.problem:
            return "unreadable"
        if not self.files:
            return "absent"
        if self.faults:
            return "incomplete"
        return "damaged" if self.wrong_values else "complete"

    @property
    def faults(self) -> dict[str, tuple[str, ...]]:
        """What is wrong -> the tensors that it concerns."""
        kinds = {
            "missing": self.missing, "unexpected": self.unexpected, "of another shape": self.misshaped,
            "of a type that is not read": self.mistyped, "in conflict with config.json": self.conflicts,
        }  # fmt: skip
        return {kind: names for kind, names in kinds.items() if names}

    def complaint(self) -> str:
        """The error that loading this component would raise."""
        if self.problem:
            return self.problem
        if not self.files:
            return f"{no_such(self.name)} It is needed for {NEEDED_FOR[self.name]}."
        if self.wrong_values and not self.faults:
            return in_a_sentence(self.wrong_values, self.title)
        where = ", ".join(map(str, self.files))
        lines = [f"{where} does not hold the {self.title}: {self.found:,} of {self.expected:,} tensors fit."]
        if len(self.files) > 1:
            lines = [f"These files do not hold the {self.title} ({self.found:,} of {self.expected:,} tensors fit): {where}."]
        for kind, names in self.faults.items():
            more = f", … {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            lines.append(f"  {len(names):,} {kind}: {', '.join(names[:_LISTED])}{more}")
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {"files": [str(path) for path in self.files], "origins": {str(p): n for p, n in self.origins.items()}}
        plain |= {key: dict(plain[key]) for key in ("types", "dropped")}
        plain["wrong_values"] = {str(path): list(phrases) for path, phrases in self.wrong_values.items()}
        return plain | {"status": self.status, "needed_for": NEEDED_FOR[self.name]}


def in_a_sentence(wrong: Mapping[Path, tuple[str, ...]], title: str) -> str:
    """The error of weights with wrong values."""
    said = []
    for path, phrases in wrong.items():
        more = f", and {len(phrases) - _LISTED:,} more" if len(phrases) > _LISTED else ""
        said.append(f"in {path} {', '.join(phrases[:_LISTED])}{more}")
    return (
        f"The numbers of the {title} cannot be meant: {'; '.join(said)}. Download the file again, or take an earlier one of its "
        "training."
    )


def refusal(sources: list[TensorSource]) -> str | None:
    """Why files cannot be read although their tensors may have the right names: adapters that are not merged, quantised weights."""
    for source in sources:
        where, stored = source.files[0].path, [name for file in source.files for name in file.tensors]
        adapters = adapters_among(stored)
        if adapters and fitting(set(stored).difference(adapters)):
            return (
                f"{where} holds {len(adapters):,} tensors of an adapter beside the weights, such as {min(adapters)}. "
                "Merge them into the weights first, with the program that made the file."
            )
        scales = scales_among(stored)
        eighths = [name for file in source.files for name, info in file.tensors.items() if info.dtype in _FLOAT8]
        if scales or eighths:
            counted = [f"{len(eighths):,} tensors of fp8, such as {min(eighths)}"] if eighths else []
            counted += [f"{len(scales):,} of scales, such as {min(scales)}"] if scales else ["none of scales"]
            return f"{where} is quantised: {', '.join(counted)}. Take the file in bf16, fp16 or fp32; `export` quantises it."
    return None


def no_such(name: ComponentName) -> str:
    return f"There is no {name}: looked for {_LOOKED_FOR[name]}."


def elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def united(sources: list[TensorSource], layout: EncoderConfig) -> dict[str, Entry]:
    """All tensors of a component by canonical name; of one that several sources have, the first one's."""
    united: dict[str, Entry] = {}
    for source in sources:
        canonical: dict[str, Entry] = {}
        for name, entry in source.entries.items():
            twin = canonical.setdefault(layout.canonical(name), entry)
            if twin is not entry:
                raise CheckpointError(f"{entry.file.path} has one tensor twice, as {twin.stored} and as {entry.stored}. Keep one.")
        united = canonical | united
    return united


def expected_tensors(layout: EncoderConfig) -> Shapes:
    return layout.tensors() | (layout.dead if isinstance(layout, TransformerLayout) else {})


def account_of(empty: Account, layout: EncoderConfig, sources: list[TensorSource], conflicts: tuple[str, ...]) -> Account:
    required, expected = layout.tensors(), expected_tensors(layout)
    entries = united(sources, layout)
    left = {name: reason for name in entries if (reason := layout.ignored(name)) is not None}
    known = {name: entry for name, entry in entries.items() if name in expected}
    misshaped = {name for name, entry in known.items() if entry.info.shape != expected[name]}
    mistyped = {name for name, entry in known.items() if entry.info.dtype not in SHORT_NAMES}
    found = {name: entry for name, entry in known.items() if name not in misshaped | mistyped}
    used = {name: entry for name, entry in found.items() if name not in left}
    empty = replace(empty, notes=tuple(note for source in sources for note in source.notes))
    problem = refusal(sources)
    if problem is not None:
        return replace(empty, problem=problem)
    result = replace(
        empty,
        stored=len(entries),
        found=len(found),
        used=len(used),
        parameters=sum(entry.info.count for entry in found.values()),
        used_parameters=sum(entry.info.count for entry in used.values()),
        types=dict(Counter(SHORT_NAMES[entry.info.dtype] for entry in used.values()).most_common()),
        dropped=dict(Counter(left.values())),
        origins={path: 0 for path in empty.files} | dict(Counter(entry.file.path for entry in used.values())),
        missing=tuple(name for name in required if name not in known),
        unexpected=tuple(name for name in entries if name not in known and name not in left),
        misshaped=tuple(f"{n} is {list(known[n].info.shape)}, not {list(expected[n])}" for n in expected if n in misshaped),
        mistyped=tuple(f"{n} ({str(known[n].info.dtype).removeprefix('torch.')})" for n in known if n in mistyped),
        conflicts=conflicts,
    )
    return replace(result, hint=_hint(result, layout, sources)) if result.faults else result


def _hint(account: Account, layout: EncoderConfig, sources: list[TensorSource]) -> str | None:
    """What the files probably are, where they are not what they should be."""
    if account.mistyped:
        return "Quantised copies are not read here. Take the file in bf16, fp16 or fp32."
    for source in sources:
        where, kind = source.files[0].path, recognise(source.infos)
        if kind is None:
            continue
        if kind.place is None:
            return f"{where} is {kind.what}."
        if kind.place != account.name:
            return f"{where} is {kind.what}; it belongs in the place of the {kind.place}."
        if isinstance(layout, TransformerLayout):
            theirs, ours = audio_variant(source.entries), layout.config.variant
            if theirs not in (None, ours):
                return f"{where} is {kind.what}. Ask for {theirs}, or give the folder of {ours}."
    if isinstance(layout, TransformerLayout) and account.missing and all("audio" in name for name in account.missing):
        return f"EchoMimic's own file, {OVERLAY_FILE}, is missing: only Wan's base transformer is there."
    return None


def tokenizer_account(paths: tuple[Path, ...]) -> Account:
    problem = None
    try:
        if paths:
            PromptTokenizer(paths[0])
    except CheckpointError as error:
        problem = str(error)
    size = sum(path.stat().st_size for folder in paths for path in folder.iterdir() if path.is_file())
    return Account("tokenizer", "tokenizer (umT5)", paths, size, problem=problem)
