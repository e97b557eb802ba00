"""What tests of rewrites share: sizes, configurations of small encoders, and how far two tensors are apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from echoedge.core.config import ClipSpec, VAEConfig
from echoedge.core.model.pretrained_image import PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoderConfig
from echoedge.core.model.tiny_vae import TinyVAEConfig

from ...core.tiny import tiny_vae

B, N, HEADS, DIM = 2, 18, 2, 48
HEAD = DIM // HEADS

CLIP = ClipSpec(height=32, width=48, frames=9)
SPEECH = SpeechEncoderConfig(
    dim=24, layers=2, heads=3, ffn_dim=32, conv_dims=(8,) * 7, position_kernel=8, position_groups=4
)  # fmt: skip
PICTURE = PictureEncoderConfig(image_size=28, dim=24, heads=3, layers=3, mlp_dim=32)
TINY = TinyVAEConfig(encoder_width=4, decoder_widths=(10, 8, 6, 4), blocks=1)


def require_same_streams(make: Callable[[nn.Module], nn.Module]) -> None:
    """A rewritten VAE decodes and encodes chunk by chunk as the original does, and another picture otherwise; of doubles."""
    vae = tiny_vae(VAEConfig(dim=4, res_blocks=1)).double()
    ours: Any = make(vae)
    latents, video = torch.randn(1, 16, 1, 2, 6), torch.rand(1, 5, 3, 16, 48) * 2 - 1
    for step, other, chunks in (
        (vae.decode_chunk, ours.decode_chunk, (latents, latents)),
        (vae.encode_chunk, ours.encode_chunk, (video[:, :1], video[:, 1:])),
    ):
        state, kept = None, None
        for chunk in chunks:
            expected, state = step(chunk, state)
            found, kept = other(chunk, kept)
            assert off(found, expected) < 1e-10
    assert off(ours.encode_chunk(video[:, :1].flip(3), None)[0], vae.encode_chunk(video[:, :1], None)[0]) > 1e-3


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


def relative(ours: Tensor, theirs: Tensor) -> float:
    return off(ours, theirs) / float(theirs.abs().max())
