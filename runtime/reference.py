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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import checkpoints
from ..core.checkpoints import Checkpoint
from ..core.config import TEMPORAL_STRIDE, ClipSpec, ModelConfig, Variant
from ..core.errors import ConfigError, EngineError, InputError
from ..core.phases import PhaseWeights
from ..core.plan import SamplingPlan, WindowRule, check_choice, check_count, check_seed
from ..core.pretrained_image import CLIP_VIT_H, PictureEncoderConfig
from ..core.pretrained_speech import WAV2VEC2_BASE, SpeechEncoderConfig
from ..core.pretrained_text import UMT5_XXL, PromptEncoderConfig
from ..core.samplers import PLAN_PRESETS, AudioGuidance, FeatureReuse, NoGuidance, PlanOptions, TextAudioGuidance, build_plan
from ..core.tiny_vae import TAEW, TinyVAEConfig
from .engines.reference import Loader, ReferenceEngine
from .player import Float32, Player, Progress, Score, StepTables, _silent

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODERS = ("full", "tiny")
LONG_VIDEO = ("windows", "chunks")
NEGATIVE = "negative"  # the name of the negative prompt among the plan's text conditions
NEGATIVE_PROMPT = "blurry picture, distorted face, frozen mouth, deformed hands, flicker"


@dataclass(frozen=True)
class Settings:
    """How the reference model is played. None stands for the released pipeline's own value.

    `window` and `overlap` are video frames and latent frames. `guidance` is the strength of the text, which only preview knows;
    `audio_guidance` that of the speech (1 switches it off). `audio_scale` multiplies what the audio attention adds. `reuse` is the
    threshold of feature reuse. `upstream_compat` repeats the original's defects wherever an option of the plan knows them.
    """

    steps: int | None = None
    solver: str | None = None
    shift: float | None = None
    guidance: float | None = None
    audio_guidance: float | None = None
    audio_scale: float = 1.0
    negative_prompt: str = NEGATIVE_PROMPT
    window: int = 81
    overlap: int = 4
    long_video: str = "windows"
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
        check_count("window", self.window, 5, 10_000)
        check_seed(self.seed)
        if (self.window - 1) % TEMPORAL_STRIDE:
            raise ConfigError(f"The window is {self.window} frames; it must be 4n+1, such as {(self.window - 1) // 4 * 4 + 1}.")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"There is no device {self.device!r}. Choose cpu, cuda or cuda:1.") from error
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
            raise EngineError(f"PyTorch cannot compute on {self.device!r} here. Choose cpu, or install a build with CUDA.")


def plan_options(variant: Variant, settings: Settings) -> PlanOptions:
    """The plan's options: those of the released pipeline with what `settings` change.

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
        if settings.guidance is not None:
            raise ConfigError(f"guidance is {settings.guidance}; flash has none of the text, only audio_guidance.")
        assert isinstance(options.guidance, AudioGuidance)
        changes["guidance"] = options.guidance if audio is None else replace(options.guidance, scale=audio)
    elif settings.guidance is not None and settings.guidance <= 1:
        changes["guidance"] = NoGuidance()
    else:
        guidance = options.guidance
        assert isinstance(guidance, TextAudioGuidance)
        text = guidance.text if settings.guidance is None else settings.guidance
        audio = guidance.audio if audio is None else audio
        changes["guidance"] = replace(guidance, text=text, audio=audio, negative=NEGATIVE, upstream_compat=compat)
    if settings.long_video == "windows":
        length = (settings.window - 1) // TEMPORAL_STRIDE + 1
        anchor = "window" if compat else "clip"
        changes["window"] = WindowRule(length=length, overlap=settings.overlap, anchor=anchor, upstream_compat=compat)
    if settings.reuse is not None:
        changes["reuse"] = FeatureReuse(threshold=settings.reuse, upstream_compat=compat)
    if settings.audio_scale != 1.0:
        changes["modality"] = PhaseWeights(points=((1.0, (1.0, 1.0, settings.audio_scale)),))
    return replace(options, **changes)


@dataclass(frozen=True)
class Sizes:
    """The configurations of a checkpoint's parts; those of the released files by default."""

    model: ModelConfig
    image: PictureEncoderConfig = CLIP_VIT_H
    speech: SpeechEncoderConfig = WAV2VEC2_BASE
    text: PromptEncoderConfig = UMT5_XXL
    tiny: TinyVAEConfig = TAEW


