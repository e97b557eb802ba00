"""The video autoencoder against upstream's: whole clips and chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from echoedge.core.config import TEMPORAL_STRIDE, VAEConfig
from echoedge.core.model.vae import VAE, Stream

from .goldens import Comparison, Golden, check


def vae_of(case: Golden) -> VAE:
    vae = VAE(VAEConfig(dim=case.config["dim"], res_blocks=case.config["num_res_blocks"]))
    vae.load_state_dict(case.weights())
    return vae.eval()


def channels_first(video: Tensor) -> Tensor:
    """[B, T, C, H, W] <-> upstream's [B, C, T, H, W]."""
    return video.transpose(1, 2)


def in_chunks(video: Tensor) -> list[Tensor]:
    """A clip's first frame and its whole groups of four."""
    starts = range(1, video.shape[1] - TEMPORAL_STRIDE + 1, TEMPORAL_STRIDE)
    return [video[:, :1], *(video[:, start : start + TEMPORAL_STRIDE] for start in starts)]


@torch.no_grad()
def encode_streaming(vae: VAE, video: Tensor) -> tuple[Tensor, int]:
    """Latents, and how many entries the state has."""
    latents, past = [], None
    for chunk in in_chunks(video):
        latent, past = vae.encode_chunk(chunk, past)
        latents.append(latent)
    assert past is not None
    return torch.cat(latents, 2), len(past)


@torch.no_grad()
def decode_streaming(vae: VAE, latents: Tensor) -> tuple[Tensor, int]:
    """Video, and how many entries the state has."""
    frames, past = [], None
    for latent in latents.split(1, 2):
        chunk, past = vae.decode_chunk(latent, past)
        frames.append(chunk)
    assert past is not None
    return torch.cat(frames, 1), len(past)


@check("vae_encode")
@torch.no_grad()
def latents(case: Golden) -> Iterator[Comparison]:
    """Allowed: 1e-4 relative and 1e-4 of the maximum. Measured: at most 0.0055 of that."""
    recorded, vae = case.tensors(), vae_of(case)
    video = channels_first(recorded["in/x"])
    mean, log_variance = (channels_first(part) for part in vae.moments(video))
    yield "out/mode", vae.encode(video), recorded["out/mode"]
    yield "out/mean_logvar", torch.cat([mean, log_variance], 1), recorded["out/mean_logvar"]
    streamed, entries = encode_streaming(vae, video)
    yield "out/mode, streamed", streamed, recorded["out/mode"]
    for name, ours in (
        ("chunks", [chunk.shape[1] for chunk in in_chunks(video)]),
        ("frames_used", sum(chunk.shape[1] for chunk in in_chunks(video))),
        ("enc_cache_slots_used", entries),
    ):
        if name in case.call:
            yield f"call/{name}", ours, case.call[name]


@check("vae_decode")
@torch.no_grad()
def videos(case: Golden) -> Iterator[Comparison]:
    """Allowed: as above. Measured: at most 0.038 of that."""
    recorded, vae = case.tensors(), vae_of(case)
    z = recorded["in/z"]
    unclamped = vae.decoder(vae.conv2(channels_first(z) * vae.latents_std + vae.latents_mean), Stream())
    yield "out/video", channels_first(vae.decode(z)), recorded["out/video"]
    yield "out/video_unclamped", channels_first(unclamped), recorded["out/video_unclamped"]
    streamed, entries = decode_streaming(vae, z)
    yield "out/video, streamed", channels_first(streamed), recorded["out/video"]
    for name, ours in (("frames_out", streamed.shape[1]), ("dec_cache_slots_used", entries)):
        if name in case.call:
            yield f"call/{name}", ours, case.call[name]
