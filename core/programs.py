"""The reference model as the programs of a bundle: names, methods, inputs and outputs, the same in every target.

    audio_encoder      waveform -> features                                           nano; wav2vec2 elsewhere
    image_encoder      portrait -> tokens
    text_encoder       ids -> embeddings                                              nano only: other models play prompt packs
    vae_encode         first: video -> latents, state; next: video, state -> latents, state
    encode_conditions  y, text, image, audio -> keys and values, patch bias
    denoise            latents, step tables, modality weights, conditions -> velocity [, residual]
    denoise_reusing    latents, time, residual, patch bias -> velocity                where the plan reuses features
    vae_decode         first: latents -> video, state; next: latents, state -> video, state

Streaming programs carry the VAE's state as explicit tensors named state_0, state_1, …
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from .conditions import AUDIO_RADIUS, Conditions
from .config import TEMPORAL_STRIDE, ClipSpec, ModelConfig
from .encoders import PAD_ID, NanoEncoders
from .transformer import DiT, unpatchify
from .vae import VAE

CONDITION_INPUTS = [name for name in Conditions.names() if name not in ("text_bias", "audio_mask")]


@dataclass(frozen=True)
class Method:
    """One entry point: a module, example inputs by name (they fix the shapes), and the names of its outputs."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]

    @torch.no_grad()
    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*tensors)
        return result if isinstance(result, tuple) else (result,)


Program = dict[str, Method]


@dataclass(frozen=True)
class Model:
    """A loaded model: everything that programs are made from."""

    config: ModelConfig
    dit: DiT
    vae: VAE
    encoders: NanoEncoders | None


class EncodeConditions(nn.Module):
    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(self, y: Tensor, text: Tensor, image: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        conditions = self.dit.encode_conditions(y, text, image, audio)
        return tuple(getattr(conditions, name) for name in CONDITION_INPUTS)


class Denoise(nn.Module):
    """The step, with the rotary tables of its fixed shape as constants."""

    cos: Tensor
    sin: Tensor

    def __init__(self, dit: DiT, clip: ClipSpec, keep_residual: bool) -> None:
        super().__init__()
        self.dit = dit
        self.keep_residual = keep_residual
        shape = (1, dit.config.latent_channels, clip.latent_frames, clip.latent_height, clip.latent_width)
        cos, sin = dit.rope(torch.empty(shape))
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

    def __init__(self, vae: VAE, encode: bool, first: bool) -> None:
        super().__init__()
        self.vae, self.encode, self.first = vae, encode, first

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        step = self.vae.encode_chunk if self.encode else self.vae.decode_chunk
        y, kept = step(x, None if self.first else list(state))
        return (y, *kept)


def _stream_program(vae: VAE, clip: ClipSpec, encode: bool) -> Program:
    z = vae.config.latent_channels
    source, result = ("video", "latents") if encode else ("latents", "video")
    generator = torch.Generator().manual_seed(0)

    def example(frames: int) -> Tensor:
        if encode:
            return torch.rand(1, frames, 3, clip.height, clip.width, generator=generator) * 2 - 1
        return torch.randn(1, z, 1, clip.latent_height, clip.latent_width, generator=generator)

    first = StreamChunk(vae, encode, first=True).eval()
    with torch.no_grad():
        state = first(example(1))[1:]
    names = [f"state_{i}" for i in range(len(state))]
    program = {"first": Method(first, {source: example(1)}, [result, *names])}
    if clip.latent_frames > 1:
        inputs = {source: example(TEMPORAL_STRIDE), **dict(zip(names, state, strict=True))}
        program["next"] = Method(StreamChunk(vae, encode, first=False).eval(), inputs, [result, *names])
    return program


def build_programs(model: Model, clip: ClipSpec, text_rows: int, reuse: bool = False) -> dict[str, Program]:
    """The programs that play `model` on clips of `clip`'s shape; `text_rows` prompt rows (see `collapse_padding`)."""
    config, dit = model.config, model.dit
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    programs: dict[str, Program] = {}
    if model.encoders is not None:
        encoders = model.encoders
        samples = clip.frames * clip.samples_per_frame + encoders.audio.context_samples
        ids = torch.full((1, config.text_len), PAD_ID, dtype=torch.int64)
        ids[0, :5] = torch.tensor(list(b"a man"))
        programs["audio_encoder"] = {"forward": Method(encoders.audio, {"waveform": 0.1 * random(1, samples)}, ["features"])}
        portrait = random(1, 3, clip.height, clip.width).clamp(-1, 1)
        programs["image_encoder"] = {"forward": Method(encoders.image, {"portrait": portrait}, ["tokens"])}
        programs["text_encoder"] = {"forward": Method(encoders.text, {"ids": ids}, ["embeddings"])}
    programs["vae_encode"] = _stream_program(model.vae, clip, encode=True)

    latent = (clip.latent_frames, clip.latent_height, clip.latent_width)
    audio = (clip.frames, 2 * AUDIO_RADIUS + 1, config.audio.layers, config.audio.channels)
    if config.variant == "preview":
        audio = (2 * clip.frames, config.audio.channels)  # type: ignore[assignment]
    inputs = {
        "y": random(1, config.mask_channels + config.latent_channels, *latent),
        "text": random(1, text_rows, config.text_dim),
        "image": random(1, config.image_tokens, config.image_dim),
        "audio": random(1, *audio),
    }
    encode = EncodeConditions(dit).eval()
    method = Method(encode, inputs, CONDITION_INPUTS)
    programs["encode_conditions"] = {"forward": method}

    encoded = dict(zip(CONDITION_INPUTS, method.run(*inputs.values()), strict=True))
    conditions = encoded | {"text_bias": torch.zeros(1, text_rows), "audio_mask": torch.ones(1, clip.tokens_per_frame)}
    with torch.no_grad():
        time, modulation = dit.step_tables(torch.tensor([500.0]))
    step = {
        "latents": random(1, config.latent_channels, *latent),
        "time": time,
        "modulation": modulation,
        "modality_weights": torch.ones(1, 3, clip.latent_frames),
    } | {field.name: conditions[field.name] for field in fields(Conditions)}
    outputs = ["velocity", "residual"] if reuse else ["velocity"]
    denoise = Method(Denoise(dit, clip, keep_residual=reuse).eval(), step, outputs)
    programs["denoise"] = {"forward": denoise}
    if reuse:
        residual = denoise.run(*step.values())[1]
        inputs = {"latents": step["latents"], "time": time, "residual": residual, "patch_bias": conditions["patch_bias"]}
        programs["denoise_reusing"] = {"forward": Method(DenoiseReusing(dit).eval(), inputs, ["velocity"])}

    programs["vae_decode"] = _stream_program(model.vae, clip, encode=False)
    return programs
