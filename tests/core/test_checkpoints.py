"""core/weights/checkpoints.py: strict accounts of a checkpoint's tensors, what a wrong file probably is, and loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.config import FLASH, PREVIEW, ModelConfig, Variant
from echoedge.core.errors import CheckpointError
from echoedge.core.model.architecture import TransformerLayout, VAELayout
from echoedge.core.weights.accounts import BASE_FOLDER, NEEDED_FOR, Account
from echoedge.core.weights.checkpoints import (
    Checkpoint,
    load_image_encoder,
    load_speech_encoder,
    load_text_encoder,
    load_tiny_vae,
    load_tokenizer,
    load_transformer,
    load_vae,
)

from .tiny import tiny_config, tiny_dit, tiny_inputs, tiny_vae
from .tiny_checkpoint import MODEL, base_tensors, encoder_tensors, stored, tiny_sizes, transformer_tensors

OWN = f"transformer/{MODEL}.safetensors"
BASE = f"{BASE_FOLDER}/{MODEL}.safetensors"
both = pytest.mark.parametrize("variant", ["flash", "preview"])


def account(folder: Path, config: ModelConfig | None = None) -> Account:
    return Checkpoint.open(folder).account("transformer", TransformerLayout(config or tiny_config()))


def complaint(folder: Path, config: ModelConfig | None = None) -> str:
    """The error of loading the transformer."""
    with pytest.raises(CheckpointError) as caught:
        load_transformer(Checkpoint.open(folder), config=config or tiny_config())
    return str(caught.value)


def same(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the module's parameters are these, bit by bit, and no others."""
    state = module.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def alive(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "q_audio" not in name}


# ---- base and overlay ------------------------------------------------------------------------------------------------------------


def test_the_overlay_wins_and_the_base_fills_what_it_lacks(folder: Path) -> None:
    own, base = transformer_tensors(), base_tensors()
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(own))
    assert list(account(folder).origins.values()) == [107, 0]
    left_out = [name for name in base if name.startswith(("blocks.1.ffn", "head"))]
    save_file(stored({name: tensor for name, tensor in own.items() if name not in left_out}), folder / OWN)
    model = load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config())
    assert same(model, alive(own) | {name: base[name] for name in left_out})
    assert account(folder).origins == {folder / OWN: 107 - len(left_out), folder / BASE: len(left_out)}


def test_the_base_is_not_needed_beside_a_whole_overlay(folder: Path) -> None:
    (folder / BASE).write_bytes(b"damaged")
    assert account(folder).status == "complete"
    (folder / BASE).unlink()
    assert account(folder).status == "complete"


def test_a_base_with_fewer_input_channels_does_no_harm_below_an_overlay(folder: Path) -> None:
    base = base_tensors()
    base["patch_embedding.weight"] = base["patch_embedding.weight"][:, :16]
    save_file(stored(base), folder / BASE)
    partial = {name: tensor for name, tensor in transformer_tensors().items() if not name.startswith("head")}
    save_file(stored(partial), folder / OWN)
    model = load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config())
    assert torch.equal(model.patch_embedding.weight, partial["patch_embedding.weight"])
    del partial["patch_embedding.weight"]
    save_file(stored(partial), folder / OWN)
    assert "patch_embedding.weight is [48, 16, 1, 2, 2], not [48, 36, 1, 2, 2]" in complaint(folder)


def test_dead_weights_are_dropped_and_counted(folder: Path) -> None:
    found = account(folder)
    assert (found.status, found.stored, found.found, found.expected, found.used) == ("complete", 111, 111, 111, 107)
    assert found.dropped == {"q_audio is dead weight: upstream computes and discards it": 4}
    assert found.parameters - found.used_parameters == 2 * (48 * 48 + 48)
    save_file(stored(alive(transformer_tensors())), folder / OWN)
    stripped = account(folder)
    assert (stripped.status, stripped.found, stripped.dropped) == ("complete", 107, {})


def test_preview_has_no_dead_weights(written: dict[Variant, Path], tmp_path: Path) -> None:
    preview = shutil.copytree(written["preview"], tmp_path / "preview")
    tensors = transformer_tensors("preview") | {"blocks.0.cross_attn.q_audio.bias": torch.ones(48)}
    save_file(stored(tensors), preview / OWN)
    assert "1 unexpected: blocks.0.cross_attn.q_audio.bias" in complaint(preview, tiny_config("preview"))


