"""The tiny autoencoder against upstream's, whole clips and streamed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from echoedge.core.model.tiny_vae import TAEW, TinyVAE

from .goldens import Comparison, Golden, check


def generated_weights(case: Golden) -> dict[str, Tensor]:
    """The case's weights by its rule: one generator through the sorted names, normal, scaled by the fan-in."""
    generator = np.random.Generator(np.random.PCG64(case.data["weights"]["seed"]))
    weights = {}
    for name, shape in sorted(case.data["parameters"].items()):
        fan_in, gain = (np.prod(shape[1:]), 1.0) if len(shape) > 1 else (16, 0.1)
        values = generator.standard_normal(shape, np.float32) * np.float32(gain / np.sqrt(fan_in))
        weights[name] = torch.from_numpy(values)
    return weights


@check("tiny_vae")
@torch.no_grad()
def tiny_vae(case: Golden) -> Iterator[Comparison]:
    """Upstream's frames are in [0, 1] and its latents [B, F, C, h, w].

    Allowed: 1e-4 relative and 1e-5 of the maximum. Measured: at most 0.21 of that.
    """
    recorded = case.tensors()
    yield "parameters", TAEW.tensors(), {name: tuple(shape) for name, shape in case.data["parameters"].items()}
    vae = TinyVAE.from_tensors(generated_weights(case))

    latents, frames = recorded["in/latents"].transpose(1, 2), recorded["in/frames"] * 2 - 1
    yield "out/frames", (vae.decode(latents) + 1) / 2, recorded["out/frames"]
    yield "out/encoded", vae.encode(frames).transpose(1, 2), recorded["out/encoded"]

    decoded, past = [], None
    for latent in latents.split(1, 2):
        video, past = vae.decode_chunk(latent, past)
        decoded.append((video + 1) / 2)
    yield "out/frames, streamed", torch.cat(decoded, 1), recorded["out/frames"]
    encoded, past = [], None
    for chunk in frames.split(4, 1):
        latent, past = vae.encode_chunk(chunk, past)
        encoded.append(latent.transpose(1, 2))
    yield "out/encoded, streamed", torch.cat(encoded, 1), recorded["out/encoded"]
