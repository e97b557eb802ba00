"""core/weights/checkpoints.py: finding the files, strict accounts of their tensors, what a wrong file probably is, and loading."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.config import FLASH, PREVIEW, ModelConfig, Variant
from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.model.architecture import TransformerLayout, VAELayout
from echoedge.core.weights import checkpoints
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
from .tiny_checkpoint import (
    MODEL,
    base_tensors,
    encoder_tensors,
    stored,
    tiny_sizes,
    transformer_tensors,
    write_checkpoint,
)

OWN = f"transformer/{MODEL}.safetensors"
BASE = f"{BASE_FOLDER}/{MODEL}.safetensors"
both = pytest.mark.parametrize("variant", ["flash", "preview"])


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Variant, Path]:
    top = tmp_path_factory.mktemp("checkpoints")
    return {variant: write_checkpoint(top / f"as-{variant}" / "released", variant) for variant in ("flash", "preview")}


@pytest.fixture
def folder(written: dict[Variant, Path], tmp_path: Path) -> Path:
    """A copy of the flash folder, to be changed."""
    return shutil.copytree(written["flash"], tmp_path / "flash")


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


# ---- finding the files -----------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("inner", ["", BASE_FOLDER, "transformer", OWN, "speech"])
def test_any_of_the_folders_may_be_given(written: dict[Variant, Path], variant: Variant, inner: str) -> None:
    whole = Checkpoint.open(written[variant])
    speech = whole.paths["wav2vec2"][0].parent.name
    found = Checkpoint.open(written[variant] / (speech if inner == "speech" else inner))
    assert found.variant == variant
    assert found.config().variant == variant
    assert found.paths == whole.paths
    assert [name for name in NEEDED_FOR if not found.paths[name]] == ["tokenizer"]


def test_components_may_lie_beside_the_folder(folder: Path) -> None:
    before = Checkpoint.open(folder)
    for name in (BASE_FOLDER, "chinese-wav2vec2-base", "taew2_1.pth"):
        (folder / name).rename(folder.parent / name)
    found = Checkpoint.open(folder)
    assert {name: len(paths) for name, paths in found.paths.items()} == {name: len(paths) for name, paths in before.paths.items()}
    assert found.paths["vae"] == (folder.parent / BASE_FOLDER / "Wan2.1_VAE.pth",)


def test_what_lies_beside_is_not_mixed_with_what_lies_inside(written: dict[Variant, Path], tmp_path: Path) -> None:
    shutil.copytree(written["flash"], tmp_path / "flash")
    shutil.copytree(written["preview"] / "transformer", tmp_path / "transformer")
    found = Checkpoint.open(tmp_path / "flash")
    assert found.variant == "flash"
    assert all(path.is_relative_to(tmp_path / "flash") for paths in found.paths.values() for path in paths)


def test_the_tensors_and_not_the_folders_name_decide_the_variant(written: dict[Variant, Path], tmp_path: Path) -> None:
    shutil.copytree(written["flash"], tmp_path / "preview")
    assert Checkpoint.open(tmp_path / "preview").variant == "flash"
    with pytest.raises(CheckpointError, match=r"is the flash transformer: it has audio_injection\.\*.*or ask for flash"):
        Checkpoint.open(tmp_path / "preview", "preview")


def test_two_transformers_are_told_apart_by_the_model_that_is_asked_for(written: dict[Variant, Path], tmp_path: Path) -> None:
    shutil.copytree(written["flash"], tmp_path, dirs_exist_ok=True)
    shutil.copytree(written["preview"] / "transformer", tmp_path / "echomimicv3-preview")
    shutil.copytree(written["preview"] / "wav2vec2-base-960h", tmp_path / "wav2vec2-base-960h")
    with pytest.raises(CheckpointError, match=r"2 transformers could be meant.*\(preview\).*Say which model"):
        Checkpoint.open(tmp_path)
    for model, place, speech in (
        ("flash", "transformer", "chinese-wav2vec2-base"),
        ("preview", "echomimicv3-preview", "wav2vec2-base-960h"),
    ):
        found = Checkpoint.open(tmp_path, model)
        assert found.variant == model
        assert found.paths["transformer"][0].parent.name == place
        assert found.paths["wav2vec2"][0].parent.name == speech


def test_one_outer_folder_may_hold_both_releases(written: dict[Variant, Path], tmp_path: Path) -> None:
    for variant, path in written.items():
        shutil.copytree(path, tmp_path / variant)
    found = Checkpoint.open(tmp_path, "preview")
    assert all(path.is_relative_to(tmp_path / "preview") for paths in found.paths.values() for path in paths)


def test_a_numbered_checkpoint_is_the_transformer_when_it_is_named(folder: Path) -> None:
    later = transformer_tensors(seed=3)
    torch.save({"state_dict": later, "step": 50000}, folder / "transformer" / "checkpoint-50000.pth")
    with pytest.raises(CheckpointError, match="2 transformers could be meant.*Name the file"):
        Checkpoint.open(folder)
    chosen = Checkpoint.open(folder / "transformer" / "checkpoint-50000.pth")
    assert same(load_transformer(chosen, torch.float32, config=tiny_config()), alive(later))


def test_equally_near_files_are_not_guessed_among(folder: Path) -> None:
    before = Checkpoint.open(folder).paths
    shutil.copytree(folder / BASE_FOLDER, folder / "Wan2.1-T2V-1.3B")
    assert Checkpoint.open(folder).paths == before  # the folder of the released name
    (folder / BASE_FOLDER).rename(folder / "Wan2.1-other")
    with pytest.raises(CheckpointError, match="2 files could be the base transformer"):
        Checkpoint.open(folder)


def test_safetensors_are_preferred_to_a_pickle_of_the_same_name(folder: Path) -> None:
    save_file(stored(tiny_vae(tiny_config().vae).state_dict()), folder / BASE_FOLDER / "Wan2.1_VAE.safetensors")
    assert [path.suffix for path in Checkpoint.open(folder).paths["vae"]] == [".safetensors"]


def test_quantised_copies_are_passed_over(folder: Path) -> None:
    (folder / BASE_FOLDER / "models_t5_umt5-xxl-enc-fp8.pth").write_bytes(b"x")
    assert [path.name for path in Checkpoint.open(folder).paths["text_encoder"]] == ["models_t5_umt5-xxl-enc-bf16.pth"]


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone does not exist\. Give the folder that holds transformer/"):
        Checkpoint.open(tmp_path / "gone")
    (tmp_path / "empty" / "holiday").mkdir(parents=True)
    (tmp_path / "empty" / "holiday" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="holds no part of EchoMimicV3"):
        Checkpoint.open(tmp_path / "empty")


@pytest.mark.parametrize(("model", "message"), [("nano", "weights are built in"), ("flsh", "Did you mean 'flash'")])
def test_only_released_models_have_a_checkpoint(folder: Path, model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Checkpoint.open(folder, model)


# ---- formats ---------------------------------------------------------------------------------------------------------------------

Writer = Callable[[Path, dict[str, Tensor]], Any]


def sharded(folder: Path, tensors: dict[str, Tensor], index: bool = True) -> None:
    names = list(tensors)
    places = {name: f"{MODEL}-0000{1 + number % 3}-of-00003.safetensors" for number, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
    if index:
        (folder / f"{MODEL}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


FORMATS: dict[str, Writer] = {
    "safetensors": lambda f, t: save_file(t, f / f"{MODEL}.safetensors"),
    "shards with an index": lambda f, t: sharded(f, t),
    "shards without": lambda f, t: sharded(f, t, index=False),
    "bin": lambda f, t: torch.save(t, f / f"{MODEL}.bin"),
    "before torch 1.6": lambda f, t: torch.save(t, f / f"{MODEL}.bin", _use_new_zipfile_serialization=False),
    "nested": lambda f, t: torch.save({"epoch": 3, "state_dict": t}, f / "checkpoint-9.pth"),
    "nested twice": lambda f, t: torch.save({"state_dict": {"module": t}}, f / "checkpoint-9.pth"),
    "module.": lambda f, t: torch.save({"model": prefixed("module.", t)}, f / "checkpoint-9.pth"),
    "model.diffusion_model.": lambda f, t: save_file(prefixed("model.diffusion_model.", t), f / f"{MODEL}.safetensors"),
    "not contiguous": lambda f, t: torch.save(t | {"head.head.weight": t["head.head.weight"].T.contiguous().T}, f / f"{MODEL}.bin"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_module(name: str, folder: Path) -> None:
    (folder / OWN).unlink()
    tensors = stored(transformer_tensors(seed=5))
    FORMATS[name](folder / "transformer", tensors)
    model = load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config())
    assert same(model, alive(tensors))
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_missing_shard_and_a_broken_index_are_named(folder: Path) -> None:
    (folder / OWN).unlink()
    sharded(folder / "transformer", stored(transformer_tensors()))
    shard = folder / "transformer" / f"{MODEL}-00002-of-00003.safetensors"
    shard.rename(folder / "away")
    assert f"names the shard {shard.name}, which is not there" in complaint(folder)
    save_file({"blocks.0.modulation": torch.ones(1)}, shard)
    assert re.search(r"00002-of-00003.safetensors lacks \d+ tensors of its index", complaint(folder))
    index = folder / "transformer" / f"{MODEL}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    assert "lies outside its folder" in complaint(folder)
    index.write_text("[1]")
    assert "is no index of shards" in complaint(folder)


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


# ---- damaged and hostile files ---------------------------------------------------------------------------------------------------


class _Touches:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_unrun(new_format: bool, folder: Path) -> None:
    (folder / OWN).unlink()
    path, trace = folder / "transformer" / "checkpoint-1.pth", folder / "trace"
    tensors = transformer_tensors() | {"z": _Touches(trace)}
    torch.save(tensors, path, _use_new_zipfile_serialization=new_format)
    message = complaint(folder)
    assert f"{path} is a pickle that needs" in message
    assert "nothing in a file is run" in message
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the trap works: without the guard the file appears
    assert trace.exists()


def test_a_pickle_of_an_unknown_class_is_refused_by_its_name(folder: Path) -> None:
    (folder / OWN).unlink()
    import argparse

    torch.save({"args": argparse.Namespace(x=1), "state_dict": transformer_tensors()}, folder / "transformer" / "checkpoint-1.pth")
    assert "is a pickle that needs argparse.Namespace; only tensors are read" in complaint(folder)


def shortened(path: Path, part: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


@pytest.mark.parametrize("component", ["transformer", *SINGLE])
@pytest.mark.parametrize("part", [0.002, 0.6, 0.999])
def test_a_truncated_file_is_named(component: str, part: float, folder: Path) -> None:
    if component == "transformer":
        (folder / BASE).unlink()
    path = folder / (OWN if component == "transformer" else SINGLE[component][0])
    shortened(path, part)
    found = Checkpoint.open(folder)
    listed = next(a for a in found.accounts(tiny_sizes()) if a.name == component)
    assert listed.status == "unreadable"
    load = load_transformer if component == "transformer" else LOADERS[component]
    with pytest.raises(CheckpointError, match=r"(is damaged|is empty).*Download it again\.") as caught:
        load(found, config=tiny_config() if component == "transformer" else SINGLE[component][1])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.001, 0.05, 0.5])
def test_a_truncated_pickle_from_before_torch_1_6_is_named(part: float, folder: Path) -> None:
    path = folder / SINGLE["vae"][0]
    torch.save(stored(tiny_vae(tiny_config().vae).state_dict()), path, _use_new_zipfile_serialization=False)
    shortened(path, part)
    with pytest.raises(CheckpointError, match="Wan2.1_VAE.pth is damaged"):
        load_vae(Checkpoint.open(folder), config=tiny_config().vae)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "is a pointer of Git LFS.*git lfs pull"),
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "is damaged"),
    ],
)
def test_what_is_no_file_of_tensors_is_named(suffix: str, content: bytes, expected: str, folder: Path) -> None:
    (folder / BASE_FOLDER / "Wan2.1_VAE.pth").unlink()
    (folder / BASE_FOLDER / f"Wan2.1_VAE.{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match=expected):
        load_vae(Checkpoint.open(folder), config=tiny_config().vae)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.ones(2)], "holds a list, not tensors by name"),
        ({"epoch": 3}, "holds no tensors by name; it holds epoch"),
        ({"state_dict": {}}, "holds no tensors by name; it holds nothing"),
        ({"a": torch.ones(2).to_sparse()}, "holds a as a sparse or quantised tensor"),
    ],
)
def test_pickles_of_something_else(content: Any, expected: str, folder: Path) -> None:
    torch.save(content, folder / SINGLE["vae"][0])
    with pytest.raises(CheckpointError, match=expected):
        load_vae(Checkpoint.open(folder), config=tiny_config().vae)


def test_a_torchscript_program_is_no_checkpoint(folder: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(folder / SINGLE["vae"][0]))
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_vae(Checkpoint.open(folder), config=tiny_config().vae)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused(dtype: torch.dtype, folder: Path) -> None:
    tensors = transformer_tensors()
    tensors["head.head.weight"] = tensors["head.head.weight"].to(dtype)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / OWN)
    message = complaint(folder)
    assert f"1 of a type that is not read: head.head.weight ({str(dtype).removeprefix('torch.')})" in message
    assert "Take the file in bf16, fp16 or fp32." in message


def test_a_tensor_that_is_there_twice_is_refused(folder: Path) -> None:
    path, config = SINGLE["wav2vec2"]
    tensors = prefixed("wav2vec2.", encoder_tensors(config))
    tensors["wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"] = torch.ones(1, 1, 4)
    torch.save(tensors, folder / path)
    with pytest.raises(CheckpointError, match="has one tensor twice"):
        load_speech_encoder(Checkpoint.open(folder), config=config)


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


def share_mapped(tensors: Iterable[Tensor], path: Path) -> float:
    """How many of the tensors lie in memory that is mapped from a file, of 1."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines if line[5:] == [str(path)]]
    inside = [any(start <= tensor.data_ptr() < end for start, end in ranges) for tensor in tensors]
    return sum(inside) / len(inside)


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_tensor_of_the_right_type_is_the_files_own_memory(suffix: str, folder: Path) -> None:
    (folder / OWN).unlink()
    tensors, path = stored(transformer_tensors(), torch.bfloat16), folder / "transformer" / f"{MODEL}.{suffix}"
    FORMATS[suffix](path.parent, tensors)
    before = path.read_bytes()
    model = load_transformer(Checkpoint.open(folder), torch.bfloat16, config=tiny_config())
    float32 = [parameter for parameter in model.parameters() if parameter.dtype == torch.float32]
    assert share_mapped((parameter for parameter in model.parameters() if parameter.dtype == torch.bfloat16), path) == 1
    assert len(float32) == 6
    assert share_mapped(float32, path) == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == before
    whole = load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config())
    assert share_mapped(whole.parameters(), path) == 0


@linux
@pytest.mark.parametrize("component", ["vae", "clip", "text_encoder"])
def test_other_components_are_mapped_too(component: str, folder: Path) -> None:
    path, config = SINGLE[component]
    module = LOADERS[component](Checkpoint.open(folder), config=config, dtype=torch.float32)
    assert share_mapped(module.parameters(), folder / path) == 1


def test_pages_that_were_read_for_a_conversion_are_handed_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = []
    real = checkpoints.TensorFile.open

    def counted(self: checkpoints.TensorFile) -> Mapping[str, Tensor]:
        maps.append(self.path)
        return real(self)

    monkeypatch.setattr(checkpoints.TensorFile, "open", counted)
    layout, tensors = TransformerLayout(tiny_config()), alive(transformer_tensors())
    size = sum(tensor.nbytes for tensor in tensors.values())
    for most, times in ((size, 1), (size // 10, 10)):
        maps.clear()
        monkeypatch.setattr(checkpoints, "_REMAP_BYTES", most)
        found = Checkpoint.open(folder).tensors("transformer", layout, lambda _: torch.bfloat16)
        assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in tensors.items())
        assert times - 2 <= len(maps) <= times, (most, len(maps))
