"""What a model and a clip are: frozen, validated dataclasses, and the presets `nano`, `flash` and `preview`."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .errors import ConfigError

Variant = Literal["flash", "preview"]

# Per-channel statistics of the Wan 2.1 latents; normalised = (mean - latents_mean) / latents_std.
WAN_LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

SPATIAL_STRIDE = 8  # image pixels per latent pixel
TEMPORAL_STRIDE = 4  # video frames per latent frame, after the first, which holds one
PATCH = 2  # latent pixels per token, in height and in width
AUDIO_RADIUS = 2  # video frames on either side that a frame's window of speech features reaches
SIZE_MULTIPLE = SPATIAL_STRIDE * PATCH


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _near(value: int, step: int, least: int) -> str:
    """The two of least, least + step, … that lie around `value`."""
    below = max(least, least + (value - least) // step * step)
    return f"{below} or {below + step}"


@dataclass(frozen=True)
class AudioPath:
    """How the transformer of a variant hears.

    module: its part that makes tokens of speech, as the released file names it. per_frame: speech has one row of features a video
    frame, all layers of the speech encoder side by side, and a token's window is a frame with its neighbours; otherwise two rows a
    frame, of the encoder's last layer, and a latent frame has a slice of them. bias: of the projections to keys and values.
    dead_queries: the released file has queries for audio that never act. masked: a mask says which tokens hear the speech.
    """

    module: str
    per_frame: bool
    bias: bool
    dead_queries: bool
    masked: bool


AUDIO_PATHS: dict[Variant, AudioPath] = {
    "flash": AudioPath("audio_injection", per_frame=True, bias=True, dead_queries=True, masked=False),
    "preview": AudioPath("audio2token", per_frame=False, bias=False, dead_queries=False, masked=True),
}


@dataclass(frozen=True)
class AudioConfig:
    """How speech features become tokens.

    `flash` projects windows of five video frames (`layers` × `channels` features each) through an MLP to `tokens` tokens per latent
    frame; `preview` projects a 50 Hz sequence token by token and gives each latent frame a slice of 17.
    """

    layers: int
    channels: int
    hidden: int = 512
    tokens: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _require(value >= 1, f"audio {name} is {value}; it must be at least 1.")


@dataclass(frozen=True)
class VAEConfig:
    """The causal 3D autoencoder: base width, width multipliers per level (three of them halve the image), residual blocks per
    level."""

    dim: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    latent_channels: int = 16
    latents_mean: tuple[float, ...] = WAN_LATENTS_MEAN
    latents_std: tuple[float, ...] = WAN_LATENTS_STD

    def __post_init__(self) -> None:
        _require(self.dim >= 1 and self.res_blocks >= 1, f"VAE dim {self.dim} and res_blocks {self.res_blocks} must be at least 1.")
        _require(len(self.multipliers) == 4, f"VAE multipliers {self.multipliers} must be 4 numbers: the image is halved 3 times.")
        for name in ("latents_mean", "latents_std"):
            count = len(getattr(self, name))
            _require(count == self.latent_channels, f"VAE {name} has {count} values for {self.latent_channels} latent channels.")


@dataclass(frozen=True)
class ModelConfig:
    """One diffusion transformer with its encoders' output widths.

    `variant` chooses the audio path and the meaning of the audio mask (upstream's two released pipelines); `coupled_layers` is
    how many of the first blocks attend to text, image and audio through one softmax instead of three. `encode_unknown`: the
    masked-video latents of frames of which nothing is known are the encoding of mid grey (the released checkpoints) or zero
    (cheaper to make). `flow_map`: the model is a student that is told how far a step goes, and gives its average velocity.
    """

    name: str
    variant: Variant
    dim: int
    heads: int
    layers: int
    ffn_dim: int
    text_dim: int
    text_len: int
    image_dim: int
    image_tokens: int
    audio: AudioConfig
    freq_dim: int = 256
    latent_channels: int = 16
    mask_channels: int = 4
    coupled_layers: int = 0
    encode_unknown: bool = True
    eps: float = 1e-6
    vae: VAEConfig = field(default_factory=VAEConfig)
    flow_map: bool = False

    def __post_init__(self) -> None:
        _require(self.variant in AUDIO_PATHS, f"variant is {self.variant!r}; choose {' or '.join(AUDIO_PATHS)}.")
        _require(self.heads >= 1, f"heads is {self.heads}; it must be at least 1.")
        _require(self.dim % self.heads == 0, f"dim {self.dim} does not divide into {self.heads} heads.")
        _require(self.head_dim % 2 == 0, f"head dim {self.head_dim} is odd; rotary embedding turns pairs of channels.")
        _require(self.freq_dim % 2 == 0, f"freq_dim {self.freq_dim} is odd; it holds cosines and sines.")
        _require(
            0 <= self.coupled_layers <= self.layers, f"coupled_layers is {self.coupled_layers}; the model has {self.layers} layers."
        )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def audio_path(self) -> AudioPath:
        return AUDIO_PATHS[self.variant]

    @property
    def in_channels(self) -> int:
        """Noise, mask and masked-video latents."""
        return 2 * self.latent_channels + self.mask_channels

    def to_dict(self) -> dict[str, Any]:
        """`flow_map` only where it holds, so that the configurations of other models keep their digests."""
        return {name: value for name, value in asdict(self).items() if name != "flow_map" or value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ConfigError: a field is missing, unknown or has a value that cannot work.
        """
        data = dict(data)
        try:
            audio = AudioConfig(**data.pop("audio"))
            vae: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in data.pop("vae").items()
            }
            return cls(audio=audio, vae=VAEConfig(**vae), **data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"This is not a model configuration ({error}). Write it with ModelConfig.to_dict().") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration, hex."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


