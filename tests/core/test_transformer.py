"""core/model/transformer.py: what velocities depend on, the released checkpoints' tensors, ways to split an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoedge.core.config import FLASH, PREVIEW, ModelConfig
from echoedge.core.model.transformer import DiT, PatchEmbedding, patchify, unpatchify

from ..upstream.checks_transformer import arguments_of, config_of, dit_of
from ..upstream.goldens import Golden, excess, golden
from .tiny import TINY_CLIP, tiny_config, tiny_dit, tiny_inputs

VARIANTS = ("flash", "preview")
# Two layers; three prompts, two of them padded; a face mask that leaves tokens out, and an audio scale of 0.7.
RECORDED = {"flash": "dit_flash_b_F2H6W4B3", "preview": "dit_preview_b_F4H4W4B1"}
RIFLEX = ("dit_flash_b_riflex_k3", "dit_preview_b_riflex_k3")


@torch.no_grad()
def distance(case: Golden, dit: DiT, changes: dict[str, Any] | None = None) -> float:
    """How far the model is from a case, as a multiple of the case's tolerance."""
    return excess(dit(**arguments_of(case) | (changes or {})), case.tensors()["out/y"], case.tolerance)


# ---- what velocities depend on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_counts(variant: str) -> None:
    case = golden(RECORDED[variant])
    dit = dit_of(case)
    noise = torch.Generator().manual_seed(0)
    for key, parameter in dit.named_parameters():
        kept = parameter.detach().clone()
        parameter.data.add_(0.1 * torch.randn(kept.shape, generator=noise))
        moved = distance(case, dit)
        parameter.data.copy_(kept)
        assert moved > 5, key  # measured: 12 tolerances at least
    assert distance(case, dit) < 1


def test_text_padding_is_attended_to() -> None:
    case = golden(RECORDED["flash"])
    dit, text = dit_of(case), arguments_of(case)["text"]
    assert not text[:, -1].any()
    assert distance(case, dit) < 1
    assert distance(case, dit, {"text": text[:, :-1]}) > 10


def test_face_mask_limits_the_audio() -> None:
    case = golden(RECORDED["preview"])
    assert not arguments_of(case)["audio_mask"].all()
    assert distance(case, dit_of(case), {"audio_mask": None}) > 10


def test_audio_scale_is_a_modality_weight() -> None:
    case = golden(RECORDED["preview"])
    assert case.call["audio_scale"] != 1.0
    assert distance(case, dit_of(case), {"modality_weights": None}) > 10


@pytest.mark.parametrize("name", RIFLEX)
def test_riflex_is_an_option_of_the_call(name: str) -> None:
    case = golden(name)
    dit = dit_of(case)
    assert distance(case, dit) < 1
    assert distance(case, dit, {"riflex": None}) > 10


# ---- released checkpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "count", "parameters"), [(FLASH, 1203 - 60, 1_792_948_032), (PREVIEW, 1076, 1_707_215_168)])
def test_full_size(config: ModelConfig, count: int, parameters: int) -> None:
    with torch.device("meta"):
        state = DiT(config).state_dict()
    assert len(state) == count
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.mark.parametrize("config", [FLASH, PREVIEW], ids=lambda config: config.name)
def test_full_size_names_are_upstreams(config: ModelConfig) -> None:
    with torch.device("meta"):
        ours = set(DiT(config).state_dict())
    recorded = {key for key in golden(RECORDED[config.variant]).weights() if ".q_audio." not in key}
    first_block = {key.removeprefix("blocks.0.") for key in recorded if key.startswith("blocks.0.")}
    theirs = {key for key in recorded if not key.startswith("blocks.")}
    theirs |= {f"blocks.{i}.{key}" for i in range(config.layers) for key in first_block}
    assert ours == theirs


def test_a_missing_tensor_is_refused() -> None:
    case = golden(RECORDED["flash"])
    state = {key: value for key, value in case.weights().items() if ".q_audio." not in key and "norm_k_img" not in key}
    with pytest.raises(RuntimeError, match="norm_k_img"):
        DiT(config_of(case)).load_state_dict(state)


# ---- patches ---------------------------------------------------------------------------------------------------------------------