# ---- strict accounts, and what was probably meant --------------------------------------------------------------------------------


def test_missing_unexpected_and_misshaped_tensors_are_listed_with_their_counts(folder: Path) -> None:
    tensors = transformer_tensors()
    for name in [name for name in tensors if name.startswith("blocks.1.ffn")]:
        del tensors[name]
    (folder / BASE).unlink()
    tensors["head.modulation"] = torch.ones(1, 2, 40)
    tensors |= {f"extra.{number}": torch.ones(2) for number in range(6)}
    save_file(stored(tensors), folder / OWN)
    message = complaint(folder)
    assert message.startswith(f"{folder / OWN} does not hold the flash transformer: 106 of 111 tensors fit.")
    assert "4 missing: blocks.1.ffn.0.weight, blocks.1.ffn.0.bias" in message
    assert "6 unexpected: extra.0, extra.1, extra.2, extra.3, … 2 more" in message
    assert "1 of another shape: head.modulation is [1, 2, 40], not [1, 2, 48]" in message


def replaced(folder: Path, own: dict[str, Tensor] | None, base: dict[str, Tensor] | None = None) -> Path:
    """The folder with other transformer files; None removes one."""
    for path, tensors in ((folder / OWN, own), (folder / BASE, base)):
        path.unlink()
        if tensors is not None:
            save_file(stored(tensors), path)
    return folder


