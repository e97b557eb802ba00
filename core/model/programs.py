"""The reference model as the programs of a bundle: names, methods, inputs and outputs, the same in every target.

    audio_encoder      waveform [, moments, present] -> features                      nano's, or wav2vec2
    image_encoder      portrait -> tokens                                             nano's, or CLIP's visual tower
    text_encoder       ids -> embeddings                                              nano only: other models play prompt packs
    vae_encode         first: video -> latents, state; next: video, state -> latents, state
    text_conditions    text -> keys and values                                        per prompt and strength
    image_conditions   image tokens -> keys and values                                per portrait
    audio_conditions   audio [, audio_present] -> keys and values                     per window
    patch_conditions   y -> patch bias                                                per clip, or per window
    denoise            latents, step tables, modality weights, conditions -> velocity [, residual]
    denoise_reusing    latents, time, residual, patch bias -> velocity                where the plan reuses features
    vae_decode         first: latents -> video, state; next: latents, state -> video, state; of the VAE or of the tiny one

Streaming programs carry the VAE's state as explicit tensors named state_0, state_1, …

Each program is made by a function of its own from the modules that it needs, so that a process can make one without the rest of
the model. Nothing is computed for that: shapes are read off the modules with tensors that have no data, and example inputs that
another program would have made (state, conditions, residual) are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bundle import Hearing
from ..config import AUDIO_PATHS, TEMPORAL_STRIDE, ClipSpec, ModelConfig, Variant
from ..sampling.hearing import window_rows
from ..sampling.inputs import PAD_ID
from .architecture import skeleton
from .conditions import Conditions
from .encoders import NanoAudioEncoder, NanoEncoders, NanoImageEncoder, NanoTextEncoder
from .pretrained_image import PictureEncoder
from .pretrained_speech import SpeechEncoder, SpeechEncoderConfig
from .tiny_vae import TinyVAE
from .transformer import DiT, unpatchify
from .vae import VAE

CONDITION_INPUTS = [name for name in Conditions.names() if name not in ("text_bias", "audio_mask")]


@dataclass(frozen=True)
class Spec:
    """What is known of a tensor before it exists."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EntryPoint:
    """One method of a program to be: a module, example inputs by name (they fix the shapes), and the names of its outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]

    @torch.no_grad()
    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*tensors)
        return result if isinstance(result, tuple) else (result,)

    def output_specs(self) -> list[Spec]:
        """The outputs' names, types and shapes, from a pass that computes nothing and reads no weights."""
        results = _faked(self.module, *self.inputs.values())
        return [Spec(name, x.dtype, tuple(x.shape)) for name, x in zip(self.outputs, results, strict=True)]

    def drawn(self, seed: int = 0) -> dict[str, Tensor]:
        """Inputs of the examples' shapes with nothing zero: normal values where they are floats, the examples where they are
        integers."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(x.shape, generator=generator, dtype=x.dtype) if x.is_floating_point() else x
            for name, x in self.inputs.items()
        }


EntryPoints = dict[str, EntryPoint]  # of a program, by the method's name


@dataclass(frozen=True)
class Model:
    """A loaded model: everything that programs are made from."""

    config: ModelConfig
    dit: DiT
    vae: VAE
    encoders: NanoEncoders | None


class SpeechPerFrame(nn.Module):
    """flash's ear: a part of a voice, what is known of all of it, and which frames are there (core/sampling/hearing.py)
    -> [1, frames, layers, channels]."""

    def __init__(self, encoder: SpeechEncoder, frames: int, samples_per_frame: int) -> None:
        super().__init__()
        self.encoder, self.frames, self.samples_per_frame = encoder, frames, samples_per_frame

    def forward(self, waveform: Tensor, moments: Tensor, present: Tensor) -> Tensor:
        return self.encoder.per_frame(waveform, self.frames, moments, present)


class SpeechPerToken(nn.Module):
    """preview's ear: as `SpeechPerFrame`, with two rows a frame, the last one's second left out -> [1, 2·frames - 1, channels]."""

    def __init__(self, encoder: SpeechEncoder, frames: int, samples_per_frame: int) -> None:
        super().__init__()
        self.encoder, self.frames, self.samples_per_frame = encoder, frames, samples_per_frame

    def forward(self, waveform: Tensor, moments: Tensor, present: Tensor) -> Tensor:
        return self.encoder.per_token(waveform, moments, present)


class PortraitEncoder(nn.Module):
    """CLIP's visual tower for portraits of one size, [1, 3, height, width] in [-1, 1] -> [1, 1 + patches, dim]."""

    def __init__(self, encoder: PictureEncoder, height: int, width: int) -> None:
        super().__init__()
        self.encoder, self.height, self.width = encoder, height, width

    def forward(self, portrait: Tensor) -> Tensor:
        return self.encoder(portrait)


