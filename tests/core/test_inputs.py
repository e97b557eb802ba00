"""core/sampling/inputs.py: known frames on arrays are the task masks of the model on tensors.

Prompts are in test_conditions.py and test_encoders.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echoedge.core.config import ClipSpec
from echoedge.core.model.masks import condition_latents
from echoedge.core.sampling.inputs import known_latents

from .tiny import tiny_config, tiny_vae

CLIP = ClipSpec(height=32, width=48, frames=13)
VAE = tiny_vae(tiny_config().vae)


@pytest.mark.parametrize("encode_unknown", [True, False])
@pytest.mark.parametrize("known", [1, 2, 5, 6, 13])
@torch.no_grad()
def test_the_first_frames_are_known_as_a_mask_says_it(known: int, encode_unknown: bool) -> None:
    given = np.random.default_rng(0).uniform(-1, 1, (known, 3, CLIP.height, CLIP.width)).astype(np.float32)
    video, mask = torch.zeros(CLIP.frames, 3, CLIP.height, CLIP.width), torch.ones(CLIP.frames, CLIP.height, CLIP.width)
    video[:known], mask[:known] = torch.from_numpy(given), 0
    expected = condition_latents(video, mask, CLIP, VAE.encode, encode_unknown)
    y = known_latents(given, CLIP, lambda frames: VAE.encode(torch.from_numpy(frames)).numpy(), encode_unknown)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-6)
    mask[known - 1] = 1
    assert np.abs(condition_latents(video, mask, CLIP, VAE.encode, encode_unknown).numpy() - y).max() > 0.1
