"""wav2vec2-base, the released encoder of speech: waveform [B, samples] at 16 kHz -> features.

flash hears every layer's output once per video frame, [B, T, layers, dim]; preview hears the last one's at 50 Hz, [B, L, dim].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

from ..errors import ConfigError, InputError
from .pretrained import EncoderConfig, Shapes, assign, require_counts, weight_and_bias

ABSENT = -3e4  # the bias of rows that are not heard: their share is zero, and float16 holds it
_POSITION_CONV = "encoder.pos_conv_embed.conv"
_SPEECH_SPELLINGS = {  # of the weight norm: direction and length, as newer versions of torch name them
    f"{_POSITION_CONV}.parametrizations.weight.original0": f"{_POSITION_CONV}.weight_g",
    f"{_POSITION_CONV}.parametrizations.weight.original1": f"{_POSITION_CONV}.weight_v",
}
_SPEECH_HEADS = ("lm_head.", "quantizer.", "project_hid.", "project_q.")
_HUGGING_FACE_KEYS = {
    "hidden_size": "dim", "num_hidden_layers": "layers", "num_attention_heads": "heads", "intermediate_size": "ffn_dim",
    "conv_dim": "conv_dims", "conv_kernel": "conv_kernels", "conv_stride": "conv_strides", "conv_bias": "conv_bias",
    "num_conv_pos_embeddings": "position_kernel", "num_conv_pos_embedding_groups": "position_groups", "layer_norm_eps": "eps",
}  # fmt: skip
_HUGGING_FACE_FIXED = {
    "feat_extract_norm": "group", "feat_extract_activation": "gelu", "hidden_act": "gelu", "do_stable_layer_norm": False,
    "add_adapter": False, "adapter_attn_dim": None,
}  # fmt: skip


@dataclass(frozen=True)
class SpeechEncoderConfig(EncoderConfig):
    """wav2vec2, base by default: convolutions over the waveform (group norm behind the first), then a post-norm transformer."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    ffn_dim: int = 3072
    conv_dims: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    position_kernel: int = 128
    position_groups: int = 16
    eps: float = 1e-5

    title = "speech encoder (wav2vec2)"

    def __post_init__(self) -> None:
        require_counts(self, "dim", "layers", "heads", "ffn_dim", "position_kernel", "position_groups")
        for name in ("heads", "position_groups"):
            if self.dim % getattr(self, name):
                raise ConfigError(f"dim {self.dim} does not divide into {getattr(self, name)} {name.replace('_', ' ')}.")
        convolutions = (self.conv_dims, self.conv_kernels, self.conv_strides)
        if len({len(values) for values in convolutions}) != 1 or not self.conv_dims or min(map(min, convolutions)) < 1:
            raise ConfigError(
                f"conv_dims {self.conv_dims}, conv_kernels {self.conv_kernels} and conv_strides {self.conv_strides} "
                "must be equally many numbers, each at least 1."
            )

    @classmethod
    def from_hugging_face(cls, data: Mapping[str, Any]) -> SpeechEncoderConfig:
        """From the contents of a wav2vec2 folder's `config.json`; what it does not say is as in wav2vec2-base.

        Raises:
            ConfigError: it describes another architecture, or a value cannot work.
        """
        for key, value in _HUGGING_FACE_FIXED.items():
            if data.get(key, value) != value:
                raise ConfigError(f"{key} is {data[key]!r}; this speech encoder has {value!r}. Give a wav2vec2-base.")
        found = {field: data[key] for key, field in _HUGGING_FACE_KEYS.items() if key in data}
        found |= {field: tuple(value) for field, value in found.items() if isinstance(value, list)}
        try:
            return cls(**found)
        except TypeError as error:
            raise ConfigError(f"This is no configuration of a wav2vec2 ({error}). Give the config.json of its folder.") from error

    def rows(self, samples: int) -> int:
        """How many feature rows the convolutions make of a waveform; 50 a second for the defaults."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def tensors(self) -> Shapes:
        dim, last = self.dim, self.conv_dims[-1]
        shapes: Shapes = {}
        inputs = (1, *self.conv_dims[:-1])
        for index, shape in enumerate(zip(self.conv_dims, inputs, self.conv_kernels, strict=True)):
            conv = f"feature_extractor.conv_layers.{index}.conv"
            shapes |= weight_and_bias(conv, *shape)
            if not self.conv_bias:
                del shapes[f"{conv}.bias"]
        shapes |= weight_and_bias("feature_extractor.conv_layers.0.layer_norm", self.conv_dims[0])
        shapes |= weight_and_bias("feature_projection.layer_norm", last)
        shapes |= weight_and_bias("feature_projection.projection", dim, last)
        shapes[f"{_POSITION_CONV}.bias"] = (dim,)
        shapes[f"{_POSITION_CONV}.weight_g"] = (1, 1, self.position_kernel)
        shapes[f"{_POSITION_CONV}.weight_v"] = (dim, dim // self.position_groups, self.position_kernel)
        shapes |= weight_and_bias("encoder.layer_norm", dim)
        for index in range(self.layers):
            layer = f"encoder.layers.{index}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes |= weight_and_bias(f"{layer}.attention.{part}", dim, dim)
            shapes |= weight_and_bias(f"{layer}.layer_norm", dim)
            shapes |= weight_and_bias(f"{layer}.feed_forward.intermediate_dense", self.ffn_dim, dim)
            shapes |= weight_and_bias(f"{layer}.feed_forward.output_dense", dim, self.ffn_dim)
            shapes |= weight_and_bias(f"{layer}.final_layer_norm", dim)
        return shapes

    def canonical(self, name: str) -> str:
        """Without the prefix of checkpoints that carry a head; the weight norm as weight_g and weight_v."""
        name = name.removeprefix("wav2vec2.")
        return _SPEECH_SPELLINGS.get(name, name)

    def ignored(self, name: str) -> str | None:
        if name == "masked_spec_embed":
            return "it stands for masked features, in training only"
        if name.startswith(_SPEECH_HEADS):
            return "it belongs to a head for training or transcription, which is not used"
        return None

    def build(self, tensors: Mapping[str, Tensor]) -> SpeechEncoder:
        """See `EncoderConfig`; the weight norm is folded into one new tensor."""
        self.require_exactly(tensors)
        state = dict(tensors)
        length, direction = (state.pop(f"{_POSITION_CONV}.{name}") for name in ("weight_g", "weight_v"))
        state[f"{_POSITION_CONV}.weight"] = fold_weight_norm(length, direction)
        return assign(SpeechEncoder, self, state)


WAV2VEC2_BASE = SpeechEncoderConfig()


def fold_weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    """The weight of a convolution from its lengths [1, 1, K] and directions [out, in, K]: one norm for each tap."""
    unit = direction.float() / torch.linalg.vector_norm(direction.float(), dim=(0, 1), keepdim=True)
    return (length.float() * unit).to(direction.dtype)


class SpeechEncoder(nn.Module):
    """The layers of wav2vec2. The library's own loop over them draws random numbers even in inference mode; this one does not."""

    def __init__(self, config: SpeechEncoderConfig) -> None:
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        super().__init__()
        library = Wav2Vec2Config(
            hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim, conv_dim=config.conv_dims, conv_kernel=config.conv_kernels,
            conv_stride=config.conv_strides, conv_bias=config.conv_bias, num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups, layer_norm_eps=config.eps, mask_time_prob=0.0,
            layerdrop=0.0, attn_implementation="sdpa",
        )  # fmt: skip
        model = Wav2Vec2Model(library)
        self.config = config
        self.feature_extractor = model.feature_extractor
        self.feature_projection = model.feature_projection
        self.encoder = model.encoder
        remove_parametrizations(self.encoder.pos_conv_embed.conv, "weight")

    def per_frame(self, waveform: Tensor, frames: int, moments: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """flash: waveform [B, samples], as long as the frames, -> [B, frames, layers, dim], the output of every layer.

        The features are stretched to one row for each frame before the transformer reads them. A waveform that is a part of a voice
        comes normalised, with `moments` of the whole voice and `present` [B, frames], 0 where no voice is
        (core/sampling/hearing.py).

        Raises:
            InputError: the waveform is too short for one feature, or `frames` is not at least 1.
        """
        if frames < 1:
            raise InputError(f"frames is {frames}; it must be at least 1.")
        features = F.interpolate(self._features(waveform, moments), size=frames, mode="linear", align_corners=True)
        return torch.stack(self._layers(features, present), 2)

    def per_token(self, waveform: Tensor, moments: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """preview: waveform [B, samples] -> [B, config.rows(samples), dim], the output of the last layer; `moments` and `present`
        [B, rows] as in `per_frame`.

        Raises:
            InputError: the waveform is too short for one feature.
        """
        return self._layers(self._features(waveform, moments), present)[-1]

    def _features(self, waveform: Tensor, moments: Tensor | None) -> Tensor:
        """[B, samples] -> [B, channels, rows]. Without `moments` the waveform is the whole voice: it is brought to zero mean and
        unit variance, and the first layer normalises its channels over it."""
        samples = waveform.shape[1]
        if self.config.rows(samples) < 1:
            raise InputError(f"The sound has {samples} samples, too few for one feature. Give at least a tenth of a second.")
        x, dtype = waveform.float(), self.feature_projection.projection.weight.dtype
        if moments is None:
            x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, correction=0) + 1e-7)
            return self.feature_extractor(x.to(dtype))
        layers: list[Any] = list(self.feature_extractor.conv_layers)
        first, *later = layers
        kernel, norm = first.conv.weight[:, 0], first.layer_norm  # [C, K]
        mean, deviations = F.linear(moments[:, 0], kernel, first.conv.bias), F.linear(moments[:, 1:], kernel)  # [B, C], [B, K, C]
        scale = norm.weight * torch.rsqrt(deviations.square().sum(1) + norm.eps)  # [B, C]
        x = (first.conv(x.to(dtype)[:, None]) - mean[..., None]) * scale[..., None] + norm.bias[:, None]
        x = first.activation(x)
        for layer in later:
            x = layer(x)
        return x

    def _layers(self, features: Tensor, present: Tensor | None) -> list[Tensor]:
        """[B, channels, rows] -> the output of each layer, [B, rows, dim]. Rows that are not `present` [B, rows] are not heard."""
        x = self.feature_projection(features.transpose(1, 2))[0]
        bias = None
        if present is not None:
            x = x * present[..., None]
            bias = (1.0 - present)[:, None, None] * ABSENT
        x = self.encoder.layer_norm(x + self.encoder.pos_conv_embed(x))
        outputs = []
        for layer in self.encoder.layers:
            x = layer(x, attention_mask=bias)[0]
            outputs.append(x)
        return outputs
