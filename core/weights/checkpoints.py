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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import PRESETS, ModelConfig, VAEConfig, Variant, preset
from ..errors import CheckpointError, ConfigError
from ..model.architecture import Architecture, ComponentName, TransformerLayout, VAELayout, skeleton
from ..model.pretrained import EncoderConfig
from ..model.pretrained_image import CLIP_VIT_H, PictureEncoder, PictureEncoderConfig
from ..model.pretrained_speech import WAV2VEC2_BASE, SpeechEncoder, SpeechEncoderConfig
from ..model.pretrained_text import UMT5_XXL, PromptEncoder, PromptEncoderConfig, PromptTokenizer
from ..model.tiny_vae import TAEW, TinyVAE, TinyVAEConfig
from ..model.transformer import DiT
from ..model.vae import VAE
from .accounts import (
    BASE_FOLDER,
    NEEDED_FOR,
    Account,
    Entry,
    TensorSource,
    account_of,
    elements,
    expected_tensors,
    no_such,
    tokenizer_account,
    united,
)
from .finding import Candidate, base_of, folders_beside, folders_in, nearest, overlay_of, places, read_source, require_variant
from .passport import STUDENT, Passport
from .recognition import AUDIO_PARTS
from .values import examine

M = TypeVar("M", bound=nn.Module)
Progress = Callable[[str, int, int], None]

SPEECH_FILES: dict[Variant, str] = {
    "flash": "chinese-wav2vec2-base/pytorch_model.bin",
    "preview": "wav2vec2-base-960h/model.safetensors",
}
FLOAT32_PARTS = ("time_embedding.", "time_projection.")  # upstream runs the timestep MLP in float32, whatever the model's type
_REMAP_BYTES = 256 << 20  # of a file that is being converted, at most so much stays mapped
_GIVE_THE_FOLDER = f"Give the folder that holds transformer/ and {BASE_FOLDER}/."


class Weights(Protocol):
    """Whatever the tensors of a released model come from: a folder, or a seed (`core.weights.seeded`)."""

    @property
    def paths(self) -> Mapping[ComponentName, tuple[Path, ...]]:
        """Where each component's files lie; none: there is no such component, or it is in no file."""
        ...

    def config(self) -> ModelConfig: ...

    def tensors(
        self,
        name: ComponentName,
        layout: EncoderConfig,
        dtype: Callable[[str], torch.dtype],
        device: str | torch.device = "cpu",
    ) -> dict[str, Tensor]:
        """As `Checkpoint.tensors`."""
        ...

    def reader(self, name: ComponentName, layout: EncoderConfig) -> Callable[[Iterable[str]], dict[str, Tensor]]:
        """Reads a component's tensors a few at a time, in float32."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights: where each component's files lie.

    `variant` is what the transformer's tensors say, None where it has no audio part; `asked` is the model that was asked for.
    """

    folder: Path
    variant: Variant | None
    asked: Variant | None
    paths: Mapping[ComponentName, tuple[Path, ...]]
    _transformer: tuple[Candidate, ...]  # EchoMimic's, then the base, which is read for what the first one lacks
    _read: dict[ComponentName, TensorSource] = field(default_factory=dict, repr=False, compare=False)

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
        if not path.exists() and not path.is_symlink():
            raise CheckpointError(f"{path} does not exist. {_GIVE_THE_FOLDER}")
        folder = path if path.is_dir() else path.parent
        inside, beside = places(folders_in(folder)), places(folders_beside(folder))
        candidates = [Candidate.read(paths) for paths in inside["transformer"]]
        roles = {candidate.role for candidate in candidates}
        outer = map(Candidate.read, beside["transformer"])
        candidates += [candidate for candidate in outer if candidate.role not in roles]
        chosen = None if path.is_dir() else Candidate.read((path,))
        if chosen is None or chosen.role == "base":
            overlay = overlay_of(candidates, wanted)
        else:
            require_variant(chosen, wanted)
            overlay = chosen
        variant = overlay.variant if overlay else None
        near = overlay.paths[0].parent if overlay else folder
        base = chosen if chosen and chosen.role == "base" else base_of(candidates, overlay, near)
        transformer = tuple(candidate for candidate in (overlay, base) if candidate)
        paths: dict[ComponentName, tuple[Path, ...]] = {"transformer": tuple(p for c in transformer for p in c.paths)}
        for name in NEEDED_FOR:
            if name != "transformer":
                speech = Path(SPEECH_FILES[variant or wanted or "flash"]).parent.name
                favourite = speech if name == "wav2vec2" else BASE_FOLDER
                paths[name] = nearest(inside[name] or beside[name], near, name, favourite)
        if not any(paths.values()):
            raise CheckpointError(f"{folder} holds no part of EchoMimicV3. {_GIVE_THE_FOLDER}")
        return cls(folder, variant, wanted, paths, transformer)

    def config(self) -> ModelConfig:
        """The preset of the variant; where the transformer has no audio part, of the model that was asked for, or flash. A
        student's is told how far a step goes."""
        preset = PRESETS[self.variant or self.asked or "flash"]
        return replace(preset, flow_map=True) if self.passport is not None else preset

    @property
    def passport(self) -> Passport | None:
        """What the student that the transformer is was taught; None of a teacher's.

        Raises:
            CheckpointError: the passport is of another version.
        """
        source = self._transformer[0].source if self._transformer else None
        told = next((file.metadata[STUDENT] for file in source.files if STUDENT in file.metadata), None) if source else None
        return None if told is None else Passport.read(told, str(self.paths["transformer"][0]))

    def sources(self, name: ComponentName, layout: EncoderConfig) -> list[TensorSource]:
        """What a component's tensors are read from, the first one first; Wan's base only if EchoMimic's file lacks something.

        Raises:
            CheckpointError: the component is absent, or a file is damaged or no file of tensors.
        """
        if not self.paths[name]:
            raise CheckpointError(no_such(name))
        if name != "transformer":
            if name not in self._read:
                self._read[name] = read_source(self.paths[name])
            return [self._read[name]]
        sources: list[TensorSource] = []
        for candidate in self._transformer:
            if sources and layout.tensors().keys() <= sources[0].entries.keys():
                break
            if candidate.source is None:
                raise CheckpointError(candidate.problem)
            sources.append(candidate.source)
        return sources

    # -- accounts ----------------------------------------------------------------------------------------------------------------

    def accounts(
        self, sizes: Architecture | None = None, values: bool = False, progress: Progress = lambda *_: None
    ) -> list[Account]:
        """What of every component is there, against the released sizes of the variant or others. `values`: every tensor is
        read, and those whose numbers cannot be meant are named; `progress(component, bytes done, bytes in all)`."""
        sizes = sizes or Architecture(self.config())
        accounts = [self.account(name, sizes.layout(name)) for name in NEEDED_FOR]
        if not values:
            return accounts
        return [self.examined(account, sizes.layout(account.name), partial(progress, account.name)) for account in accounts]

    def examined(
        self, account: Account, layout: EncoderConfig | None, progress: Callable[[int, int], None] = lambda *_: None
    ) -> Account:
        """A complete component's account with what is wrong with its tensors' values; another one's as it is.

        Raises:
            CheckpointError: a file has changed or vanished since it was looked at.
        """
        if account.status != "complete" or layout is None:
            return account
        return replace(account, wrong_values=examine(self._used(account.name, layout), progress))

    def account(self, name: ComponentName, layout: EncoderConfig | None = None) -> Account:
        """What of one component is there, held against `layout`; None for the tokenizer, which is no tensors."""
        paths = self.paths[name]
        if layout is None:
            return tokenizer_account(paths)
        expected = expected_tensors(layout)
        empty = Account(name, layout.title, paths, expected=len(expected), expected_parameters=elements(expected.values()))
        if not paths:
            return empty
        empty = replace(empty, bytes=sum(path.stat().st_size for path in paths if path.exists()))
        try:
            return account_of(empty, layout, self.sources(name, layout), self._conflicts(name, layout))
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
        return self._used(name, layout)

    def _used(self, name: ComponentName, layout: EncoderConfig) -> dict[str, Entry]:
        return {n: entry for n, entry in united(self.sources(name, layout), layout).items() if layout.ignored(n) is None}


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