FLASH = ModelConfig(
    name="flash", variant="flash", dim=1536, heads=12, layers=30, ffn_dim=8960, text_dim=4096, text_len=512,
    image_dim=1280, image_tokens=257, audio=AudioConfig(layers=12, channels=768),
)  # fmt: skip
PREVIEW = ModelConfig(
    name="preview", variant="preview", dim=1536, heads=12, layers=30, ffn_dim=8960, text_dim=4096, text_len=512,
    image_dim=1280, image_tokens=257, audio=AudioConfig(layers=1, channels=768, tokens=17),
)  # fmt: skip
NANO = ModelConfig(
    name="nano", variant="flash", dim=192, heads=6, layers=6, ffn_dim=512, text_dim=64, text_len=64, image_dim=64,
    image_tokens=16, audio=AudioConfig(layers=1, channels=64, hidden=128, tokens=4), freq_dim=64, coupled_layers=2,
    encode_unknown=False, vae=VAEConfig(dim=8, multipliers=(1, 4, 8, 8), res_blocks=1, latents_mean=(0.0,) * 16,
    latents_std=(1.0,) * 16),
)  # fmt: skip

PRESETS = {config.name: config for config in (NANO, FLASH, PREVIEW)}


def preset(name: str) -> ModelConfig:
    """The preset called `name`.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There is no model {name!r}. Choose from: {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]


@dataclass(frozen=True)
class ClipSpec:
    """The shape of what one bundle plays: `frames` is the length of one window, 4n+1."""

    height: int
    width: int
    frames: int
    fps: int = 25
    sample_rate: int = 16000

    def __str__(self) -> str:
        """HEIGHTxWIDTHxFRAMES, as options name a shape."""
        return f"{self.height}x{self.width}x{self.frames}"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            _require(
                value >= SIZE_MULTIPLE and value % SIZE_MULTIPLE == 0,
                f"{name} is {value}; it must be a multiple of {SIZE_MULTIPLE}, such as "
                f"{_near(value, SIZE_MULTIPLE, SIZE_MULTIPLE)}.",
            )
        _require(
            self.frames >= 1 and (self.frames - 1) % TEMPORAL_STRIDE == 0,
            f"frames is {self.frames}; it must be 4n+1, such as {_near(self.frames, TEMPORAL_STRIDE, 1)}.",
        )
        _require(self.fps >= 1, f"fps is {self.fps}; it must be at least 1.")
        _require(
            self.sample_rate % self.fps == 0, f"sample_rate {self.sample_rate} is not a whole number of samples at {self.fps} fps."
        )

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // TEMPORAL_STRIDE + 1

    @property
    def latent_height(self) -> int:
        return self.height // SPATIAL_STRIDE

    @property
    def latent_width(self) -> int:
        return self.width // SPATIAL_STRIDE

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame, after 2×2 patches."""
        return (self.latent_height // PATCH) * (self.latent_width // PATCH)

    @property
    def tokens(self) -> int:
        return self.latent_frames * self.tokens_per_frame

    @property
    def samples_per_frame(self) -> int:
        return self.sample_rate // self.fps


NANO_CLIP = ClipSpec(height=64, width=64, frames=25)
