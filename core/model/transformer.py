"""The diffusion transformer of EchoMimicV3, both released variants and nano's options, readable from top to bottom.

Layouts: B batch, F latent frames, h×w latent pixels, N = F·S tokens with S = h/2·w/2, D model width. Tokens are frame-major,
then row, then column. Parameter names are those of the released checkpoints; the flash file's `q_audio` is dead weight and has
no place here.

    1. embed     patches of the noisy latents, plus the patch bias of the conditions
    2. blocks    self-attention and feed-forward, modulated by the timestep; cross-attention to text, image and audio
    3. head      modulated norm, projection, unpatchify -> velocity

`forward` is `denoise` after `encode_conditions`: what does not depend on the latents is computed once per clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PATCH, ModelConfig
from ..errors import ConfigError
from .attention import CrossAttention, LayerConditions, Modality, Riflex, SelfAttention, rope_tables
from .conditions import AudioInjection, AudioToTokens, Conditions


def patchify(x: Tensor) -> Tensor:
    """[B, C, F, h, w] -> [B, N, C·4], channels outer, patch offsets inner (as the weight of a strided convolution)."""
    b, c, f, h, w = x.shape
    x = x.reshape(b, c, f * h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)  # [B, F·h/2, w/2, C, 2, 2]
    return x.reshape(b, f * h * w // PATCH**2, c * PATCH**2)


def unpatchify(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    """[B, N, 4·C], patch offsets outer, channels inner -> [B, C, F, h, w]."""
    b, _, channels = x.shape
    c = channels // PATCH**2
    x = x.view(b, frames * height // PATCH, width // PATCH, PATCH, PATCH, c).permute(0, 5, 1, 3, 2, 4)  # [B, C, F·h/2, 2, w/2, 2]
    return x.reshape(b, c, frames, height, width)


class PatchEmbedding(nn.Module):
    """Conv3d whose stride is its kernel, as one matrix product; noise, mask and masked-latent channels can be embedded apart."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, in_channels, 1, PATCH, PATCH))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """x: channels first … last-1 of the input, [B, last-first, F, h, w] -> [B, N, D] without bias."""
        return F.linear(patchify(x), self.weight[:, first:last].flatten(1))


class ImageProjection(nn.Module):
    """Image tokens [B, L, image_dim] -> [B, L, D]."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim, 1e-5),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim, 1e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Block(nn.Module):
    """One transformer block. `modulation` [1, 6, D]: shift, scale, gate of self-attention, then of the feed-forward."""

    def __init__(self, config: ModelConfig, coupled: bool) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.norm1 = nn.LayerNorm(dim, config.eps, elementwise_affine=False)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, config.eps)
        self.cross_attn = CrossAttention(config, coupled)
        self.norm2 = nn.LayerNorm(dim, config.eps, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rope: tuple[Tensor, Tensor],
        conditions: LayerConditions,
        weights: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """x: [B, N, D]; modulation: [B, 6, D] of the timestep -> [B, N, D]."""
        m = self.modulation + modulation
        a = self.norm1(x) * (m[:, 1:2] + 1.0) + m[:, 0:1]
        x = x + self.self_attn(a, *rope) * m[:, 2:3]
        x = x + self.cross_attn(self.norm3(x), conditions, weights)
        f = self.norm2(x) * (m[:, 4:5] + 1.0) + m[:, 3:4]
        return x + self.ffn(f) * m[:, 5:6]


class Head(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.norm = nn.LayerNorm(config.dim, config.eps, elementwise_affine=False)
        self.head = nn.Linear(config.dim, PATCH**2 * config.latent_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: [B, N, D]; time: [B, D] -> [B, N, 4·C]."""
        m = self.modulation + time.view(-1, 1, time.shape[-1])
        return self.head(self.norm(x) * (m[:, 1:2] + 1.0) + m[:, 0:1])


class DiT(nn.Module):
    """The model. All tensors float32 unless the caller converts the module; see the module docstring for layouts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        # 1. embed
        self.patch_embedding = PatchEmbedding(config.in_channels, dim)
        # conditions
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.img_emb = ImageProjection(config.image_dim, dim)
        if config.audio_path.per_frame:
            self.audio_injection = AudioInjection(config.audio, dim)
        else:
            self.audio2token = AudioToTokens(config.audio, dim)
        # timestep
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.flow_map:
            self.span_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        # 2. blocks
        self.blocks = nn.ModuleList(Block(config, coupled=i < config.coupled_layers) for i in range(config.layers))
        # 3. head
        self.head = Head(config)
        self.initialise()

    def initialise(self) -> None:
        """Fan-in initialisation; the head starts at zero, and so does what a student makes of the length of a step."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.head.head.weight)
        if self.config.flow_map:
            nn.init.zeros_(self.span_embedding[-1].weight)  # type: ignore[arg-type]

    # -- once per plan -------------------------------------------------------------------------------------------------------------

    def step_tables(self, timesteps: Tensor, spans: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """timesteps: [n] in 0 … 1000; spans: [n], by how much of that each step moves, which a student has to know -> time [n, D]
        (for the head) and modulation [n, 6, D] (for the blocks), in the dtype of the timestep MLP, which stays float32 in a model
        that is loaded in half precision.

        Raises:
            ConfigError: the model is a student, and there are no spans.
        """
        time = self.time_embedding(self._sinusoid(timesteps))
        if self.config.flow_map:
            if spans is None:
                raise ConfigError("A student gives the average velocity of a step, and has to be told how far each step goes.")
            time = time + self.span_embedding(self._sinusoid(spans))
        return time, self.time_projection(time).view(-1, 6, self.config.dim)

    def _sinusoid(self, timesteps: Tensor) -> Tensor:
        half = self.config.freq_dim // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
        angle = timesteps.double()[:, None] * frequencies
        return torch.cat([angle.cos(), angle.sin()], -1).to(self.time_projection[1].weight.dtype)  # type: ignore[arg-type]

    # -- once per clip and guidance branch -----------------------------------------------------------------------------------------

    def encode_conditions(
        self,
        y: Tensor,
        text: Tensor,
        image: Tensor,
        audio: Tensor,
        audio_present: Tensor | None = None,
        text_bias: Tensor | None = None,
        audio_mask: Tensor | None = None,
    ) -> Conditions:
        """y [B, 20, F, h, w]: mask (4 channels) and masked latents (16); text [B, L, text_dim] with its padding rows; image [B,
        image_tokens, image_dim]; audio: windows [B, T, 5, layers, channels] (flash) or features [B, L, channels] (preview),
        of which those at the end may be missing: audio_present [B, L], 1 or 0, all there by default.
        """
        b, _, frames, height, width = y.shape
        if text_bias is None:
            text_bias = text.new_zeros(b, text.shape[1])
        if audio_mask is None:
            audio_mask = text.new_ones(b, height * width // PATCH**2)
        return Conditions(
            self.patch_bias(y), *self.text_keys_values(text), text_bias, *self.image_keys_values(image),
            *self.audio_keys_values(audio, frames, audio_present), audio_mask,
        )  # fmt: skip

    def patch_bias(self, y: Tensor) -> Tensor:
        """y [B, 20, F, h, w] -> the patch embedding of what is known, with its bias, [B, N, D]."""
        first = self.config.latent_channels
        return self.patch_embedding(y, first, first + y.shape[1]) + self.patch_embedding.bias

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """text [B, L, text_dim] -> keys and values of every block, [layers, B, L, D]."""
        return self._keys_values("text", self.text_embedding(text))

    def image_keys_values(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [B, image_tokens, image_dim] -> keys and values of every block, [layers, B, image_tokens, D]."""
        return self._keys_values("image", self.img_emb(image))

    def audio_keys_values(self, audio: Tensor, latent_frames: int, audio_present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """audio as in `encode_conditions` -> keys and values of every block, [layers, B, F·tokens, D]."""
        return self._keys_values("audio", self.audio_tokens(audio, latent_frames, audio_present))

    def audio_tokens(self, audio: Tensor, latent_frames: int, audio_present: Tensor | None = None) -> Tensor:
        """audio as in `encode_conditions` -> [B, F·tokens, D]."""
        if self.config.audio_path.per_frame:
            return self.audio_injection(audio)
        return self.audio2token(audio, latent_frames, audio_present)

    def _keys_values(self, modality: Modality, tokens: Tensor) -> tuple[Tensor, Tensor]:
        per_block = [block.cross_attn.keys_values(modality, tokens) for block in self.blocks]  # type: ignore[union-attr, operator]
        keys, values = (torch.cat([tensor.view(1, *tensor.shape) for tensor in column]) for column in zip(*per_block, strict=True))
        return keys, values

    # -- once per step -------------------------------------------------------------------------------------------------------------

    def embed(self, latents: Tensor, conditions: Conditions) -> Tensor:
        return self.patch_embedding(latents, 0, self.config.latent_channels) + conditions.patch_bias

    def run_blocks(
        self, x: Tensor, modulation: Tensor, modality_weights: Tensor, conditions: Conditions, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x: [B, N, D]; modality_weights: [B, 3, F] of text, image, audio -> [B, N, D]."""
        b, _, f = modality_weights.shape
        text, image, audio = (modality_weights[:, i : i + 1].view(b, f, 1, 1) for i in range(3))
        weights = (text, image, audio * conditions.audio_mask.view(b, 1, -1, 1))
        for index, block in enumerate(self.blocks):
            x = block(x, modulation, rope, conditions.layer(index), weights)
        return x

    def rope(self, latents: Tensor, riflex: Riflex | None = None) -> tuple[Tensor, Tensor]:
        _, _, f, h, w = latents.shape
        cos, sin = rope_tables(self.config.head_dim, f, h // PATCH, w // PATCH, riflex)
        return cos.to(latents.device), sin.to(latents.device)

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        modulation: Tensor,
        modality_weights: Tensor,
        conditions: Conditions,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """latents [B, 16, F, h, w], step tables of one timestep -> velocity [B, 16, F, h, w]."""
        return self.denoise_keeping(latents, time, modulation, modality_weights, conditions, rope)[0]

    def denoise_keeping(
        self,
        latents: Tensor,
        time: Tensor,
        modulation: Tensor,
        modality_weights: Tensor,
        conditions: Conditions,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `denoise`; also what the blocks added to their input [B, N, D], for later steps to reuse."""
        x = self.embed(latents, conditions)
        y = self.run_blocks(x, modulation, modality_weights, conditions, rope or self.rope(latents))
        return unpatchify(self.head(y, time), *latents.shape[2:]), y - x

    def denoise_reusing(self, latents: Tensor, time: Tensor, residual: Tensor, patch_bias: Tensor) -> Tensor:
        """Feature reuse: the blocks are not run; what they added in an earlier step is added again."""
        x = self.patch_embedding(latents, 0, self.config.latent_channels) + patch_bias + residual
        return unpatchify(self.head(x, time), *latents.shape[2:])

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        y: Tensor,
        text: Tensor,
        image: Tensor,
        audio: Tensor,
        modality_weights: Tensor | None = None,
        audio_mask: Tensor | None = None,
        text_bias: Tensor | None = None,
        riflex: Riflex | None = None,
        spans: Tensor | None = None,
    ) -> Tensor:
        """The whole model at one timestep [B]; arguments as in `encode_conditions`, `denoise` and `step_tables`."""
        conditions = self.encode_conditions(y, text, image, audio, None, text_bias, audio_mask)
        if modality_weights is None:
            modality_weights = latents.new_ones(latents.shape[0], 3, latents.shape[2])
        time, modulation = self.step_tables(timestep, spans)
        return self.denoise(latents, time, modulation, modality_weights, conditions, self.rope(latents, riflex))