def _wanted_variant(model: str | None) -> Variant | None:
    if model is not None and preset(model).name not in AUDIO_PARTS:
        raise ConfigError(f"{model}'s weights are built in; a checkpoint is of {' or '.join(AUDIO_PARTS)}.")
    return cast("Variant | None", model)


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


# -- modules ------------------------------------------------------------------------------------------------------------------


def load_transformer(
    checkpoint: Weights,
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
    checkpoint: Weights,
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
    checkpoint: Weights,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    config: PromptEncoderConfig = UMT5_XXL,
) -> PromptEncoder:
    """umT5 in inference mode. Raises as `load_transformer`."""
    return cast(PromptEncoder, config.build(checkpoint.tensors("text_encoder", config, lambda _: dtype, device)))


def load_image_encoder(
    checkpoint: Weights,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    config: PictureEncoderConfig = CLIP_VIT_H,
) -> PictureEncoder:
    """CLIP's visual tower in inference mode. Raises as `load_transformer`."""
    return cast(PictureEncoder, config.build(checkpoint.tensors("clip", config, lambda _: dtype, device)))


def load_speech_encoder(
    checkpoint: Weights,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    config: SpeechEncoderConfig = WAV2VEC2_BASE,
) -> SpeechEncoder:
    """wav2vec2 in inference mode. Raises as `load_transformer`."""
    return cast(SpeechEncoder, config.build(checkpoint.tensors("wav2vec2", config, lambda _: dtype, device)))


def load_tiny_vae(checkpoint: Weights, device: str | torch.device = "cpu", config: TinyVAEConfig = TAEW) -> TinyVAE:
    """The tiny autoencoder in float32 and inference mode. Raises as `load_transformer`."""
    return config.build(checkpoint.tensors("tiny_vae", config, lambda _: torch.float32, device))


def load_tokenizer(checkpoint: Weights) -> PromptTokenizer:
    """umT5's tokenizer.

    Raises:
        CheckpointError: the folder has none, or another one.
    """
    if not checkpoint.paths["tokenizer"]:
        raise CheckpointError(no_such("tokenizer"))
    return PromptTokenizer(checkpoint.paths["tokenizer"][0])


def assigned(module: M, tensors: dict[str, Tensor]) -> M:
    """The module in inference mode with exactly these tensors as its parameters, uncopied."""
    module.requires_grad_(False)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()
