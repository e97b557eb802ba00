"""Upstream's folders of weights: which file is what, whether every tensor is there, and modules that use the files' memory.

    flash/  (or preview/)
      Wan2.1-Fun-V1.1-1.3B-InP/   diffusion_pytorch_model.safetensors   the base transformer
                                  Wan2.1_VAE.pth   models_t5_umt5-xxl-enc-bf16.pth   models_clip_….pth   google/umt5-xxl/
      chinese-wav2vec2-base/      (wav2vec2-base-960h/)
      transformer/                diffusion_pytorch_model.safetensors   EchoMimic's transformer, laid over the base
      taew2_1.pth                 optional

`Checkpoint.open` takes this folder, one of those inside it, or EchoMimic's file itself; what is not inside is looked for beside it.
What a file is, is decided by the names and shapes of its tensors. Upstream accepts a wrong or partial file silently; here every
tensor of a component has to be found, and every tensor found has to be known.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import PRESETS, ModelConfig, VAEConfig, Variant, preset
from ..errors import CheckpointError, ConfigError
from ..model.architecture import Architecture, ComponentName, TransformerLayout, VAELayout, skeleton
from ..model.pretrained import EncoderConfig, Shapes
from ..model.pretrained_image import CLIP_VIT_H, PictureEncoder, PictureEncoderConfig
from ..model.pretrained_speech import WAV2VEC2_BASE, SpeechEncoder, SpeechEncoderConfig
from ..model.pretrained_text import UMT5_XXL, PromptEncoder, PromptEncoderConfig, PromptTokenizer
from ..model.tiny_vae import TAEW, TinyVAE, TinyVAEConfig
from ..model.transformer import DiT
from ..model.vae import VAE
from .tensor_files import INDEX_SUFFIX, SHORT_NAMES, TensorFile, TensorInfo, read_shards, read_tensor_file, without_prefix

M = TypeVar("M", bound=nn.Module)

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
SPEECH_FOLDERS: dict[Variant, str] = {"flash": "chinese-wav2vec2-base", "preview": "wav2vec2-base-960h"}
OVERLAY_FILE = "transformer/diffusion_pytorch_model.safetensors"
FLOAT32_PARTS = ("time_embedding.", "time_projection.")  # upstream runs the timestep MLP in float32, whatever the model's type
_REMAP_BYTES = 256 << 20  # of a file that is being converted, at most so much stays mapped
_LISTED = 4  # names of each kind in an error


# -- 1. what a file is, by its tensors -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What a file of tensors turned out to be. `place`: the component that it serves, if it is one that can be read."""

    what: str
    place: ComponentName | None = None