def wider(tensors: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """As if of a model of that width, as far as its first block shows it."""
    return tensors | {"blocks.0.self_attn.q.weight": torch.ones(width, 2)}


def test_the_other_variant_is_recognised(folder: Path) -> None:
    message = complaint(folder, tiny_config("preview"))
    assert (
        "is the flash transformer, of width 48: it has audio_injection.*. Ask for flash, or give the folder of preview." in message
    )


def test_the_base_alone_is_recognised(folder: Path) -> None:
    message = complaint(replaced(folder, None, base_tensors()))
    assert f"EchoMimic's own file, {OWN}, is missing: only Wan's base transformer is there." in message
    assert Checkpoint.open(folder).variant is None
    assert Checkpoint.open(folder, "preview").config() is PREVIEW
    assert Checkpoint.open(folder).config() is FLASH


@pytest.mark.parametrize("place", ["base", "own"])
@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (lambda: encoder_tensors(VAELayout(tiny_config().vae)), "is the VAE of Wan 2.1; it belongs in the place of the vae."),
        (lambda: {"blocks.0.attn1.to_q.weight": torch.ones(4, 4)}, "is a transformer in the layout of diffusers"),
        (lambda: base_tensors() | {"patch_embedding.weight": torch.ones(48, 16, 1, 2, 2)}, "text-to-video transformer (16 input"),
        (lambda: wider(base_tensors(), 5120), "is a 14B transformer (width 5120)"),
        (lambda: {"blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 4)}, "is a LoRA adapter"),
        (lambda: encoder_tensors(tiny_sizes().text_encoder), "is the umT5 encoder; it belongs in the place of the text_encoder."),
        (lambda: encoder_tensors(tiny_sizes().tiny_vae), "is a tiny autoencoder; it belongs in the place of the tiny_vae."),
    ],
)  # fmt: skip
def test_a_wrong_transformer_file_is_recognised(
    place: str, tensors: Callable[[], dict[str, Tensor]], expected: str, folder: Path
) -> None:
    message = complaint(replaced(folder, *((None, tensors()) if place == "base" else (tensors(), None))))
    assert expected in message
    assert str(folder / (BASE if place == "base" else OWN)) in message


SINGLE = {
    "vae": (f"{BASE_FOLDER}/Wan2.1_VAE.pth", tiny_config().vae),
    "clip": (f"{BASE_FOLDER}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", tiny_sizes().clip),
    "text_encoder": (f"{BASE_FOLDER}/models_t5_umt5-xxl-enc-bf16.pth", tiny_sizes().text_encoder),
    "wav2vec2": ("chinese-wav2vec2-base/pytorch_model.bin", tiny_sizes().wav2vec2),
    "tiny_vae": ("taew2_1.pth", tiny_sizes().tiny_vae),
}
LOADERS: dict[str, Callable[..., Any]] = {
    "vae": load_vae, "clip": load_image_encoder, "text_encoder": load_text_encoder, "wav2vec2": load_speech_encoder,
    "tiny_vae": load_tiny_vae,
}  # fmt: skip


@pytest.mark.parametrize(
    ("component", "names", "expected"),
    [
        ("vae", {"decoder.up_blocks.0.resnets.0.conv1.weight": (4,)}, "is a VAE in the layout of diffusers; take Wan2.1_VAE.pth"),
        ("vae", {"decoder.upsamples.0.x": (4,), "conv2.weight": (48, 48, 1, 1, 1)}, "is the VAE of Wan 2.2 (48 latent channels)"),
        ("clip", {"visual.transformer.resblocks.0.ln_1.weight": (4,)}, "is a CLIP in the layout of open_clip"),
        ("clip", {"vision_model.encoder.layers.0.layer_norm1.weight": (4,)}, "is a CLIP in the layout of Hugging Face"),
        ("clip", {"decoder.upsamples.0.x": (4,)}, "is the VAE of Wan 2.1; it belongs in the place of the vae"),
        ("text_encoder", {"encoder.block.0.layer.0.SelfAttention.q.weight": (4,)}, "is a T5 in the layout of Hugging Face"),
        ("wav2vec2", {"wav2vec2.feature_extractor.conv_layers.0.conv.weight": (4,), "wav2vec2.encoder.layer_norm.weight": (1024,)},
         "is a wav2vec2-large (width 1024)"),
        ("wav2vec2", {"feature_extractor.conv_layers.0.0.weight": (4,)}, "is a wav2vec2 in the layout of fairseq"),
        ("tiny_vae", {"visual.transformer.0.attn.to_qkv.weight": (4,)}, "is the CLIP of Wan; it belongs in the place of the clip"),
    ],
)  # fmt: skip
def test_another_wrong_file_is_recognised(component: str, names: dict[str, tuple[int, ...]], expected: str, folder: Path) -> None:
    path, config = SINGLE[component]
    torch.save({name: torch.ones(shape) for name, shape in names.items()}, folder / path)
    with pytest.raises(CheckpointError) as caught:
        LOADERS[component](Checkpoint.open(folder), config=config)
    assert expected in str(caught.value)


def test_a_clip_without_its_text_tower_is_enough(folder: Path) -> None:
    path, config = SINGLE["clip"]
    torch.save(encoder_tensors(config), folder / path)
    assert Checkpoint.open(folder).account("clip", config).status == "complete"


def test_what_config_json_says_of_the_transformer_has_to_agree(folder: Path) -> None:
    (folder / BASE_FOLDER / "config.json").write_text(json.dumps({"num_heads": 3, "eps": 1e-6, "text_len": 12}))
    assert "1 in conflict with config.json: num_heads is 3, not 2" in complaint(folder)
    (folder / BASE_FOLDER / "config.json").write_text("no")
    assert "config.json is no JSON" in complaint(folder)
    (folder / BASE_FOLDER / "config.json").unlink()
    assert account(folder).status == "complete"


def test_what_config_json_says_of_wav2vec2_has_to_agree(folder: Path) -> None:
    config, path = tiny_sizes().wav2vec2, folder / "chinese-wav2vec2-base" / "config.json"
    said = {
        "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "conv_dim": [8, 8],
        "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    for change, expected in (({}, ()), ({"conv_stride": [5, 4]}, ("conv_strides is (5, 4), not (5, 2)",))):
        path.write_text(json.dumps(said | change))
        assert Checkpoint.open(folder).account("wav2vec2", config).conflicts == expected
    path.write_text(json.dumps(said | {"do_stable_layer_norm": True}))
    assert "do_stable_layer_norm" in Checkpoint.open(folder).account("wav2vec2", config).conflicts[0]


def test_an_absent_component_says_what_was_looked_for(folder: Path) -> None:
    (folder / "taew2_1.pth").unlink()
    with pytest.raises(CheckpointError, match=r"There is no tiny_vae: looked for taew2_1\.pth.*needed for quick previews"):
        load_tiny_vae(Checkpoint.open(folder), config=tiny_sizes().tiny_vae)
    with pytest.raises(CheckpointError, match="There is no tokenizer: looked for a folder umt5-xxl"):
        load_tokenizer(Checkpoint.open(folder))
    replaced(folder, None)
    with pytest.raises(CheckpointError, match="There is no transformer: looked for"):
        load_transformer(Checkpoint.open(folder), config=tiny_config())


def test_accounts_are_of_every_component_and_fit_into_json(folder: Path) -> None:
    accounts = Checkpoint.open(folder).accounts(tiny_sizes())
    assert {found.name: found.status for found in accounts} == dict.fromkeys(NEEDED_FOR, "complete") | {"tokenizer": "absent"}
    data = json.loads(json.dumps([found.to_dict() for found in accounts]))
    assert data[0]["files"] == [str(folder / OWN), str(folder / BASE)]
    assert data[0]["types"] == {"fp32": 107}
    released = Checkpoint.open(folder).accounts()
    assert {found.name: found.status for found in released} == dict.fromkeys(NEEDED_FOR, "incomplete") | {"tokenizer": "absent"}


@both
def test_the_released_transformers_have_as_many_tensors_and_parameters_as_counted_upstream(variant: Variant) -> None:
    config = {"flash": FLASH, "preview": PREVIEW}[variant]
    layout = TransformerLayout(config)
    shapes = layout.tensors() | layout.dead
    assert len(shapes) == {"flash": 1203, "preview": 1076}[variant]
    assert (
        sum(torch.Size(shape).numel() for shape in shapes.values()) == {"flash": 1_863_772_992, "preview": 1_707_215_168}[variant]
    )


# ---- loading ---------------------------------------------------------------------------------------------------------------------

TYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("asked", TYPES)
@pytest.mark.parametrize("kept", TYPES)
def test_types_are_converted_but_for_the_timestep_mlp(kept: torch.dtype, asked: torch.dtype, folder: Path) -> None:
    tensors = transformer_tensors()
    save_file(stored(tensors, kept), folder / OWN)
    state = load_transformer(Checkpoint.open(folder), asked, config=tiny_config()).state_dict()
    for name, tensor in alive(tensors).items():
        wanted = torch.float32 if name.startswith(("time_embedding.", "time_projection.")) else asked
        assert state[name].dtype == wanted, name
        assert torch.equal(state[name], tensor.to(kept).to(wanted)), name


def test_a_bf16_transformer_computes_nearly_what_the_fp32_one_does(folder: Path) -> None:
    inputs = tiny_inputs(tiny_config())
    timestep = torch.tensor([500.0])
    with torch.no_grad():
        exact = tiny_dit(tiny_config())(inputs["latents"], timestep, *(inputs[n] for n in ("y", "text", "image", "audio")))
        model = load_transformer(Checkpoint.open(folder), torch.bfloat16, config=tiny_config())
        half = {name: tensor.bfloat16() for name, tensor in inputs.items()}
        time, modulation = (t.bfloat16() for t in model.step_tables(timestep))
        conditions = model.encode_conditions(*(half[n] for n in ("y", "text", "image", "audio")))
        weights = torch.ones(1, 3, half["latents"].shape[2], dtype=torch.bfloat16)
        rough = model.denoise(half["latents"], time, modulation, weights, conditions)
    error = (rough.float() - exact).norm() / exact.norm()
    print("ERR", float(error))
    assert error < 0.05  # measured 0.008; bf16 keeps 8 bits


def test_modules_are_ready_for_inference(folder: Path) -> None:
    found, sizes = Checkpoint.open(folder), tiny_sizes()
    modules = [load_transformer(found, config=sizes.transformer)]
    modules += [load(found, config=SINGLE[name][1]) for name, load in LOADERS.items()]
    for module in modules:
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def test_the_vae_computes_what_its_tensors_say(folder: Path) -> None:
    config = tiny_config().vae
    reference = tiny_vae(config)
    latents = torch.randn(1, 16, 2, 4, 4)
    vae = load_vae(Checkpoint.open(folder), config=config)
    assert torch.equal(vae.decode(latents), reference.decode(latents))
    assert torch.equal(vae.latents_std, reference.latents_std)
    other = load_vae(Checkpoint.open(folder), config=replace(config, latents_mean=(1.0,) * 16))
    assert not torch.equal(other.decode(latents), reference.decode(latents))


@pytest.mark.parametrize("component", ["clip", "text_encoder", "wav2vec2", "tiny_vae"])
def test_the_encoders_hold_what_the_file_holds(component: str, folder: Path) -> None:
    path, config = SINGLE[component]
    content = torch.load(folder / path)
    tensors = {config.canonical(name): tensor for name, tensor in content.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if name in config.tensors()}
    options = {} if component == "tiny_vae" else {"dtype": torch.float32}
    loaded = LOADERS[component](Checkpoint.open(folder), config=config, **options)
    assert same(loaded, config.build(tensors).state_dict())
