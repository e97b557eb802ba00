"""core/model/programs.py: every method runs and returns what it declares, and the programs together are the model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from echoedge.core.bundle import CONDITION_PROGRAMS, Hearing
from echoedge.core.config import ClipSpec, ModelConfig, Variant
from echoedge.core.model.architecture import skeleton
from echoedge.core.model.conditions import Conditions
from echoedge.core.model.encoders import NanoEncoders
from echoedge.core.model.pretrained_image import PictureEncoder, PictureEncoderConfig
from echoedge.core.model.pretrained_speech import SpeechEncoder, SpeechEncoderConfig
from echoedge.core.model.programs import (
    EntryPoint,
    EntryPoints,
    Model,
    audio_encoder_program,
    build_programs,
    condition_shapes,
    denoise_program,
    image_encoder_program,
    vae_decode_program,
    vae_encode_program,
)
from echoedge.core.model.tiny_vae import TinyVAE, TinyVAEConfig
from echoedge.core.model.transformer import DiT
from echoedge.core.model.vae import VAE
from echoedge.core.sampling.hearing import moments, normalised, window_inputs

from .tensors import collapse_padding, pad_text
from .tiny import TINY_CLIP, randomised, tiny_config, tiny_dit, tiny_inputs, tiny_vae

CLIP = TINY_CLIP
TEXT_ROWS = 8
SQUARE = ClipSpec(height=32, width=32, frames=5)  # portraits of nano's encoder are square


def model_of(config: ModelConfig, clip: ClipSpec = CLIP, with_encoders: bool = False) -> Model:
    encoders = randomised(NanoEncoders(config, clip)) if with_encoders else None
    return Model(config, tiny_dit(config), tiny_vae(config.vae), encoders)


def methods_of(programs: dict[str, EntryPoints]) -> dict[str, EntryPoint]:
    return {f"{program}.{name}": method for program, methods in programs.items() for name, method in methods.items()}


FLASH = model_of(tiny_config())
PROGRAMS = build_programs(FLASH, CLIP, TEXT_ROWS, reuse=True)
SETS = {
    "flash": methods_of(PROGRAMS),
    "preview": methods_of(build_programs(model_of(tiny_config("preview")), CLIP, TEXT_ROWS)),
    "nano": methods_of(build_programs(model_of(tiny_config(), SQUARE, with_encoders=True), SQUARE, TEXT_ROWS)),
}
ALL = [(models, name) for models, methods in SETS.items() for name in methods]


# ---- names and shapes ------------------------------------------------------------------------------------------------------------


def test_programs_of_a_model_without_encoders() -> None:
    assert list(PROGRAMS) == ["vae_encode", *CONDITION_PROGRAMS, "denoise", "denoise_reusing", "vae_decode"]


def test_programs_of_a_model_with_encoders() -> None:
    names = ["audio_encoder", "image_encoder", "text_encoder", "vae_encode", *CONDITION_PROGRAMS, "denoise", "vae_decode"]
    assert [name.removesuffix(".forward") for name in SETS["nano"] if not name.endswith((".first", ".next"))] == [
        name for name in names if not name.startswith("vae")
    ]
    assert [name for name in SETS["nano"] if name.startswith("vae")] == [
        "vae_encode.first", "vae_encode.next", "vae_decode.first", "vae_decode.next"
    ]  # fmt: skip


def test_a_clip_of_one_latent_frame_streams_nothing() -> None:
    programs = build_programs(FLASH, ClipSpec(height=32, width=48, frames=1), TEXT_ROWS)
    assert list(programs["vae_encode"]) == list(programs["vae_decode"]) == ["first"]
    assert "denoise_reusing" not in programs


@pytest.mark.parametrize(("models", "name"), ALL)
def test_a_method_returns_one_tensor_for_each_declared_output(models: str, name: str) -> None:
    method = SETS[models][name]
    results = method.run(*method.inputs.values())
    assert len(results) == len(method.outputs) == len(set(method.outputs))
    assert all(isinstance(result, Tensor) and bool(result.isfinite().all()) for result in results)
    assert all(
        bool(result.any()) for result, output in zip(results, method.outputs, strict=True) if not output.startswith("state_")
    )


@pytest.mark.parametrize(("models", "name"), ALL)
def test_a_method_is_deterministic_and_keeps_no_state(models: str, name: str) -> None:
    method = SETS[models][name]
    before = [value.clone() for value in method.inputs.values()]
    once, again = (method.run(*method.inputs.values()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, method.inputs.values(), strict=True))
    assert not method.module.training


@pytest.mark.parametrize("models", SETS)
def test_outputs_fit_the_inputs_that_they_are_handed_to(models: str) -> None:
    methods = SETS[models]
    results = {name: dict(zip(m.outputs, m.run(*m.inputs.values()), strict=True)) for name, m in methods.items()}

    def fits(source: str, target: str, names: list[str]) -> None:
        for name in names:
            assert results[source][name].shape == methods[target].inputs[name].shape, f"{source} -> {target}: {name}"

    for program, made in CONDITION_PROGRAMS.items():
        assert methods[f"{program}.forward"].outputs == list(made)
        fits(f"{program}.forward", "denoise.forward", list(made))
    for program in ("vae_encode", "vae_decode"):
        states = [name for name in methods[f"{program}.next"].inputs if name.startswith("state_")]
        assert states == [name for name in methods[f"{program}.next"].outputs if name.startswith("state_")]
        fits(f"{program}.first", f"{program}.next", states)
        fits(f"{program}.next", f"{program}.next", states)
    assert results["denoise.forward"]["velocity"].shape == methods["denoise.forward"].inputs["latents"].shape
    assert results["vae_encode.next"]["latents"].shape == methods["vae_decode.next"].inputs["latents"].shape
    if "text_encoder.forward" in methods:
        image, wanted = results["image_encoder.forward"]["tokens"], methods["image_conditions.forward"].inputs["image"]
        assert image.shape == wanted.shape


def test_denoise_takes_the_conditions_in_the_order_of_their_fields() -> None:
    names = list(SETS["flash"]["denoise.forward"].inputs)
    assert names == ["latents", "time", "modulation", "modality_weights", *(field.name for field in fields(Conditions))]


@pytest.mark.parametrize(("reuse", "outputs"), [(False, ["velocity"]), (True, ["velocity", "residual"])])
def test_denoise_keeps_its_residual_where_features_are_reused(reuse: bool, outputs: list[str]) -> None:
    programs = build_programs(FLASH, CLIP, TEXT_ROWS, reuse=reuse)
    assert programs["denoise"]["forward"].outputs == outputs
    assert ("denoise_reusing" in programs) == reuse


def test_example_inputs_are_always_the_same() -> None:
    again = methods_of(build_programs(FLASH, CLIP, TEXT_ROWS, reuse=True))
    for name, method in SETS["flash"].items():
        assert all(torch.equal(value, again[name].inputs[key]) for key, value in method.inputs.items())


# ---- shapes without computing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("models", "name"), ALL)
def test_specs_of_outputs_are_those_of_a_run(models: str, name: str) -> None:
    method = SETS[models][name]
    specs, results = method.output_specs(), method.run(*method.inputs.values())
    assert [spec.name for spec in specs] == method.outputs
    assert [(spec.dtype, spec.shape) for spec in specs] == [(result.dtype, tuple(result.shape)) for result in results]


def test_drawn_inputs_have_the_examples_shapes_and_nothing_is_zero() -> None:
    for name, method in SETS["nano"].items():
        drawn = method.drawn(seed=4)
        assert list(drawn) == list(method.inputs)
        assert all(drawn[key].shape == value.shape and drawn[key].dtype == value.dtype for key, value in method.inputs.items())
        assert all(bool(value.all()) for value in drawn.values() if value.is_floating_point()), name


def test_programs_are_made_of_a_model_without_data() -> None:
    config = tiny_config()
    dit, vae = skeleton(DiT, config), skeleton(VAE, config.vae)
    programs = {"denoise": denoise_program(dit, CLIP, TEXT_ROWS), "vae_decode": vae_decode_program(vae, CLIP)}
    programs |= {"vae_encode": vae_encode_program(vae, CLIP)}
    for program, methods in programs.items():
        for name, method in methods.items():
            theirs = SETS["flash"][f"{program}.{name}"]
            assert [spec.shape for spec in method.output_specs()] == [spec.shape for spec in theirs.output_specs()][
                : len(method.outputs)
            ]
            assert {key: x.shape for key, x in method.inputs.items()} == {key: x.shape for key, x in theirs.inputs.items()}


def test_shapes_of_conditions_are_those_that_the_model_makes() -> None:
    for models, variant in (("flash", "flash"), ("preview", "preview")):
        shapes = condition_shapes(tiny_config(variant), CLIP, TEXT_ROWS)
        for program in CONDITION_PROGRAMS:
            method = SETS[models][f"{program}.forward"]
            for name, result in zip(method.outputs, method.run(*method.inputs.values()), strict=True):
                assert shapes[name] == tuple(result.shape)
        assert shapes["text_bias"] == (1, TEXT_ROWS)
        assert shapes["audio_mask"] == (1, CLIP.tokens_per_frame)


# ---- the released encoders and the tiny autoencoder ------------------------------------------------------------------------------


SPEECH = SpeechEncoderConfig(
    dim=24, layers=2, heads=3, ffn_dim=32, conv_dims=(8,) * 7, position_kernel=8, position_groups=4
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_a_voice_that_fills_a_reading_is_heard_as_by_the_encoder(variant: Variant) -> None:
    encoder = randomised(SpeechEncoder(SPEECH))
    method = audio_encoder_program(encoder, CLIP, variant, context_frames=3)["forward"]
    frames = CLIP.frames + 6
    assert method.inputs["waveform"].shape == (1, frames * CLIP.samples_per_frame)
    voice = normalised(2 * method.inputs["waveform"][0].numpy() + 1, frames * CLIP.samples_per_frame)
    inputs = [torch.from_numpy(voice)[None], torch.from_numpy(moments(voice, 10, 5)), method.inputs["present"]]
    expected = encoder.per_frame(inputs[0], frames) if variant == "flash" else encoder.per_token(inputs[0])
    (features,) = method.run(*inputs)
    assert features.shape == ((1, frames, SPEECH.layers, SPEECH.dim) if variant == "flash" else (1, 2 * frames - 1, SPEECH.dim))
    assert [spec.shape for spec in method.output_specs()] == [tuple(features.shape)]
    torch.testing.assert_close(features, expected, rtol=0, atol=2e-5)  # measured: 1.4e-6
    inputs[1] = torch.from_numpy(moments(0.5 * voice, 10, 5))
    assert (method.run(*inputs)[0] - expected).abs().max() > 0.01


@torch.no_grad()
def test_the_released_picture_encoder_sees_portraits_of_the_clips_size() -> None:
    encoder = randomised(PictureEncoder(PictureEncoderConfig(image_size=28, dim=24, heads=3, layers=3, mlp_dim=32)))
    method = image_encoder_program(encoder, CLIP)["forward"]
    assert method.inputs["portrait"].shape == (1, 3, CLIP.height, CLIP.width)
    assert method.run(*method.inputs.values())[0].shape == (1, 5, 24)


@torch.no_grad()
def test_the_tiny_autoencoder_streams_like_the_large_one() -> None:
    vae = randomised(TinyVAE(TinyVAEConfig(decoder_widths=(8, 6, 4, 4), encoder_width=4, blocks=1)))
    program = vae_decode_program(vae, CLIP)
    latents = torch.randn(1, 16, 3, CLIP.latent_height, CLIP.latent_width)
    whole = vae.decode(latents)
    video = torch.cat(stream(program, list(latents.split(1, 2))), 1)
    torch.testing.assert_close(video, whole, rtol=0, atol=1e-5)  # measured: 6e-7
    restarted = torch.cat([stream(program, [latent])[0] for latent in latents.split(1, 2)], 1)
    assert (restarted - whole[:, ::4]).abs().max() > 0.01


# ---- the programs are the model --------------------------------------------------------------------------------------------------


def stream(program: EntryPoints, chunks: list[Tensor]) -> list[Tensor]:
    """The results of a streaming program over a clip's chunks."""
    results, state = [], ()
    for index, chunk in enumerate(chunks):
        result, *state = program["next" if index else "first"].run(chunk, *state)
        results.append(result)
    return results


