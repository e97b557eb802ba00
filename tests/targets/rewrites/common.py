"""What tests of rewrites share: sizes, configurations of small encoders, and how far two tensors are apart."""

from __future__ import annotations

from torch import Tensor

from echoedge.core.config import ClipSpec
from echoedge.core.model.pretrained_image import PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoderConfig
from echoedge.core.model.tiny_vae import TinyVAEConfig

B, N, HEADS, DIM = 2, 18, 2, 48
HEAD = DIM // HEADS

CLIP = ClipSpec(height=32, width=48, frames=9)
SPEECH = SpeechEncoderConfig(
    dim=24, layers=2, heads=3, ffn_dim=32, conv_dims=(8,) * 7, position_kernel=8, position_groups=4
)  # fmt: skip
PICTURE = PictureEncoderConfig(image_size=28, dim=24, heads=3, layers=3, mlp_dim=32)
TINY = TinyVAEConfig(encoder_width=4, decoder_widths=(10, 8, 6, 4), blocks=1)


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def relative(ours: Tensor, theirs: Tensor) -> float:
    return off(ours, theirs) / float(theirs.abs().max())
