"""Rewritten encoders and decoders, whole and compiled: one delegate each, the same frames and features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.runtime import Runtime
from torch import Tensor

from echoedge.core.config import ClipSpec
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.pretrained_image import PictureEncoder
from echoedge.core.model.pretrained_speech import SpeechEncoder
from echoedge.core.model.programs import EntryPoint, audio_encoder_program, image_encoder_program, vae_decode_program
from echoedge.core.model.tiny_vae import Grow, TinyVAE
from echoedge.core.model.vae import NearestDouble
from echoedge.core.sampling.hearing import present
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.rewrites.portable import make_portable

from ...core.tiny import randomised
from .common import CLIP, PICTURE, SPEECH, TINY, off


def chunks(method: EntryPoint, start: EntryPoint, latents: list[Tensor]) -> list[Tensor]:
    video, *state = start.module(latents[0])
    result = [video]
    for latent in latents[1:]:
        video, *state = method.module(latent, *state)
        result.append(video)
    return result


@torch.no_grad()
def test_the_tiny_decoder_draws_the_same_frames() -> None:
    vae = randomised(TinyVAE(TINY))
    program = vae_decode_program(vae, CLIP)
    latents = list(torch.randn(1, 16, 3, 4, 6).split(1, 2))
    theirs = chunks(program["next"], program["first"], latents)
    assert float((theirs[1].abs() < 1).float().mean()) > 0.2  # clamping does not hide everything
    ours = {name: EntryPoint(make_portable(method.module), method.inputs, method.outputs) for name, method in program.items()}
    found = chunks(ours["next"], ours["first"], latents)
    assert all(off(a, b) < 5e-5 for a, b in zip(found, theirs, strict=True))  # measured: 6e-6
    assert not [part for method in ours.values() for part in method.module.modules() if isinstance(part, (Grow, NearestDouble))]
    swapped = chunks(ours["next"], ours["first"], [latents[1], latents[0], latents[2]])
    assert off(swapped[2], theirs[2]) > 0.01


@pytest.mark.parametrize("part", ["audio_encoder", "image_encoder", "vae_decode"])
@torch.no_grad()
def test_each_method_is_one_delegate_that_computes_the_same(part: str, tmp_path: Path) -> None:
    clip = ClipSpec(height=32, width=48, frames=5)
    program = {
        "audio_encoder": lambda: audio_encoder_program(randomised(SpeechEncoder(replace(SPEECH, layers=1))), clip),
        "image_encoder": lambda: image_encoder_program(randomised(PictureEncoder(replace(PICTURE, layers=2))), clip),
        "vae_decode": lambda: vae_decode_program(randomised(TinyVAE(TINY)), clip),
    }[part]()
    compiled = compile_program(part, program, PRESETS["fp32"], tmp_path)
    assert {name: (taken.delegate_calls, taken.other_ops) for name, taken in compiled.placement.items()} == {
        name: (1, {}) for name in program
    }
    loaded = Runtime.get().load_program(compiled.path)
    for name, method in program.items():
        inputs = list(method.drawn(seed=3).values())
        if part == "audio_encoder":
            inputs[2] = torch.from_numpy(present(3, 5, 1))
        results = loaded.load_method(name).execute(inputs)
        for ours, theirs in zip(results, method.run(*inputs), strict=True):
            assert psnr(theirs.numpy(), np.array(ours)) > 90  # measured: 119 dB or more
        others = method.run(*[*method.drawn(seed=4).values()][:1], *inputs[1:])
        assert psnr(others[0].numpy(), np.array(results[0])) < 40