@torch.no_grad()
def test_streamed_decoding_is_the_vaes() -> None:
    latents = torch.randn(1, 16, 4, CLIP.latent_height, CLIP.latent_width)
    whole = FLASH.vae.decode(latents)
    video = torch.cat(stream(PROGRAMS["vae_decode"], list(latents.split(1, 2))), 1)
    torch.testing.assert_close(video, whole, rtol=0, atol=2e-5)  # measured: 2.5e-6
    restarted = torch.cat([stream(PROGRAMS["vae_decode"], [latent])[0] for latent in latents.split(1, 2)], 1)
    assert (restarted - whole[:, ::4]).abs().max() > 0.05


@torch.no_grad()
def test_streamed_encoding_is_the_vaes() -> None:
    video = torch.rand(1, 13, 3, CLIP.height, CLIP.width) * 2 - 1
    whole = FLASH.vae.encode(video)
    chunks = [video[:, :1], *video[:, 1:].split(4, 1)]
    torch.testing.assert_close(
        torch.cat(stream(PROGRAMS["vae_encode"], chunks), 2), whole, rtol=0, atol=2e-5
    )  # measured: 2.3e-6 of 5


def arguments(config: ModelConfig, timestep: float) -> dict[str, Any]:
    return tiny_inputs(config, text_rows=TEXT_ROWS) | {"timestep": torch.tensor([timestep])}


