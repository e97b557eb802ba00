"""core/weights/finding.py: the files of a checkpoint are found in any of its folders, and never guessed among."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from echoedge.core.config import Variant
from echoedge.core.errors import CheckpointError, ConfigError
from echoedge.core.weights.accounts import BASE_FOLDER, NEEDED_FOR
from echoedge.core.weights.checkpoints import Checkpoint, load_transformer

from .test_checkpoints import OWN, alive, both, same
from .tiny import tiny_config, tiny_vae
from .tiny_checkpoint import stored, transformer_tensors


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
