"""The released model in full precision, from a checkpoint's files to frames: the baseline that artifacts are compared with.

1. listen   speech -> wav2vec2 features
2. look     portrait -> CLIP tokens, masked latents; prompts -> umT5 embeddings, or a prompt pack
3. prepare  conditions per window and guidance branch
4. denoise  every step of the plan
5. decode   one latent frame at a time

`Settings` are the options, `Reference` is a checkpoint made ready with them. A clip longer than a window is played in overlapping
windows (Long Video CFG), or, with `long_video="chunks"`, in chunks one after the other, each of which continues the last frames
before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.config import TEMPORAL_STRIDE, ClipSpec, Variant
from ...core.errors import ConfigError, EngineError, InputError
from ...core.files import atomic_file
from ...core.model.architecture import Architecture, skeleton
from ...core.model.attention import Riflex
from ...core.model.transformer import DiT
from ...core.model.vae import VAE
from ...core.plan import SamplingPlan, Window, WindowRule, check_choice, check_count, check_seed, noise, windows
from ...core.plan.long_video import ChunkJoiner, pixel_chunks, to_uint8
from ...core.plan.phases import PhaseWeights
from ...core.plan.samplers import (
    NEGATIVE,
    PLAN_PRESETS,
    AudioGuidance,
    FeatureReuse,
    NoGuidance,
    PlanOptions,
    TextAudioGuidance,
    build_plan,
)
from ...core.sampling.front import windows_under_way
from ...core.sampling.hearing import playing_of
from ...core.sampling.inputs import cut_sentence
from ...core.weights import checkpoints
from ...core.weights.checkpoints import Checkpoint, Weights
from ..engines.reference import Loader, ReferenceEngine
from .player import STAGES, Float32, Player, PlayerConfig, Progress, StepTables, silent, timed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODERS = ("full", "tiny")
OVERLAP = {"windows": 4, "chunks": 8}  # latent frames, video frames
LONG_VIDEO = tuple(OVERLAP)
ANCHORS = ("window", "clip")
SPEECH_COPIES = 2.5  # of the speech encoder's first layer at once: 16.4 MB a second of voice, measured for 30 to 120 s
VAE_STATE_PER_PIXEL = 155_000_000 // 256**2  # elements of the decoder's state at full width (UPSTREAM §9)


@dataclass(frozen=True)
class Settings:
    """How the reference model is played. None stands for the released pipeline's own value.

    `window` is in video frames; `overlap` in latent frames between windows, in video frames between chunks; `anchor` is that of
    `WindowRule`. `guidance` is the strength of the text, which only preview knows; `audio_guidance` that of the speech (in flash 1
    switches it off). `audio_scale` multiplies what preview's audio attention adds. `riflex` slows the temporal frequency that
    repeats in clips longer than those of training. `reuse` is the threshold of feature reuse. `upstream_compat` repeats the
    original's defects.
    """

    steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    guidance: float | None = None
    audio_guidance: float | None = None
    audio_scale: float = 1.0
    negative_prompt: str | None = None
    window: int = 81
    overlap: int | None = None
    anchor: str = "window"
    long_video: str = "windows"
    riflex: bool = False
    reuse: float | None = None
    seed: int = 0
    dtype: str = "fp32"
    device: str = "cpu"
    decoder: str = "full"
    upstream_compat: bool = False

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, list(DTYPES))
        check_choice("decoder", self.decoder, DECODERS)
        check_choice("long_video", self.long_video, LONG_VIDEO)
        check_choice("anchor", self.anchor, ANCHORS)
        check_count("window", self.window, 5, 10_000)
        check_seed(self.seed)
        if self.overlap is not None:
            check_count("overlap", self.overlap, 0, self.window - 1)
        if (self.window - 1) % TEMPORAL_STRIDE:
            raise ConfigError(f"The window is {self.window} frames; it must be 4n+1, such as {(self.window - 1) // 4 * 4 + 1}.")
        if self.long_video == "chunks" and self.anchor == "clip":
            raise ConfigError("anchor is 'clip', but chunks continue the frames before them. Use long_video='windows'.")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"There is no device {self.device!r}. Choose cpu, cuda or cuda:1.") from error
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
            raise EngineError(f"PyTorch cannot compute on {self.device!r} here. Choose cpu, or install a build with CUDA.")


def _overlap(settings: Settings) -> int:
    """Latent frames or, of chunks, video frames; by default as the original, or as many as the window leaves."""
    if settings.overlap is not None:
        return settings.overlap
    most = settings.window - 1 if settings.long_video == "chunks" else (settings.window - 1) // TEMPORAL_STRIDE
    return min(OVERLAP[settings.long_video], most)


def plan_options(variant: Variant, settings: Settings, frames: int = 1) -> PlanOptions:
    """The plan's options for a clip of `frames` video frames: those of the released pipeline with what `settings` change.

    Raises:
        ConfigError: an option is out of range, or is not one of this variant.
    """
    options = PLAN_PRESETS[variant]
    compat = settings.upstream_compat
    changes: dict[str, Any] = {
        name: value for name in ("steps", "solver", "shift") if (value := getattr(settings, name)) is not None
    }
    audio = settings.audio_guidance
    if variant == "flash":
        for name in ("guidance", "negative_prompt"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"{name} is {getattr(settings, name)!r}; flash has no text guidance, only audio_guidance.")
        if settings.audio_scale != 1.0:
            raise ConfigError(f"audio_scale is {settings.audio_scale}; only preview's audio attention has a scale.")
        assert isinstance(options.guidance, AudioGuidance)
        scale = options.guidance.scale if audio is None else audio
        changes["guidance"] = replace(options.guidance, scale=scale, upstream_compat=compat)
    elif settings.guidance is not None and settings.guidance <= 1:
        for name in ("audio_guidance", "negative_prompt"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"guidance is {settings.guidance}, which switches all guidance off; {name} would do nothing.")
        changes["guidance"] = NoGuidance()
    else:
        guidance = options.guidance
        assert isinstance(guidance, TextAudioGuidance)
        text = guidance.text if settings.guidance is None else settings.guidance
        audio = guidance.audio if audio is None else audio
        changes["guidance"] = replace(guidance, text=text, audio=audio, upstream_compat=compat)
        if settings.negative_prompt is not None:
            changes["texts"] = ((NEGATIVE, settings.negative_prompt),)
    if variant == "preview" and settings.solver not in (None, "euler"):
        changes["constructor_shift"] = options.shift  # of the released scheduler's configuration; Euler has this one alone
    if settings.long_video == "windows" and frames > settings.window:
        length = (settings.window - 1) // TEMPORAL_STRIDE + 1
        rule: dict[str, Any] = {"length": length, "overlap": _overlap(settings), "anchor": settings.anchor}
        changes["window"] = WindowRule(**rule, upstream_compat=compat)
    if settings.reuse is not None:
        changes["reuse"] = FeatureReuse(threshold=settings.reuse, upstream_compat=compat)
    if settings.audio_scale != 1.0:
        changes["modality"] = PhaseWeights(points=((1.0, (1.0, 1.0, settings.audio_scale)),))
    return replace(options, **changes)


def loaders(checkpoint: Weights, sizes: Architecture, settings: Settings) -> dict[str, Loader]:
    """What the engine loads its parts with. CLIP and wav2vec2 compute in float32, umT5 in bfloat16, as published; the transformer
    and the VAE in the type that was asked for."""
    dtype, device = DTYPES[settings.dtype], settings.device
    found: dict[str, Loader] = {
        "transformer": partial(checkpoints.load_transformer, checkpoint, dtype, device, sizes.transformer),
        "vae": partial(checkpoints.load_vae, checkpoint, dtype, device, sizes.transformer.vae),
        "image_encoder": partial(checkpoints.load_image_encoder, checkpoint, torch.float32, device, sizes.clip),
        "speech_encoder": partial(checkpoints.load_speech_encoder, checkpoint, torch.float32, device, sizes.wav2vec2),
    }
    if settings.decoder == "tiny":
        found["decoder"] = partial(checkpoints.load_tiny_vae, checkpoint, device, sizes.tiny_vae)
    if checkpoint.paths["text_encoder"]:
        found["text_encoder"] = partial(checkpoints.load_text_encoder, checkpoint, torch.bfloat16, device, sizes.text_encoder)
    return found


def memory_needed(sizes: Architecture, clip: ClipSpec, plan: SamplingPlan, settings: Settings) -> dict[str, int]:
    """Bytes that playing `clip` takes: of the transformer's weights, the conditions of the branches and the windows under way, one
    step, and, at other times, the VAE with its states, and the speech encoder with the voice.

    Activations are those of the widest moment of a block: the feed-forward's hidden layer, or the logits of cross-attention. What
    branches or windows have in common is counted once, as the player holds it.
    """
    model, size = sizes.transformer, DTYPES[settings.dtype].itemsize
    most = settings.window if settings.long_video == "chunks" else clip.frames
    total = (min(most, clip.frames) - 1) // TEMPORAL_STRIDE + 1
    spans = windows(total, plan.window) if plan.window is not None and plan.window.length < total else [Window(0, total, ())]
    length = max(span.length for span in spans)
    tokens, keys = length * clip.tokens_per_frame, model.text_len + model.image_tokens
    parts = {"transformer": skeleton(DiT, model), "vae": skeleton(VAE, model.vae)}
    weights = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    texts = len({(branch.text, branch.text_scale) for branch in plan.branches})
    images = len({branch.image for branch in plan.branches})
    heard = len({branch.audio_shift for branch in plan.branches if branch.audio})
    under_way = min(len(spans), windows_under_way(plan.steps, plan.window) if plan.window is not None else 1)
    voices = under_way * heard + any(not branch.audio for branch in plan.branches)
    rows = texts * model.text_len + images * model.image_tokens + voices * model.audio.tokens * length
    patches = under_way if plan.window is not None and plan.window.anchor == "clip" else 1
    moment = max(tokens * (2 * model.ffn_dim + 4 * model.dim), 2 * model.heads * tokens * keys)
    residuals = under_way * len(plan.branches) * tokens * model.dim if settings.reuse is not None else 0
    latent_frame = model.latent_channels * clip.latent_height * clip.latent_width
    states = 2 * VAE_STATE_PER_PIXEL * clip.height * clip.width * model.vae.dim // 96
    return {
        "transformer": size * weights["transformer"],
        "conditions": size * (2 * model.layers * rows * model.dim + patches * tokens * model.dim),
        "one step": size * (moment + 6 * tokens * model.dim + residuals)
        + 4 * ((plan.steps + 2) * min(total, under_way * length) + 2 * total) * latent_frame,
        "vae": size * (weights["vae"] + states),
        "speech encoder": _speech_memory(sizes, clip),
    }


def _speech_memory(sizes: Architecture, clip: ClipSpec) -> int:
    """Of the speech encoder in float32, which hears the whole voice at once, and of what its first layer makes of it."""
    encoder = sizes.wav2vec2
    weights = sum(math.prod(shape) for shape in encoder.tensors().values())
    first = clip.frames * clip.samples_per_frame // encoder.conv_strides[0] * encoder.conv_dims[0]
    return 4 * round(weights + SPEECH_COPIES * first)


def peak_memory(needed: Mapping[str, int], resident: bool) -> int:
    """Of what `memory_needed` gives, the most that is in memory at once."""
    denoise = needed["transformer"] + needed["conditions"] + needed["one step"]
    apart = (needed["vae"], needed["speech encoder"])
    return denoise + sum(apart) if resident else max(denoise, *apart)


# -- prompts -----------------------------------------------------------------------------------------------------------------------


def write_prompts(
    folder: Path,
    texts: Sequence[str],
    output: Path,
    device: str = "cpu",
    force: bool = False,
    warn: Callable[[str], None] = print,
) -> dict[str, int]:
    """Encodes prompts once, with those that the model's guidance needs, into the pack `output`. -> tokens of each.

    Raises:
        CheckpointError: as `encode_prompts`.
        OutputError: `output` exists and `force` is off, or cannot be written.
    """
    from safetensors.torch import save_file

    checkpoint = Checkpoint.open(folder)
    sizes = Architecture(checkpoint.config())
    needed = dict(PLAN_PRESETS[sizes.transformer.variant].texts).values()
    wanted = [*texts, *(text for text in needed if text not in texts)]
    with atomic_file(output, force) as temporary:
        encoded = encode_prompts(checkpoint, wanted, sizes, device, warn=warn)
        save_file(encoded, temporary)
    return {prompt: len(rows) for prompt, rows in encoded.items()}


def encode_prompts(
    checkpoint: Checkpoint,
    prompts: list[str],
    sizes: Architecture,
    device: str = "cpu",
    progress: Progress = silent,
    warn: Callable[[str], None] = print,
) -> dict[str, Tensor]:
    """{prompt: rows [L, text_dim]} as umT5 gives them, in bfloat16, without padding; a prompt is cut where the model's text ends.

    Raises:
        CheckpointError: the text encoder or its tokenizer is missing or not the right one.
    """
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    encoder = checkpoints.load_text_encoder(checkpoint, torch.bfloat16, device, sizes.text_encoder)
    encoded = {}
    for index, prompt in enumerate(dict.fromkeys(prompts)):
        found = tokenizer.ids(prompt, sizes.transformer.text_len)
        if found.cut:
            warn(cut_sentence(int(found.mask.sum()), "tokens", found.cut))
        length = int(found.mask.sum())
        with torch.no_grad():
            ids = found.ids[None, :length].to(device)
            encoded[prompt] = encoder(ids, torch.ones_like(ids))[0].cpu().contiguous()
        progress("prompts", index + 1, len(prompts))
    return encoded


# -- the performance ---------------------------------------------------------------------------------------------------------------


@dataclass
class Reference:
    """A checkpoint's model, made ready for clips of one size. `prompts` are embeddings that need no text encoder.

    Raises:
        CheckpointError: a part that the settings need is missing.
        ConfigError: an option is out of range, or is not one of this variant.
    """

    checkpoint: Weights
    clip: ClipSpec  # its frames are the most that are played
    settings: Settings
    sizes: Architecture
    prompts: Mapping[str, Float32] = field(default_factory=dict)
    resident: bool = False
    compiled: bool = False  # as `ReferenceEngine`
    progress: Progress = silent
    warn: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)  # wall time by stage, once frames have been played
    evaluations: int = 0

    def __post_init__(self) -> None:
        model = self.sizes.transformer
        self.engine = ReferenceEngine(
            model, loaders(self.checkpoint, self.sizes, self.settings), self.clip.samples_per_frame,
            self.settings.device, self._riflex(),
            keep_residuals=self.settings.reuse is not None, resident=self.resident, compiled=self.compiled,
        )  # fmt: skip
        self.options = self._options()
        self.plan = build_plan(self.options, modulation=self._modulation)
        self.config = PlayerConfig(
            playing_of(model), self.clip, self.plan, self._tables, None, self.prompts, tokenise=self._tokenise, collapse=False
        )
        self.player = Player(self.config, self.engine, self.progress)

    def _options(self) -> PlanOptions:
        """Of a student those that it was taught."""
        settings, own = self.settings, plan_options(self.sizes.transformer.variant, self.settings, self.clip.frames)
        passport = self.checkpoint.passport if isinstance(self.checkpoint, Checkpoint) else None
        if passport is None:
            return own
        from ...quantize.distill.run import student_options

        passport.require(settings.steps, settings.audio_guidance, settings.shift)
        if settings.guidance not in (None, passport.text_guidance) or settings.negative_prompt or settings.solver or settings.reuse:
            raise ConfigError(
                "A student takes Euler's steps of one forward each, its guidance folded in. Leave guidance, negative prompt, "
                "solver and reuse, or take its teacher."
            )
        return student_options(passport, settings.steps or passport.allowed[-1], own)

    def _riflex(self) -> Riflex | None:
        frames = min(self.settings.window, self.clip.frames)
        return Riflex(frames=(frames - 1) // TEMPORAL_STRIDE + 1) if self.settings.riflex else None

    def _modulation(self, timesteps: Any) -> NDArray[np.float64]:
        return self.engine.step_tables(timesteps)["modulation"].reshape(len(timesteps), -1).astype(np.float64)

    def _tables(self) -> StepTables:
        return self.engine.step_tables(self.plan.timesteps, self.plan.spans if self.sizes.transformer.flow_map else None)

    def _tokenise(self, prompt: str, most: int) -> tuple[NDArray[np.int64], int]:
        found = checkpoints.load_tokenizer(self.checkpoint).ids(prompt, most)
        length = int(found.mask.sum())
        if found.cut:
            self.warn(cut_sentence(length, "tokens", found.cut))
        return found.ids[None, :length].numpy(), length

    def frames(
        self, portrait: Float32, speech: Float32, prompt: str = "", audio_mask: Float32 | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """portrait [3, H, W] in [-1, 1], speech [n] -> the clip's frames, uint8 [H, W, 3], as they are decoded; as many as the
        speech reaches into, at most the clip's.

        audio_mask [S]: 1 where a frame's tokens hear the speech; the original has no use for one without text guidance.

        Raises:
            InputError: the speech is shorter than a frame, or the prompt cannot be read.
        """
        compat = self.settings.upstream_compat
        if audio_mask is not None and not self.sizes.transformer.audio_path.masked:
            raise ConfigError("flash hears the speech everywhere; a mask of tokens is preview's.")
        if len(speech) < self.clip.samples_per_frame:
            raise InputError(f"The speech lasts {len(speech) / self.clip.sample_rate:.3f} s, less than one frame.")
        if compat and isinstance(self.options.guidance, NoGuidance):
            audio_mask = None
        speech = speech[: self.clip.frames * self.clip.samples_per_frame]
        if self.settings.long_video == "chunks" and self.clip.frames > self.settings.window:
            pieces = self._chunks(portrait, speech, prompt, audio_mask)
        else:
            made = self.player.generate(portrait, speech, prompt, self.settings.seed, audio_mask)
            self.seconds, self.evaluations = made.seconds, made.evaluations
            pieces = (_brightness(video) for video in self.player.video_of(made.latents, made.seconds, made.frames))
        left = -(-len(speech) // self.clip.samples_per_frame)
        for piece in pieces:
            yield from to_uint8(piece, compat)[:left]
            left -= len(piece)
        if not self.resident:
            self.engine.release()

    def _chunks(self, portrait: Float32, speech: Float32, prompt: str, audio_mask: Float32 | None) -> Iterator[Float32]:
        """Chunk after chunk, each from the last frames of the one before: finished frames [t, H, W, 3] in [0, 1]."""
        player, settings, compat = self.player, self.settings, self.settings.upstream_compat
        frames = -(-len(speech) // self.clip.samples_per_frame)
        if not compat:
            frames = TEMPORAL_STRIDE * -(-(frames - 1) // TEMPORAL_STRIDE) + 1
        chunks = pixel_chunks(frames, settings.window, _overlap(settings), compat)
        self.seconds, self.evaluations = dict.fromkeys(STAGES, 0.0), 0
        with timed(self.seconds, "listen"):
            audio = player.neighbourhoods(player.listen(speech, chunks[-1].start + chunks[-1].frames))
        with timed(self.seconds, "look"):
            image, text = player.recognise(portrait), player.read_all(prompt)
        joiner = ChunkJoiner(chunks)
        for chunk in chunks:
            known = portrait[None]
            if chunk.start:
                known = to_uint8(joiner.known, compat).astype(np.float32).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
            latent_frames = (chunk.frames - 1) // TEMPORAL_STRIDE + 1
            with timed(self.seconds, "look"):
                y = player.look(known, latent_frames)
            rows = player.config.playing.hearing.rows_per_frame
            first, last = rows * chunk.start, rows * (chunk.start + chunk.frames)
            start = noise(settings.seed, player.shape(latent_frames), first_frame=chunk.start)
            latents, evaluations = player.sample(audio[first:last], y, image, text, start, audio_mask, self.seconds)
            self.evaluations += evaluations
            yield joiner.add(np.concatenate([_brightness(video) for video in player.video_of(latents, self.seconds)]))


def _brightness(video: Float32) -> Float32:
    """[t, 3, H, W] in [-1, 1] -> [t, H, W, 3] in [0, 1]."""
    return (video.transpose(0, 2, 3, 1) + np.float32(1)) / np.float32(2)