def test_patch_embedding_is_a_strided_convolution() -> None:
    torch.manual_seed(0)
    patch = PatchEmbedding(7, 10)
    torch.nn.init.normal_(patch.weight)
    x = torch.randn(2, 7, 3, 4, 6)
    ours = patch(x[:, :4], 0, 4) + patch(x[:, 4:], 4, 7)
    theirs = F.conv3d(x, patch.weight, stride=(1, 2, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # measured: 4.8e-6 of 19
    assert not torch.allclose(patch(x[:, 4:], 0, 3) + patch(x[:, :4], 3, 7), theirs, atol=1e-2)


def test_unpatchify_has_channels_inside_and_patchify_outside() -> None:
    x = torch.randn(2, 5, 3, 4, 6)
    tokens = patchify(x)
    swapped = tokens.unflatten(-1, (5, 4)).transpose(-1, -2).flatten(-2)  # offsets outer, channels inner
    assert torch.equal(unpatchify(swapped, 3, 4, 6), x)
    assert not torch.equal(unpatchify(tokens, 3, 4, 6), x)


# ---- one evaluation, split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("coupled", [0, 1, 2])
def test_forward_is_denoise_after_encode_conditions(variant: Any, coupled: int) -> None:
    dit = tiny_dit(tiny_config(variant, coupled_layers=coupled))
    inputs = tiny_inputs(dit.config, batch=2)
    latents, timestep = inputs.pop("latents"), torch.tensor([913.0, 20.5])
    modality_weights = torch.rand(2, 3, TINY_CLIP.latent_frames)
    with torch.no_grad():
        whole = dit(latents, timestep, **inputs, modality_weights=modality_weights)
        conditions = dit.encode_conditions(**inputs)
        parts = dit.denoise(latents, *dit.step_tables(timestep), modality_weights, conditions)
    assert torch.equal(whole, parts)
    assert whole.abs().max() > 0.1


def test_coupling_changes_the_velocity() -> None:
    inputs = tiny_inputs(tiny_config())
    with torch.no_grad():
        plain, coupled = (tiny_dit(tiny_config(coupled_layers=n))(timestep=torch.tensor([500.0]), **inputs) for n in (0, 1))
    assert (plain - coupled).abs().max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_its_samples(variant: Any) -> None:
    dit = tiny_dit(tiny_config(variant))
    inputs = tiny_inputs(dit.config, batch=3) | {"timestep": torch.tensor([1000.0, 500.0, 1.0])}
    with torch.no_grad():
        together = dit(**inputs)
        apart = torch.cat([dit(**{name: value[i : i + 1] for name, value in inputs.items()}) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=0, atol=2e-5)  # measured: 2.1e-6 of 7
    assert (together.roll(1, 0) - apart).abs().max() > 0.1


def evaluation(dit: DiT, timestep: float) -> dict[str, Any]:
    """Arguments of `DiT.denoise` at one timestep; the latents and conditions are always the same."""
    inputs = tiny_inputs(dit.config)
    latents = inputs.pop("latents")
    time, modulation = dit.step_tables(torch.tensor([timestep]))
    ones = torch.ones(1, 3, TINY_CLIP.latent_frames)
    conditions = dit.encode_conditions(**inputs)
    return {"latents": latents, "time": time, "modulation": modulation, "modality_weights": ones, "conditions": conditions}


def reused(dit: DiT, step: dict[str, Any], residual: Tensor) -> Tensor:
    return dit.denoise_reusing(step["latents"], step["time"], residual, step["conditions"].patch_bias)


@torch.no_grad()
def test_reusing_the_residual_of_the_same_step_is_denoising() -> None:
    dit = tiny_dit(tiny_config())
    step = evaluation(dit, 600.0)
    velocity, residual = dit.denoise_keeping(**step)
    torch.testing.assert_close(reused(dit, step, residual), velocity, rtol=0, atol=5e-6)  # measured: 4.8e-7 of 4.4
    assert (reused(dit, step, 0 * residual) - velocity).abs().max() > 0.1


@torch.no_grad()
def test_residual_of_another_step_is_an_approximation() -> None:
    dit = tiny_dit(tiny_config())
    step = evaluation(dit, 300.0)
    residual = dit.denoise_keeping(**evaluation(dit, 600.0))[1]
    assert (reused(dit, step, residual) - dit.denoise(**step)).abs().max() > 0.01


@torch.no_grad()
def test_denoising_gives_what_keeping_gives() -> None:
    dit = tiny_dit(tiny_config())
    step = evaluation(dit, 600.0)
    assert torch.equal(dit.denoise(**step), dit.denoise_keeping(**step)[0])


@torch.no_grad()
def test_step_tables_of_many_steps_are_those_of_each() -> None:
    dit = tiny_dit(tiny_config())
    timesteps = torch.tensor([999.0, 500.0, 24.4])
    time, modulation = dit.step_tables(timesteps)
    for i in range(3):
        for many, one in zip((time, modulation), dit.step_tables(timesteps[i : i + 1]), strict=True):
            torch.testing.assert_close(many[i : i + 1], one, rtol=0, atol=2e-6)  # measured: 2.4e-7


def test_a_fresh_model_predicts_zero() -> None:
    config = tiny_config()
    with torch.no_grad():
        velocity = DiT(config)(timestep=torch.tensor([500.0]), **tiny_inputs(config))
    assert not velocity.any()