class EncodeConditions(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(
        self, y: Tensor, text: Tensor, image: Tensor, audio: Tensor, audio_present: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        conditions = self.dit.encode_conditions(y, text, image, audio, audio_present)
        return tuple(getattr(conditions, name) for name in CONDITION_INPUTS)


class TextConditions(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(self, text: Tensor) -> tuple[Tensor, ...]:
        return self.dit.text_keys_values(text)


class ImageConditions(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.dit.image_keys_values(image)


class AudioConditions(nn.Module):
    def __init__(self, dit: DiT, latent_frames: int) -> None:
        super().__init__()
        self.dit, self.latent_frames = dit, latent_frames

    def forward(self, audio: Tensor, audio_present: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.dit.audio_keys_values(audio, self.latent_frames, audio_present)


class PatchConditions(nn.Module):
    """As `DiT.patch_bias`, of the patch embedding alone."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.patch_embedding, self.first = dit.patch_embedding, dit.config.latent_channels

    def forward(self, y: Tensor) -> Tensor:
        return self.patch_embedding(y, self.first, self.first + y.shape[1]) + self.patch_embedding.bias


class Denoise(nn.Module):
    """The step, with the rotary tables of its fixed shape as constants."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dit: DiT, clip: ClipSpec, keep_residual: bool) -> None:
        super().__init__()
        self.dit = dit
        self.keep_residual = keep_residual
        shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
        cos, sin = dit.rope(torch.empty(shape, device=_device_of(dit)))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self, latents: Tensor, time: Tensor, modulation: Tensor, modality_weights: Tensor, *conditions: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        result = self.dit.denoise_keeping(
            latents, time, modulation, modality_weights, Conditions(*conditions), (self.cos, self.sin)
        )
        return result if self.keep_residual else result[0]


class DenoiseReusing(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.patch_embedding, self.head, self.channels = dit.patch_embedding, dit.head, dit.config.latent_channels

    def forward(self, latents: Tensor, time: Tensor, residual: Tensor, patch_bias: Tensor) -> Tensor:
        x = self.patch_embedding(latents, 0, self.channels) + patch_bias + residual
        return unpatchify(self.head(x, time), *latents.shape[2:])


class StreamChunk(nn.Module):
    """One chunk of the VAE with its state flattened into arguments and results."""

    def __init__(self, vae: VAE | TinyVAE, encode: bool, first: bool) -> None:
        super().__init__()
        self.vae, self.encode, self.first = vae, encode, first

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        step = self.vae.encode_chunk if self.encode else self.vae.decode_chunk
        y, kept = step(x, None if self.first else list(state))
        return (y, *kept)


# -- one function for each program -------------------------------------------------------------------------------------------------


def audio_encoder_program(
    encoder: NanoAudioEncoder | SpeechEncoder, clip: ClipSpec, variant: Variant = "flash", context_frames: int = 0
) -> EntryPoints:
    """waveform [1, samples] -> features, [1, frames, layers, channels] (flash) or [1, 2·frames - 1, channels] (preview).

    nano's hears a clip and `context_samples` beyond it; the released one a clip with `context_frames` on either side, what is known
    of the whole voice and which rows are there (see `hearing_for`).
    """
    if isinstance(encoder, NanoAudioEncoder):
        samples = clip.frames * clip.samples_per_frame + encoder.context_samples
        return {"forward": EntryPoint(encoder.eval(), {"waveform": 0.1 * _random(1, samples)}, ["features"])}
    frames = clip.frames + 2 * context_frames
    samples = frames * clip.samples_per_frame
    kind, rows = (SpeechPerFrame, frames) if AUDIO_PATHS[variant].per_frame else (SpeechPerToken, encoder.config.rows(samples))
    kernel = encoder.config.conv_kernels[0]
    inputs = {"waveform": _random(1, samples), "moments": _random(1, kernel + 1, kernel), "present": torch.ones(1, rows)}
    return {"forward": EntryPoint(kind(encoder, frames, clip.samples_per_frame).eval(), inputs, ["features"])}


def hearing_for(config: ModelConfig, encoder: SpeechEncoderConfig, context_frames: int) -> Hearing:
    """How a player hears with the released encoder's program, `context_frames` on either side."""
    window = (encoder.conv_kernels[0], encoder.conv_strides[0])
    return Hearing.of(config).model_copy(update={"context_frames": context_frames, "window": window})


def image_encoder_program(encoder: NanoImageEncoder | PictureEncoder, clip: ClipSpec) -> EntryPoints:
    """portrait [1, 3, H, W] in [-1, 1], of the clip's size -> tokens [1, image_tokens, image_dim]."""
    portrait = _random(1, 3, clip.height, clip.width).clamp(-1, 1)
    module = PortraitEncoder(encoder, clip.height, clip.width) if isinstance(encoder, PictureEncoder) else encoder
    return {"forward": EntryPoint(module.eval(), {"portrait": portrait}, ["tokens"])}


def text_encoder_program(encoder: NanoTextEncoder, config: ModelConfig) -> EntryPoints:
    """ids [1, text_len] -> embeddings [1, text_len, text_dim]."""
    ids = torch.full((1, config.text_len), PAD_ID, dtype=torch.int64)
    ids[0, :5] = torch.tensor(list(b"a man"))
    return {"forward": EntryPoint(encoder.eval(), {"ids": ids}, ["embeddings"])}


def vae_encode_program(vae: VAE, clip: ClipSpec) -> EntryPoints:
    """first: video [1, 1, 3, H, W]; next: video [1, 4, 3, H, W] and state -> latents [1, 16, 1, h, w], state.

    Only the VAE encodes clips: the tiny autoencoder looks three frames ahead, which no chunk of a stream holds (tiny_vae.py).
    """
    return _stream_program(vae, clip, encode=True)


def vae_decode_program(vae: VAE | TinyVAE, clip: ClipSpec) -> EntryPoints:
    """first: latents [1, 16, 1, h, w] -> video [1, 1, 3, H, W], state; next: latents and state -> video [1, 4, 3, H, W], state."""
    return _stream_program(vae, clip, encode=False)


def text_conditions_program(dit: DiT, text_rows: int) -> EntryPoints:
    """text [1, text_rows, text_dim] -> keys and values [layers, 1, text_rows, D]; of every clip shape."""
    inputs = {"text": _random(1, text_rows, dit.config.text_dim, seed=1)}
    return {"forward": EntryPoint(TextConditions(dit).eval(), inputs, ["text_k", "text_v"])}


def image_conditions_program(dit: DiT) -> EntryPoints:
    """image [1, image_tokens, image_dim] -> keys and values [layers, 1, image_tokens, D]; of every clip shape."""
    inputs = {"image": _random(1, dit.config.image_tokens, dit.config.image_dim, seed=2)}
    return {"forward": EntryPoint(ImageConditions(dit).eval(), inputs, ["image_k", "image_v"])}


def audio_conditions_program(dit: DiT, clip: ClipSpec) -> EntryPoints:
    """audio [, audio_present] of a window (see `DiT.encode_conditions`) -> keys and values [layers, 1, F·tokens, D]."""
    inputs = {name: x for name, x in given_examples(dit.config, clip, 1).items() if name.startswith("audio")}
    return {"forward": EntryPoint(AudioConditions(dit, clip.latent_frames).eval(), inputs, ["audio_k", "audio_v"])}


def patch_conditions_program(dit: DiT, clip: ClipSpec) -> EntryPoints:
    """y [1, 20, F, h, w] -> patch bias [1, N, D]."""
    return {"forward": EntryPoint(PatchConditions(dit).eval(), {"y": given_examples(dit.config, clip, 1)["y"]}, ["patch_bias"])}


def denoise_program(dit: DiT, clip: ClipSpec, text_rows: int, reuse: bool = False) -> EntryPoints:
    """latents, time [1, D], modulation [1, 6, D], modality_weights [1, 3, F], conditions -> velocity, and residual with `reuse`."""
    config = dit.config
    step = _step_inputs(config, clip) | {
        "modulation": _random(1, 6, config.dim, seed=2),
        "modality_weights": torch.ones(1, 3, clip.latent_frames),
    }
    shapes = condition_shapes(config, clip, text_rows)
    step |= {field.name: _zeros(*shapes[field.name]) for field in fields(Conditions)}
    step["audio_mask"] = torch.ones(1, clip.tokens_per_frame)
    outputs = ["velocity", "residual"] if reuse else ["velocity"]
    return {"forward": EntryPoint(Denoise(dit, clip, keep_residual=reuse).eval(), step, outputs)}


def denoise_reusing_program(dit: DiT, clip: ClipSpec) -> EntryPoints:
    """latents, time [1, D], residual and patch_bias [1, N, D] -> velocity. Reads the patch embedding and the head alone."""
    tokens = (1, clip.tokens, dit.config.dim)
    inputs = _step_inputs(dit.config, clip) | {"residual": _zeros(*tokens), "patch_bias": _zeros(*tokens)}
    return {"forward": EntryPoint(DenoiseReusing(dit).eval(), inputs, ["velocity"])}


def build_programs(model: Model, clip: ClipSpec, text_rows: int, reuse: bool = False) -> dict[str, EntryPoints]:
    """The programs that play `model` on clips of `clip`'s shape; `text_rows` prompt rows (see `collapse_padding`)."""
    programs: dict[str, EntryPoints] = {}
    if model.encoders is not None:
        programs["audio_encoder"] = audio_encoder_program(model.encoders.audio, clip)
        programs["image_encoder"] = image_encoder_program(model.encoders.image, clip)
        programs["text_encoder"] = text_encoder_program(model.encoders.text, model.config)
    programs["vae_encode"] = vae_encode_program(model.vae, clip)
    programs["text_conditions"] = text_conditions_program(model.dit, text_rows)
    programs["image_conditions"] = image_conditions_program(model.dit)
    programs["audio_conditions"] = audio_conditions_program(model.dit, clip)
    programs["patch_conditions"] = patch_conditions_program(model.dit, clip)
    programs["denoise"] = denoise_program(model.dit, clip, text_rows, reuse)
    if reuse:
        programs["denoise_reusing"] = denoise_reusing_program(model.dit, clip)
    programs["vae_decode"] = vae_decode_program(model.vae, clip)
    return programs


# -- shapes and examples -----------------------------------------------------------------------------------------------------------


def condition_shapes(config: ModelConfig, clip: ClipSpec, text_rows: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a clip's `Conditions` by field, read off a model without data."""
    given = {name: torch.empty(shape, device="meta") for name, shape in given_shapes(config, clip, text_rows).items()}
    conditions = skeleton(DiT, config).encode_conditions(**given)
    return {name: tuple(getattr(conditions, name).shape) for name in Conditions.names()}


def given_shapes(config: ModelConfig, clip: ClipSpec, text_rows: int) -> dict[str, tuple[int, ...]]:
    """The shapes of what conditions are made from."""
    latent, audio, hearing = (clip.latent_frames, clip.latent_height, clip.latent_width), config.audio, Hearing.of(config)
    rows = window_rows(hearing, clip.latent_frames)
    features = (2 * hearing.neighbours + 1, audio.layers, audio.channels) if hearing.neighbours else (audio.channels,)
    return {
        "y": (1, config.mask_channels + config.latent_channels, *latent),
        "text": (1, text_rows, config.text_dim),
        "image": (1, config.image_tokens, config.image_dim),
        "audio": (1, rows, *features),
        **({"audio_present": (1, rows)} if hearing.beyond_frames else {}),
    }


def given_examples(config: ModelConfig, clip: ClipSpec, text_rows: int) -> dict[str, Tensor]:
    """Normal values of those shapes; all rows of the speech are there."""
    shapes = given_shapes(config, clip, text_rows)
    examples = {name: _random(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}
    return examples | ({"audio_present": torch.ones(shapes["audio_present"])} if "audio_present" in shapes else {})


def _step_inputs(config: ModelConfig, clip: ClipSpec) -> dict[str, Tensor]:
    latents = (1, config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
    return {"latents": _random(*latents), "time": _random(1, config.dim, seed=1)}


def _stream_program(vae: VAE | TinyVAE, clip: ClipSpec, encode: bool) -> EntryPoints:
    config: Any = vae.config
    source, result = ("video", "latents") if encode else ("latents", "video")

    def example(frames: int) -> Tensor:
        if encode:
            return _random(1, frames, 3, clip.height, clip.width).clamp(-1, 1)
        return _random(1, config.latent_channels, 1, clip.latent_height, clip.latent_width)

    first = StreamChunk(vae, encode, first=True).eval()
    state = _faked(first, example(1))[1:]
    names = [f"state_{i}" for i in range(len(state))]
    program = {"first": EntryPoint(first, {source: example(1)}, [result, *names])}
    if clip.latent_frames > 1:
        inputs = {source: example(TEMPORAL_STRIDE)} | {name: _zeros(*x.shape) for name, x in zip(names, state, strict=True)}
        program["next"] = EntryPoint(StreamChunk(vae, encode, first=False).eval(), inputs, [result, *names])
    return program


@torch.no_grad()
def _faked(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The results of `module` as tensors that have a type and a shape but no data."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    device = _device_of(module)
    with FakeTensorMode(allow_non_fake_inputs=True):
        result = module(*(torch.empty(x.shape, dtype=x.dtype, device=device) for x in inputs))
    return result if isinstance(result, tuple) else (result,)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _zeros(*shape: int) -> Tensor:
    """Zeros that take no memory before they are written to, of torch's default type."""
    return torch.from_numpy(np.zeros(shape, torch.empty(0).numpy().dtype))


def _device_of(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