def recognise(tensors: Mapping[str, TensorInfo]) -> Kind | None:
    """What a file holds, judged by characteristic names and shapes; None where it resembles nothing known."""
    names = set(without_prefix(tensors))
    found = {name.removeprefix("wav2vec2."): tensors[own] for name, own in without_prefix(tensors).items()}

    def has(*parts: str) -> bool:
        return any(part in name for name in names for part in parts)

    def size(name: str, axis: int = 0) -> int:
        shape = found[name].shape if name in found else ()
        return shape[axis] if axis < len(shape) else 0

    if has("lora_A", "lora_down", "lora_up"):
        return Kind("a LoRA adapter, not a whole model; take the merged checkpoint")
    if has("attn1.to_q.", "condition_embedder."):
        return Kind("a transformer in the layout of diffusers; take the original file, which has blocks.0.self_attn.q.weight")
    if "blocks.0.self_attn.q.weight" in names:
        width, channels = size("patch_embedding.weight"), size("patch_embedding.weight", 1)
        if size("blocks.0.self_attn.q.weight") == 5120:
            return Kind("a 14B transformer (width 5120); EchoMimicV3 is built on Wan2.1-Fun-1.3B-InP (width 1536)")
        if audio := _audio_variant(names):
            return Kind(f"the {audio} transformer, of width {width}: it has {_AUDIO_PARTS[audio]}*", "transformer")
        if channels == 16:
            return Kind("a text-to-video transformer (16 input channels); EchoMimicV3 needs Wan2.1-Fun-1.3B-InP (36)")
        return Kind(f"the base transformer of Wan ({channels} input channels) without EchoMimic's audio part", "transformer")
    if _audio_variant(names):
        return Kind(f"only the audio part of the {_audio_variant(names)} transformer", "transformer")
    if "decoder.1.weight" in names and "encoder.0.weight" in names:
        return Kind("a tiny autoencoder", "tiny_vae")
    if has("decoder.up_blocks.", "encoder.down_blocks."):
        return Kind("a VAE in the layout of diffusers; take Wan2.1_VAE.pth")
    if has("decoder.upsamples.", "encoder.downsamples."):
        latent = size("conv2.weight")
        if latent == 48:
            return Kind("the VAE of Wan 2.2 (48 latent channels); EchoMimicV3 needs Wan2.1_VAE.pth (16)")
        return Kind("the VAE of Wan 2.1", "vae")
    if "token_embedding.weight" in names and has("ffn.gate.0."):
        return Kind("the umT5 encoder", "text_encoder")
    if has("SelfAttention.q."):
        return Kind("a T5 in the layout of Hugging Face; take models_t5_umt5-xxl-enc-bf16.pth")
    if has("visual.transformer.resblocks."):
        return Kind("a CLIP in the layout of open_clip; take models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    if has("vision_model.encoder.layers."):
        return Kind("a CLIP in the layout of Hugging Face; take models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    if has("visual.transformer.0.attn.to_qkv"):
        return Kind("the CLIP of Wan", "clip")
    if has("feature_extractor.conv_layers.0.0."):
        return Kind("a wav2vec2 in the layout of fairseq; take the Hugging Face folder's pytorch_model.bin or model.safetensors")
    if has("feature_extractor.conv_layers.0.conv."):
        width = size("encoder.layer_norm.weight")
        if width == 1024:
            return Kind("a wav2vec2-large (width 1024); EchoMimicV3 needs a wav2vec2-base (768)")
        return Kind(f"a wav2vec2 of width {width}", "wav2vec2")
    return None


_AUDIO_PARTS: dict[Variant, str] = {"flash": "audio_injection.", "preview": "audio2token."}


def _audio_variant(names: Iterable[str]) -> Variant | None:
    """Whose audio part is among the names; flash where both are, whose accounting then shows the other's as unexpected."""
    return next((variant for variant, part in _AUDIO_PARTS.items() if any(name.startswith(part) for name in names)), None)


# -- 2. accounts -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A tensor's place: a file, and its name there."""

    file: TensorFile
    stored: str

    @property
    def info(self) -> TensorInfo:
        return self.file.tensors[self.stored]


@dataclass(frozen=True)
class Source:
    """Files that are read as one: a file, or the shards of one. Their tensors, under names without a common prefix."""

    files: tuple[TensorFile, ...]

    @cached_property
    def entries(self) -> dict[str, Entry]:
        stored = {name: file for file in self.files for name in file.tensors}
        return {name: Entry(stored[own], own) for name, own in without_prefix(stored).items()}

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {name: entry.info for name, entry in self.entries.items()}


Status = Literal["complete", "incomplete", "unreadable", "absent"]


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

    @property
    def status(self) -> Status:
        if self.problem:
            return "unreadable"
        if not self.files:
            return "absent"
        return "incomplete" if self.faults else "complete"

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
            return f"{_no_such(self.name)} It is needed for {NEEDED_FOR[self.name]}."
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
        return plain | {"status": self.status, "needed_for": NEEDED_FOR[self.name]}


def _no_such(name: ComponentName) -> str:
    return f"There is no {name}: looked for {_LOOKED_FOR[name]}."


# -- 3. finding the files --------------------------------------------------------------------------------------------------------

_LOOKED_FOR: dict[ComponentName, str] = {
    "transformer": f"diffusion_pytorch_model.safetensors (or .bin, or checkpoint-….pth) in transformer/ and {BASE_FOLDER}/",
    "vae": "Wan2.1_VAE.pth",
    "clip": "models_clip_….pth",
    "wav2vec2": "a folder chinese-wav2vec2-base or wav2vec2-base-960h with pytorch_model.bin or model.safetensors",
    "text_encoder": "models_t5_umt5-xxl-enc-….pth",
    "tokenizer": "a folder umt5-xxl with tokenizer.json",
    "tiny_vae": "taew2_1.pth or taew2_1.safetensors",
}
_SINGLE_FILES: dict[ComponentName, re.Pattern[str]] = {
    "vae": re.compile(r"wan2[._]1[._-]vae.*\.(safetensors|pth|pt)", re.IGNORECASE),
    "clip": re.compile(r"(models_clip|open-clip).*\.(safetensors|pth|pt)", re.IGNORECASE),
    "text_encoder": re.compile(r"(models_t5_)?umt5.*\.(safetensors|pth|pt)", re.IGNORECASE),
    "tiny_vae": re.compile(r"taew2_1\.(safetensors|pth)", re.IGNORECASE),
}
_QUANTISED = re.compile(r"fp8|int8|nf4|gguf", re.IGNORECASE)
_OVERLAY_CHECKPOINT = re.compile(r"checkpoint-.*\.(pth|pt|safetensors)")
_MODEL = "diffusion_pytorch_model"
_DEPTH = 3


def _folders(top: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """`top` and the folders below it, hidden ones excepted, sorted."""
    yield top
    if depth:
        try:
            below = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            return
        for path in below:
            yield from _folders(path, depth - 1)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


Places = dict[ComponentName, list[tuple[Path, ...]]]


def _places(folders: Iterable[Path]) -> Places:
    """Candidates for every component in these folders; a candidate is the files that are read as one."""
    found: Places = {name: [] for name in NEEDED_FOR}
    for folder in folders:
        names = _names_in(folder)
        for component, pattern in _SINGLE_FILES.items():
            matching = [name for name in names if pattern.fullmatch(name) and not _QUANTISED.search(name)]
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
    """Of the files in one folder, those that may hold a transformer: one file, an index, or (`merge`) shards without an index."""
    groups: list[tuple[str, ...]] = [(name,) for name in names if _OVERLAY_CHECKPOINT.fullmatch(name)]
    whole = next((name for name in (f"{_MODEL}.bin", f"{_MODEL}.safetensors", _MODEL + INDEX_SUFFIX) if name in names), None)
    if whole:
        return [*groups, (whole,)]
    if not merge:
        return groups
    known = (*_SINGLE_FILES.values(), _OVERLAY_CHECKPOINT)
    loose = [name for name in names if name.endswith(".safetensors") and not any(p.fullmatch(name) for p in known)]
    return [*groups, tuple(loose)] if loose else groups


def _beside(folder: Path) -> list[Path]:
    """The folder that `folder` lies in, the component folders beside it, and those below them."""
    outer = folder.parent
    siblings = [path for path in _folders(outer, 1) if path not in (folder, outer)]
    return [outer, *(below for path in siblings if any(_places([path]).values()) for below in _folders(path, _DEPTH - 1))]


@dataclass(frozen=True)
class _Candidate:
    """Files that may hold a transformer, and what they turned out to be."""

    paths: tuple[Path, ...]
    source: Source | None
    problem: str | None  # why there is no source

    @classmethod
    def read(cls, paths: tuple[Path, ...]) -> _Candidate:
        try:
            return cls(paths, _source(paths), None)
        except CheckpointError as error:
            return cls(paths, None, str(error))

    @property
    def variant(self) -> Variant | None:
        return _audio_variant(self.source.entries) if self.source else None

    @property
    def role(self) -> Literal["overlay", "base", "unreadable", "other"]:
        if self.source is None:
            return "unreadable"
        if self.variant:
            return "overlay"
        return "base" if "blocks.0.self_attn.q.weight" in self.source.entries else "other"


def _source(paths: tuple[Path, ...]) -> Source:
    files: list[TensorFile] = []
    for path in paths:
        files += read_shards(path) if path.name.endswith(INDEX_SUFFIX) else [read_tensor_file(path)]
    return Source(tuple(files))


def _overlay(candidates: list[_Candidate], wanted: Variant | None) -> _Candidate | None:
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
        _require_variant(present[0], wanted)
    return unreadable or next((candidate for candidate in outside if candidate.role == "other"), None)


def _require_variant(candidate: _Candidate, wanted: Variant | None) -> None:
    if wanted is not None and candidate.variant not in (None, wanted):
        found = cast(Variant, candidate.variant)
        raise CheckpointError(
            f"{candidate.paths[0]} is the {found} transformer: it has {_AUDIO_PARTS[found]}*. "
            f"Give the folder of {wanted}, or ask for {found}."
        )


def _nearest(candidates: list[tuple[Path, ...]], near: Path, what: str, favourite: str = BASE_FOLDER) -> tuple[Path, ...]:
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


# -- 4. the checkpoint -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights: where each component's files lie.

    `variant` is what the transformer's tensors say, None where it has no audio part; `asked` is the model that was asked for.
    """

    folder: Path
    variant: Variant | None
    asked: Variant | None
    paths: Mapping[ComponentName, tuple[Path, ...]]
    _transformer: tuple[_Candidate, ...]  # EchoMimic's, then the base, which is read for what the first one lacks
    _read: dict[ComponentName, Source] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, model: str | None = None) -> Checkpoint:
        """Find the components of a folder, of one that lies beside them, or of EchoMimic's transformer file. No data is read.

        `model`: flash or preview; without it, the one that is there.

        Raises:
            CheckpointError: nothing known is there; two files could be meant; the transformer is of another variant than `model`.
            ConfigError: there is no such model, or its weights are not in a checkpoint.
        """
        wanted = _wanted_variant(model)
        path = Path(os.path.abspath(path))
        if not path.exists():
            raise CheckpointError(f"{path} does not exist. {_GIVE_THE_FOLDER}")
        folder = path if path.is_dir() else path.parent
        inside, beside = _places(_folders(folder)), _places(_beside(folder))
        candidates = [_Candidate.read(paths) for paths in inside["transformer"]]
        roles = {candidate.role for candidate in candidates}
        outer = map(_Candidate.read, beside["transformer"])
        candidates += [candidate for candidate in outer if candidate.role not in roles]
        chosen = None if path.is_dir() else _Candidate.read((path,))
        if chosen is None or chosen.role == "base":
            overlay = _overlay(candidates, wanted)
        else:
            _require_variant(chosen, wanted)
            overlay = chosen
        variant = overlay.variant if overlay else None
        near = overlay.paths[0].parent if overlay else folder
        base = chosen if chosen and chosen.role == "base" else _base(candidates, overlay, near)
        transformer = tuple(candidate for candidate in (overlay, base) if candidate)
        paths: dict[ComponentName, tuple[Path, ...]] = {"transformer": tuple(p for c in transformer for p in c.paths)}
        for name in NEEDED_FOR:
            if name != "transformer":
                favourite = SPEECH_FOLDERS[variant or wanted or "flash"] if name == "wav2vec2" else BASE_FOLDER
                paths[name] = _nearest(inside[name] or beside[name], near, name, favourite)
        if not any(paths.values()):
            raise CheckpointError(f"{folder} holds no part of EchoMimicV3. {_GIVE_THE_FOLDER}")
        return cls(folder, variant, wanted, paths, transformer)

    def config(self) -> ModelConfig:
        """The preset of the variant; where the transformer has no audio part, of the model that was asked for, or flash."""
        return PRESETS[self.variant or self.asked or "flash"]

    def sources(self, name: ComponentName, layout: EncoderConfig) -> list[Source]:
        """What a component's tensors are read from, the first one first; Wan's base only if EchoMimic's file lacks something.

        Raises:
            CheckpointError: the component is absent, or a file is damaged or no file of tensors.
        """
        if not self.paths[name]:
            raise CheckpointError(_no_such(name))
        if name != "transformer":
            if name not in self._read:
                self._read[name] = _source(self.paths[name])
            return [self._read[name]]
        sources: list[Source] = []
        for candidate in self._transformer:
            if sources and layout.tensors().keys() <= sources[0].entries.keys():
                break
            if candidate.source is None:
                raise CheckpointError(candidate.problem)
            sources.append(candidate.source)
        return sources

    # -- accounts ----------------------------------------------------------------------------------------------------------------

    def accounts(self, sizes: Architecture | None = None) -> list[Account]:
        """What of every component is there, against the released sizes of the variant or others."""
        sizes = sizes or Architecture(self.config())
        return [self.account(name, sizes.layout(name)) for name in NEEDED_FOR]

    def account(self, name: ComponentName, layout: EncoderConfig | None = None) -> Account:
        """What of one component is there, held against `layout`; None for the tokenizer, which is no tensors."""
        paths = self.paths[name]
        if layout is None:
            return _tokenizer_account(paths)
        expected = _expected(layout)
        empty = Account(name, layout.title, paths, expected=len(expected), expected_parameters=_elements(expected.values()))
        if not paths:
            return empty
        empty = replace(empty, bytes=sum(path.stat().st_size for path in paths if path.exists()))
        try:
            return _account(empty, layout, self.sources(name, layout), self._conflicts(name, layout))
        except CheckpointError as error:
            return replace(empty, problem=str(error))

    def _conflicts(self, name: ComponentName, layout: EncoderConfig) -> tuple[str, ...]:
        """What a config.json beside the files says otherwise, of that which the tensors' shapes do not tell."""
        if isinstance(layout, TransformerLayout):
            config = layout.config
            ours: dict[str, Any] = {"num_heads": config.heads, "eps": config.eps, "text_len": config.text_len}
            folders = dict.fromkeys(path.parent for path in self.paths[name])
            said = {key: value for folder in folders for key, value in _read_json(folder / "config.json").items()}
            theirs = {key: said.get(key, value) for key, value in ours.items()}
        elif isinstance(layout, SpeechEncoderConfig):
            said = _read_json(self.paths[name][0].parent / "config.json")
            try:
                theirs = asdict(SpeechEncoderConfig.from_hugging_face(said) if said else layout)
            except ConfigError as error:
                return (str(error),)
            ours = asdict(layout)
        else:
            return ()
        return tuple(f"{key} is {theirs[key]}, not {value}" for key, value in ours.items() if theirs[key] != value)

    # -- tensors -----------------------------------------------------------------------------------------------------------------

    def tensors(
        self,
        name: ComponentName,
        layout: EncoderConfig,
        dtype: Callable[[str], torch.dtype],
        device: str | torch.device = "cpu",
    ) -> dict[str, Tensor]:
        """The tensors of `layout` under their canonical names, each in the type `dtype(name)`.

        On the CPU a tensor that has its type already is memory-mapped. Others are converted one by one, and the pages that were
        read for it are handed back to the system.

        Raises:
            CheckpointError: a tensor is missing, unexpected, of another shape or type, or a file cannot be read.
        """
        return _read_entries(self._accounted(name, layout), dtype, device)

    def reader(self, name: ComponentName, layout: EncoderConfig) -> TensorReader:
        """Reads a component's tensors a few at a time. Raises as `tensors`, all but what reading itself raises."""
        return TensorReader(self._accounted(name, layout))

    def _accounted(self, name: ComponentName, layout: EncoderConfig) -> dict[str, Entry]:
        """Where every tensor of a complete component lies."""
        account = self.account(name, layout)
        if account.status != "complete":
            raise CheckpointError(account.complaint())
        return {n: entry for n, entry in _united(self.sources(name, layout), layout).items() if layout.ignored(n) is None}


@dataclass(frozen=True)
class TensorReader:
    """A component's tensors where they lie; what is read is copied, so that no mapping stays open."""

    entries: Mapping[str, Entry]

    def __call__(self, names: Iterable[str], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The tensors of these canonical names, in `dtype`.

        Raises:
            CheckpointError: a file has changed or vanished since it was looked at.
        """
        tensors = _read_entries({name: self.entries[name] for name in names}, lambda _: dtype, "cpu")
        return {name: tensor.clone() for name, tensor in tensors.items()}


def _read_entries(
    entries: Mapping[str, Entry], dtype: Callable[[str], torch.dtype], device: str | torch.device
) -> dict[str, Tensor]:
    on_cpu = torch.device(device).type == "cpu"
    result = {}
    for file in {entry.file.path: entry.file for entry in entries.values()}.values():
        mapping, converted = file.open(), 0
        for canonical, entry in entries.items():
            if entry.file.path != file.path:
                continue
            tensor, wanted = mapping[entry.stored], dtype(canonical)
            if tensor.dtype == wanted and on_cpu:
                result[canonical] = tensor.contiguous()
                continue
            result[canonical] = tensor.to(device=device, dtype=wanted, copy=True).contiguous()
            converted += tensor.nbytes
            if converted > _REMAP_BYTES and file.mapped:
                del tensor
                mapping, converted = file.open(), 0
    return result


_GIVE_THE_FOLDER = f"Give the folder that holds transformer/ and {BASE_FOLDER}/."


def _wanted_variant(model: str | None) -> Variant | None:
    if model is not None and preset(model).name not in _AUDIO_PARTS:
        raise ConfigError(f"{model}'s weights are built in; a checkpoint is of {' or '.join(_AUDIO_PARTS)}.")
    return cast("Variant | None", model)


def _base(candidates: list[_Candidate], overlay: _Candidate | None, near: Path) -> _Candidate | None:
    """Wan's transformer: the nearest one; without one, a file in Wan's folder that is damaged or something else."""
    rest = [candidate for candidate in candidates if candidate is not overlay]
    for role in ("base", "unreadable", "other"):
        of_role = {candidate.paths: candidate for candidate in rest if candidate.role == role}
        if of_role:
            return of_role[_nearest(list(of_role), near, "base transformer")]
    return None


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object. Download it again.")
    return content


def _elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)


def _united(sources: list[Source], layout: EncoderConfig) -> dict[str, Entry]:
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


def _expected(layout: EncoderConfig) -> Shapes:
    return layout.tensors() | (layout.dead if isinstance(layout, TransformerLayout) else {})


def _account(empty: Account, layout: EncoderConfig, sources: list[Source], conflicts: tuple[str, ...]) -> Account:
    required, expected = layout.tensors(), _expected(layout)
    entries = _united(sources, layout)
    left = {name: reason for name in entries if (reason := layout.ignored(name)) is not None}
    known = {name: entry for name, entry in entries.items() if name in expected}
    misshaped = {name for name, entry in known.items() if entry.info.shape != expected[name]}
    mistyped = {name for name, entry in known.items() if entry.info.dtype not in SHORT_NAMES}
    found = {name: entry for name, entry in known.items() if name not in misshaped | mistyped}
    used = {name: entry for name, entry in found.items() if name not in left}
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


def _hint(account: Account, layout: EncoderConfig, sources: list[Source]) -> str | None:
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
            theirs, ours = _audio_variant(source.entries), layout.config.variant
            if theirs not in (None, ours):
                return f"{where} is {kind.what}. Ask for {theirs}, or give the folder of {ours}."
    if isinstance(layout, TransformerLayout) and account.missing and all("audio" in name for name in account.missing):
        return f"EchoMimic's own file, {OVERLAY_FILE}, is missing: only Wan's base transformer is there."
    return None


def _tokenizer_account(paths: tuple[Path, ...]) -> Account:
    problem = None
    try:
        if paths:
            PromptTokenizer(paths[0])
    except CheckpointError as error:
        problem = str(error)
    size = sum(path.stat().st_size for folder in paths for path in folder.iterdir() if path.is_file())
    return Account("tokenizer", "tokenizer (umT5)", paths, size, problem=problem)


# -- 5. modules ------------------------------------------------------------------------------------------------------------------


def load_transformer(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    config: ModelConfig | None = None,
) -> DiT:
    """The transformer in inference mode, in `dtype` but for the timestep MLP, which stays float32. `config`: its preset's.

    Raises:
        CheckpointError: see `Checkpoint.tensors`.
    """
    layout = TransformerLayout(config or checkpoint.config())
    float32 = FLOAT32_PARTS
    tensors = checkpoint.tensors("transformer", layout, lambda name: torch.float32 if name.startswith(float32) else dtype, device)
    return assigned(skeleton(DiT, layout.config), tensors)


def load_vae(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    config: VAEConfig | None = None,
) -> VAE:
    """The VAE in inference mode. Raises as `load_transformer`."""
    layout = VAELayout(config or checkpoint.config().vae)
    tensors = checkpoint.tensors("vae", layout, lambda _: dtype, device)
    vae = skeleton(VAE, layout.config)
    for name, buffer in vae.named_buffers():  # not in the file
        value = torch.tensor(getattr(layout.config, name)).view(buffer.shape)
        setattr(vae, name, value.to(device=device, dtype=dtype))
    return assigned(vae, tensors)


def load_text_encoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    config: PromptEncoderConfig = UMT5_XXL,
) -> PromptEncoder:
    """umT5 in inference mode. Raises as `load_transformer`."""
    return cast(PromptEncoder, config.build(checkpoint.tensors("text_encoder", config, lambda _: dtype, device)))


def load_image_encoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    config: PictureEncoderConfig = CLIP_VIT_H,
) -> PictureEncoder:
    """CLIP's visual tower in inference mode. Raises as `load_transformer`."""
    return cast(PictureEncoder, config.build(checkpoint.tensors("clip", config, lambda _: dtype, device)))


def load_speech_encoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    config: SpeechEncoderConfig = WAV2VEC2_BASE,
) -> SpeechEncoder:
    """wav2vec2 in inference mode. Raises as `load_transformer`."""
    return cast(SpeechEncoder, config.build(checkpoint.tensors("wav2vec2", config, lambda _: dtype, device)))


def load_tiny_vae(checkpoint: Checkpoint, device: str | torch.device = "cpu", config: TinyVAEConfig = TAEW) -> TinyVAE:
    """The tiny autoencoder in float32 and inference mode. Raises as `load_transformer`."""
    return config.build(checkpoint.tensors("tiny_vae", config, lambda _: torch.float32, device))


def load_tokenizer(checkpoint: Checkpoint) -> PromptTokenizer:
    """umT5's tokenizer.

    Raises:
        CheckpointError: the folder has none, or another one.
    """
    if not checkpoint.paths["tokenizer"]:
        raise CheckpointError(_no_such("tokenizer"))
    return PromptTokenizer(checkpoint.paths["tokenizer"][0])


def assigned(module: M, tensors: dict[str, Tensor]) -> M:
    """The module in inference mode with exactly these tensors as its parameters, uncopied."""
    module.requires_grad_(False)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()