def loaders(checkpoint: Checkpoint, sizes: Sizes, settings: Settings) -> dict[str, Loader]:
    """What the engine loads its parts with. CLIP and wav2vec2 compute in float32, umT5 in bfloat16, as published; the transformer
    and the VAE in the type that was asked for."""
    dtype, device = DTYPES[settings.dtype], settings.device
    found: dict[str, Loader] = {
        "transformer": partial(checkpoints.load_transformer, checkpoint, dtype, device, sizes.model),
        "vae": partial(checkpoints.load_vae, checkpoint, dtype, device, sizes.model.vae),
        "image_encoder": partial(checkpoints.load_image_encoder, checkpoint, torch.float32, device, sizes.image),
        "speech_encoder": partial(checkpoints.load_speech_encoder, checkpoint, torch.float32, device, sizes.speech),
    }
    if settings.decoder == "tiny":
        found["decoder"] = partial(checkpoints.load_tiny_vae, checkpoint, device, sizes.tiny)
    if checkpoint.paths["text_encoder"]:
        found["text_encoder"] = partial(checkpoints.load_text_encoder, checkpoint, torch.bfloat16, device, sizes.text)
    return found


def memory_needed(sizes: Sizes, clip: ClipSpec, plan: SamplingPlan, settings: Settings) -> dict[str, int]:
    """Bytes that each stage of playing `clip` takes at once: weights, conditions per window and branch, activations, states.

    Activations are those of the widest moment of a block: the feed-forward's hidden layer, or the logits of cross-attention.
    """
    model, size = sizes.model, DTYPES[settings.dtype].itemsize
    rule = plan.window or WindowRule(length=clip.latent_frames, overlap=0)
    length = min(rule.length, clip.latent_frames)
    spans = max(1, -(-(clip.latent_frames - length) // (length - rule.overlap)) + 1) if length == rule.length else 1
    tokens = length * clip.tokens_per_frame
    keys = model.text_len + model.image_tokens
    with torch.device("meta"):
        weights = {part: sum(p.numel() for p in module.parameters()) for part, module in _modules(sizes).items()}
    conditions = 2 * model.layers * (keys + model.audio.tokens * length) * model.dim + tokens * model.dim
    moment = max(tokens * (2 * model.ffn_dim + 4 * model.dim), 2 * model.heads * tokens * keys)
    latents = model.latent_channels * clip.latent_frames * clip.latent_height * clip.latent_width
    area = clip.height * clip.width
    return {
        "transformer": size * weights["transformer"],
        "conditions": size * spans * len(plan.branches) * conditions,
        "one step": size * (moment + 6 * tokens * model.dim) + 4 * (plan.steps + 2) * latents,
        "vae": size * (weights["vae"] + 2 * VAE_STATE_PER_PIXEL * area * model.vae.dim // 96),
    }


VAE_STATE_PER_PIXEL = 155_000_000 // 256**2  # elements of the decoder's state at full width (docs/FIGURES.md)


def _modules(sizes: Sizes) -> dict[str, torch.nn.Module]:
    from ..core.transformer import DiT
    from ..core.vae import VAE

    return {"transformer": DiT(sizes.model), "vae": VAE(sizes.model.vae)}


# -- prompts -----------------------------------------------------------------------------------------------------------------------


def read_prompts(path: Path, text_dim: int) -> dict[str, Float32]:
    """A prompt pack: {prompt: rows [L, text_dim] float32}.

    Raises:
        InputError: it is not a safetensors file of such rows.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"The prompt pack {path} cannot be read ({error}). Make one with: echoedge checkpoint prompts") from error
    for prompt, rows in found.items():
        if rows.ndim != 2 or rows.shape[1] != text_dim:
            raise InputError(
                f"In {path} the prompt {prompt!r} has shape {list(rows.shape)}; this model's are [tokens, {text_dim}]. The pack is "
                "another model's."
            )
    return {prompt: rows.float().numpy() for prompt, rows in found.items()}


def encode_prompts(
    checkpoint: Checkpoint, prompts: list[str], sizes: Sizes, device: str = "cpu", progress: Progress = _silent
) -> dict[str, Tensor]:
    """{prompt: rows [L, text_dim]} as umT5 gives them, in bfloat16, without padding.

    Raises:
        CheckpointError: the text encoder or its tokenizer is missing or not the right one.
        InputError: a prompt has more tokens than the model reads.
    """
    tokenizer = checkpoints.load_tokenizer(checkpoint)
    encoder = checkpoints.load_text_encoder(checkpoint, torch.bfloat16, device, sizes.text)
    encoded = {}
    for index, prompt in enumerate(dict.fromkeys(prompts)):
        found = tokenizer.ids(prompt, sizes.model.text_len)
        if found.cut:
            raise InputError(f"The prompt {prompt!r} is {found.cut} tokens longer than the {sizes.model.text_len} that fit.")
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

    checkpoint: Checkpoint
    clip: ClipSpec  # its frames are the most that are played
    settings: Settings
    sizes: Sizes
    prompts: Mapping[str, Float32] = field(default_factory=dict)
    resident: bool = False
    progress: Progress = _silent
    warn: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)  # wall time by stage, once frames have been played
    evaluations: int = 0

    def __post_init__(self) -> None:
        model = self.sizes.model
        self.engine = ReferenceEngine(
            model, loaders(self.checkpoint, self.sizes, self.settings), self.clip.samples_per_frame, self.settings.device,
            keep_residuals=self.settings.reuse is not None, resident=self.resident,
        )  # fmt: skip
        self.options = plan_options(model.variant, self.settings)
        self.plan = build_plan(self.options, modulation=self._modulation)
        self.score = Score(
            model, self.clip, self.plan, self._tables, model.text_len, None, self.prompts, tokenise=self._tokenise
        )  # fmt: skip
        self.player = Player(self.score, self.engine, self.progress)

    def _modulation(self, timesteps: Any) -> NDArray[np.float64]:
        return self.engine.step_tables(timesteps)["modulation"].reshape(len(timesteps), -1).astype(np.float64)

    def _tables(self) -> StepTables:
        return self.engine.step_tables(self.plan.timesteps)

    def _tokenise(self, prompt: str, most: int) -> tuple[Tensor, int]:
        found = checkpoints.load_tokenizer(self.checkpoint).ids(prompt, most)
        length = int(found.mask.sum())
        if found.cut:
            self.warn(f"The prompt is {found.cut} tokens longer than the {most} that the model reads; the rest is left out.")
        return found.ids[None, :length], length

    def frames(
        self, portrait: Float32, speech: Float32, prompt: str = "", audio_mask: Float32 | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """portrait [3, H, W] in [-1, 1], speech [n] -> the clip's frames, uint8 [H, W, 3], as they are decoded; at most the clip's.

        audio_mask [S]: 1 where a frame's tokens hear the speech; the original has no use for one without text guidance.

        Raises:
            InputError: the speech is shorter than a frame, or the prompt cannot be read.
        """
        if self.settings.upstream_compat and isinstance(self.options.guidance, NoGuidance):
            audio_mask = None
        speech = speech[: self.clip.frames * self.clip.samples_per_frame]
        texts = {NEGATIVE: self.settings.negative_prompt}
        take = self.player.perform(portrait, speech, prompt, self.settings.seed, texts, audio_mask)
        self.seconds, self.evaluations = take.seconds, take.evaluations
        yield from self.player.frames_of(take)
        self.engine.release()