def played(
    programs: dict[str, EntryPoints], model: Model, inputs: dict[str, Any], weights: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    """What `denoise` returns after the conditions, as a player calls them."""
    denoise = programs["denoise"]["forward"]
    sound = window_inputs(inputs["audio"][0].numpy(), Hearing.of(model.config), CLIP.latent_frames)
    given = inputs | {name: torch.from_numpy(value) for name, value in zip(("audio", "audio_present"), sound, strict=False)}
    encoded: dict[str, Tensor] = {}
    for name in CONDITION_PROGRAMS:
        encode = programs[name]["forward"]
        encoded |= zip(encode.outputs, encode.run(*(given[name] for name in encode.inputs)), strict=True)
    with torch.no_grad():
        time, modulation = model.dit.step_tables(inputs["timestep"])
    given = {"latents": inputs["latents"], "time": time, "modulation": modulation, "modality_weights": weights, "text_bias": bias}
    given |= encoded | {"audio_mask": torch.ones(1, CLIP.tokens_per_frame)}
    return denoise.run(*(given[name] for name in denoise.inputs))


@pytest.mark.parametrize("variant", ["flash", "preview"])
@torch.no_grad()
def test_denoising_programs_are_the_model(variant: Any) -> None:
    model = model_of(tiny_config(variant))
    programs = build_programs(model, CLIP, TEXT_ROWS)
    inputs, weights = arguments(model.config, 700.0), torch.rand(1, 3, CLIP.latent_frames)
    (velocity,) = played(programs, model, inputs, weights, torch.zeros(1, TEXT_ROWS))
    assert torch.equal(velocity, model.dit(**inputs, modality_weights=weights))
    assert (velocity - model.dit(**inputs)).abs().max() > 0.01


@torch.no_grad()
def test_a_collapsed_prompt_plays_like_a_padded_one() -> None:
    prompt = torch.randn(5, FLASH.config.text_dim, generator=torch.Generator().manual_seed(3))
    inputs, ones = arguments(FLASH.config, 700.0), torch.ones(1, 3, CLIP.latent_frames)
    text, bias = collapse_padding(prompt, FLASH.config.text_len, TEXT_ROWS)
    velocity, _ = played(PROGRAMS, FLASH, inputs | {"text": text[None]}, ones, bias[None])
    padded = FLASH.dit(**inputs | {"text": pad_text([prompt], FLASH.config.text_len)})
    torch.testing.assert_close(velocity, padded, rtol=0, atol=2e-5)  # measured: 1.2e-6 of 4.7
    unbiased, _ = played(PROGRAMS, FLASH, inputs | {"text": text[None]}, ones, torch.zeros(1, TEXT_ROWS))
    assert (unbiased - padded).abs().max() > 1e-3


@torch.no_grad()
def test_the_reusing_program_repeats_the_step_that_kept_the_residual() -> None:
    inputs, ones = arguments(FLASH.config, 700.0), torch.ones(1, 3, CLIP.latent_frames)
    velocity, residual = played(PROGRAMS, FLASH, inputs, ones, torch.zeros(1, TEXT_ROWS))
    time, _ = FLASH.dit.step_tables(inputs["timestep"])
    (patch_bias,) = PROGRAMS["patch_conditions"]["forward"].run(inputs["y"])
    (reused,) = PROGRAMS["denoise_reusing"]["forward"].run(inputs["latents"], time, residual, patch_bias)
    torch.testing.assert_close(reused, velocity, rtol=0, atol=5e-6)  # measured: 7.2e-7 of 4.9
