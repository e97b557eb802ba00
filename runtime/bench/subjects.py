"""The full-precision model that a baseline is recorded of, ready to play: the built-in one, a folder's, or a seed's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.bundle.baseline import WeightsOrigin
from ...core.config import FLASH, ModelConfig
from ...core.errors import CheckpointError, ConfigError
from ...core.files import human_bytes, require_free_memory
from ...core.model.architecture import Architecture, ComponentName
from ...core.model.encoders import NanoAudioEncoder, NanoTextEncoder
from ...core.model.programs import Model
from ...core.plan import SamplingPlan, check_count, noise
from ...core.plan.samplers import PLAN_PRESETS, NoGuidance, PlanOptions, build_plan
from ...core.sampling.hearing import playing_of
from ...core.weights.checkpoints import FLOAT32_PARTS, Checkpoint, Weights
from ...core.weights.nano import load_nano, nano_digest, read_passport, student_path, weights_path
from ...core.weights.passport import Passport
from ...core.weights.seeded import SeededWeights, tensors_sha256, weights_sha256
from ...core.weights.source import CheckpointSource, digest_of
from ...quantize.distill.run import student_options
from ..engines.naive import Naive
from ..engines.reference import ReferenceEngine
from ..play.compared import ComparedPlayer
from ..play.player import PlayerConfig
from ..play.reference import DTYPES, Reference, Settings, memory_needed, peak_memory
from .presets import Preset

SEEDED_PROMPT = "a prompt drawn with the weights"  # of models without a text encoder: its rows are drawn, too
_PROMPT_ROWS = 24  # of that prompt, where the model reads as many
_SEED = re.compile(r"random:([0-9]{1,20})")


@dataclass(frozen=True)
class Playing:
    """How a subject is played. savings: what does not change in a step is computed once."""

    device: str = "cpu"
    precision: str = "fp32"
    decoder: str = "full"
    compiled: bool = False
    savings: bool = True

    @property
    def settings(self) -> Settings:
        """Raises ConfigError, EngineError: a type or a device that is not there."""
        return Settings(dtype=self.precision, device=self.device, decoder=self.decoder)


@dataclass(frozen=True)
class Subject:
    """A model and its weights. prompts: rows of prompts that no text encoder has to read. bytes: of the files, None without any."""

    config: ModelConfig
    origin: WeightsOrigin
    prompts: Mapping[str, Any]
    bytes: int | None
    open: Callable[[Preset, Playing], ComparedPlayer]
    plan: Callable[[Preset], SamplingPlan]


def find_subject(preset: Preset, weights: str | None, layers: int | None, decoder: str, prompts: Mapping[str, Any]) -> Subject:
    """weights: None for the built-in ones, `random:SEED`, or a folder of released weights. layers: of a seed's transformer.

    Raises:
        ConfigError: the preset's model needs weights, or has its own; `layers` is out of range or not a seed's to choose.
        CheckpointError: the folder lacks something.
    """
    if layers is not None and not _SEED.fullmatch(weights or ""):
        raise ConfigError(
            f"--layers is {layers}; only weights of a seed have as many as are asked for. Give --weights random:SEED."
        )
    if prompts and (weights is None or _SEED.fullmatch(weights)):
        raise ConfigError("--prompts goes with --weights FOLDER: other weights have prompts of their own. Leave it out.")
    if preset.model == "nano":
        if weights is not None:
            raise ConfigError(f"--weights is {weights!r}; the preset {preset.name} plays the built-in model. Leave it out.")
        if decoder != "full":
            raise ConfigError(f"--decoder is {decoder!r}; nano has the full one alone.")
        path = student_path() if preset.student else weights_path()
        passport = read_passport(path)
        return model_subject(
            load_nano(path=path), PLAN_PRESETS["nano"], "built-in", nano_digest(path), path.stat().st_size, passport
        )
    if weights is None:
        raise ConfigError(f"The preset {preset.name} needs --weights: a folder of {preset.model}'s, or random:SEED.")
    if match := _SEED.fullmatch(weights):
        sizes = Architecture(FLASH)
        if layers is not None:
            check_count("layers", layers, 1, sizes.transformer.layers)
            sizes = replace(sizes, transformer=replace(sizes.transformer, layers=layers))
        return seeded_subject(sizes, int(match[1]), decoder)
    checkpoint = Checkpoint.open(weights, preset.model)
    return folder_subject(checkpoint, Architecture(checkpoint.config()), decoder, prompts)


# ---- the released model ---------------------------------------------------------------------------------------------------------


def seeded_subject(sizes: Architecture, seed: int, decoder: str = "full") -> Subject:
    """Weights of a seed; the prompt's rows are drawn from it, too.

    Raises:
        ConfigError: the seed is out of range.
    """
    weights = SeededWeights(sizes, seed)
    model = sizes.transformer
    rows = noise(seed, (1, 1, min(_PROMPT_ROWS, model.text_len - 1), model.text_dim))[0, 0]
    origin = WeightsOrigin(kind="seed", seed=seed, components=_digests(weights, sizes, decoder), source_sha256=None)
    return _released(weights, sizes, origin, {SEEDED_PROMPT: rows}, None)


def folder_subject(checkpoint: Checkpoint, sizes: Architecture, decoder: str, prompts: Mapping[str, Any]) -> Subject:
    """Weights of a folder.

    Raises:
        CheckpointError: a component is missing or not whole.
    """
    model = sizes.transformer
    if not prompts and not checkpoint.paths["text_encoder"]:
        raise CheckpointError(f"{checkpoint.folder} has no text encoder. Give --prompts PACK, or a folder that has one.")
    source = CheckpointSource(str(checkpoint.folder), model.variant, sizes)
    decoders = ("tiny",) if decoder == "tiny" else ("full",)
    origin = WeightsOrigin(
        kind="folder", seed=None, components=_digests(checkpoint, sizes, decoder), source_sha256=digest_of(source.digests(decoders))
    )
    files = {path for name in _components(decoder) for path in checkpoint.paths[name]}
    return _released(checkpoint, sizes, origin, prompts, sum(path.stat().st_size for path in files))


def _components(decoder: str) -> tuple[ComponentName, ...]:
    return ("transformer", "vae", "clip", "wav2vec2", *(("tiny_vae",) if decoder == "tiny" else ()))


def _digests(weights: Weights, sizes: Architecture, decoder: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _components(decoder):
        layout = sizes.layout(name)
        assert layout is not None
        found[name] = weights_sha256(weights, name, layout)
    return found


def _released(
    weights: Weights, sizes: Architecture, origin: WeightsOrigin, prompts: Mapping[str, Any], size: int | None
) -> Subject:
    def settings(preset: Preset, playing: Playing) -> Settings:
        guidance = 1.0 if preset.branches == 1 else None
        return replace(playing.settings, steps=preset.steps, audio_guidance=guidance, window=max(81, preset.clip.frames))

    def reference(preset: Preset, playing: Playing) -> Reference:
        return Reference(
            weights, preset.clip, settings(preset, playing), sizes, prompts, resident=True, compiled=playing.compiled
        )  # fmt: skip

    def opened(preset: Preset, playing: Playing) -> ComparedPlayer:
        made = reference(preset, playing)
        needed = memory_needed(sizes, preset.clip, made.plan, made.settings)
        if playing.device == "cpu":
            parts = ", ".join(f"{name} {human_bytes(count)}" for name, count in needed.items())
            require_free_memory(peak_memory(needed, resident=True), f"this baseline ({parts})")
        return _player(made.config, made.engine, playing)

    return Subject(sizes.transformer, origin, prompts, size, opened, lambda preset: reference(preset, Playing()).plan)


# ---- a model in memory ----------------------------------------------------------------------------------------------------------


class _Ear(nn.Module):
    """nano's ear as the released one is called; it reads one hop beyond the last frame, of which nothing is heard."""

    def __init__(self, encoder: NanoAudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def per_frame(self, waveform: Tensor, frames: int) -> Tensor:
        return self.encoder(nn.functional.pad(waveform, (0, self.encoder.context_samples)))


class _Reader(nn.Module):
    """nano's reader as the released one is called; which ids count it knows itself."""

    def __init__(self, encoder: NanoTextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(ids)


def model_subject(
    model: Model, options: PlanOptions, kind: Any, source: str | None, size: int | None, passport: Passport | None = None
) -> Subject:
    """A model with encoders of its own. `passport`: of a student, whose teacher plays by `options`."""
    encoders = model.encoders
    assert encoders is not None
    parts: dict[str, nn.Module] = {
        "transformer": model.dit, "vae": model.vae, "image_encoder": encoders.image, "speech_encoder": _Ear(encoders.audio),
        "text_encoder": _Reader(encoders.text),
    }  # fmt: skip
    digests = {name: tensors_sha256(part.state_dict()) for name, part in parts.items()}

    def plan(preset: Preset) -> SamplingPlan:
        if passport is not None:
            return build_plan(student_options(passport, preset.steps, options))
        guidance = options.guidance if preset.branches > 1 else NoGuidance()
        return build_plan(replace(options, steps=preset.steps, guidance=guidance))

    def opened(preset: Preset, playing: Playing) -> ComparedPlayer:
        settings = playing.settings
        loaders = {name: partial(_moved, name, part, settings) for name, part in parts.items()}
        clip = preset.clip
        engine = ReferenceEngine(
            model.config, loaders, clip.samples_per_frame, playing.device, resident=True, compiled=playing.compiled
        )
        made = plan(preset)
        config = PlayerConfig(
            playing_of(model.config), clip, made, lambda: engine.step_tables(made.timesteps, made.spans), None, collapse=False
        )
        return _player(config, engine, playing)

    origin = WeightsOrigin(kind=kind, seed=None, components=digests, source_sha256=source)
    return Subject(model.config, origin, {}, size, opened, plan)


def _moved(name: str, part: nn.Module, settings: Settings) -> nn.Module:
    """A copy in the type that the released pipeline gives a part: encoders compute in float32, so does the timestep's MLP."""
    import copy

    copied = copy.deepcopy(part).to(settings.device)
    if name in ("transformer", "vae"):
        copied.to(DTYPES[settings.dtype])
        for prefix in FLOAT32_PARTS if name == "transformer" else ():
            copied.get_submodule(prefix.removesuffix(".")).float()
    return copied


# ---- both -----------------------------------------------------------------------------------------------------------------------


def _player(config: PlayerConfig, engine: ReferenceEngine, playing: Playing) -> ComparedPlayer:
    tables = config.step_tables() if callable(config.step_tables) else config.step_tables
    shown = engine if playing.savings else Naive(engine, tables, config.plan)
    return ComparedPlayer(replace(config, step_tables=tables), shown)


def settle(device: str) -> Callable[[], None]:
    """Waits for what a device was given to do."""
    return partial(torch.cuda.synchronize, device) if device.startswith("cuda") else lambda: None


def device_peak(device: str) -> int | None:
    """Bytes of a device's own memory at the peak; None for the CPU, whose memory is the process's."""
    return int(torch.cuda.max_memory_allocated(device)) if device.startswith("cuda") else None
