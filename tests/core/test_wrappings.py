"""core/weights/wrappings.py: what training tools put around weights is taken off, told, and never guessed; adapters are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.config import PRESETS
from echoedge.core.model.architecture import Architecture, TransformerLayout
from echoedge.core.weights.accounts import Account
from echoedge.core.weights.checkpoints import Checkpoint, load_image_encoder, load_transformer
from echoedge.core.weights.wrappings import fitting, unwrap

from .test_checkpoints import OWN, SINGLE, alive, complaint, same
from .tiny import tiny_config
from .tiny_checkpoint import MODEL, encoder_tensors, stored, transformer_tensors

Tensors = dict[str, Tensor]


def own(seed: int = 5) -> Tensors:
    return stored(transformer_tensors(seed=seed))


def account(folder: Path) -> Account:
    return Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config()))


def written(folder: Path, content: Any, suffix: str = "safetensors") -> Path:
    """The folder with this as EchoMimic's file, and no other."""
    (folder / OWN).unlink(missing_ok=True)
    path = folder / "transformer" / (f"{MODEL}.safetensors" if suffix == "safetensors" else "checkpoint-9.pth")
    if suffix == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return folder


def before(prefix: str, tensors: Tensors, only: Callable[[str], bool] = lambda _: True) -> Tensors:
    return {prefix + name if only(name) else name: tensor for name, tensor in tensors.items()}


def within(word: str, tensors: Tensors) -> Tensors:
    """The word behind each block's number, as where each block was compiled by itself."""
    return {
        ".".join((*name.split(".")[:2], word, *name.split(".")[2:])) if "blocks." in name else name: t
        for name, t in tensors.items()
    }


# ---- words in names --------------------------------------------------------------------------------------------------------------

NAMES: dict[str, tuple[Callable[[Tensors], Tensors], tuple[str, ...]]] = {
    "compiled": (lambda t: before("_orig_mod.", t), ("_orig_mod",)),
    "in parallel": (lambda t: before("module.", t), ("module",)),
    "lightning": (lambda t: before("model.", t), ("model",)),
    "transformer": (lambda t: before("transformer.", t), ("transformer",)),
    "a tool of tomorrow": (lambda t: before("my_student_v2.", t), ("my_student_v2",)),
    "several": (lambda t: before("model.net.module._orig_mod.", t), ("model", "net", "module", "_orig_mod")),
    "on some": (lambda t: before("model.", t, lambda name: name.startswith("blocks.0.")), ("model",)),
    "each block": (lambda t: within("_orig_mod", t), ("_orig_mod",)),
    "outside and inside": (lambda t: before("module.", within("_orig_mod", t)), ("module", "_orig_mod")),
    "checkpointed": (lambda t: within("_checkpoint_wrapped_module", t), ("_checkpoint_wrapped_module",)),
    "two ways": (lambda t: before("a.", before("b.", t, lambda n: "blocks.1." in n), lambda n: "blocks.0." in n), ("a", "b")),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("name", NAMES)
def test_words_in_names_are_taken_off_and_told(name: str, suffix: str, folder: Path) -> None:
    wrap, words = NAMES[name]
    tensors = own()
    written(folder, wrap(tensors), suffix)
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(tensors))
    (note,) = account(folder).notes
    assert note.startswith("The names of ")
    assert sorted(note.rstrip(".").split(" without ")[1].split(", ")) == sorted(map(repr, words))


def test_released_names_are_left_alone(folder: Path) -> None:
    assert account(folder).notes == ()
    for variant in ("flash", "preview"):
        sizes = Architecture(PRESETS[variant])
        for component in ("transformer", *SINGLE):
            layout = sizes.layout(component)  # type: ignore[arg-type]
            assert layout is not None
            names = layout.tensors()
            found = unwrap(names, "a file")
            assert (dict(found.names), found.words) == ({name: name for name in names}, ())
            assert fitting(names) == len(names)


def test_a_word_that_is_part_of_other_names_is_taken_off_in_front(folder: Path) -> None:
    path, config = SINGLE["clip"]
    tensors = encoder_tensors(config)
    torch.save(before("transformer.", tensors), folder / path)
    loaded = load_image_encoder(Checkpoint.open(folder), dtype=torch.float32, config=config)
    assert same(loaded, config.build(tensors).state_dict())


def test_what_is_not_the_component_s_keeps_its_name(folder: Path) -> None:
    """A word that few tensors could do without is part of their names: they are unexpected, and nothing is taken for them."""
    tensors = own()
    del tensors["blocks.1.ffn.0.bias"]
    extra = {f"blocks.1.ffn.adapter.{n}.bias": torch.ones(80) for n in range(3)}
    written(folder, tensors | {"controlnet.weight": torch.ones(2)} | extra)
    message = complaint(folder)
    assert "4 unexpected: " in message
    for name in ("controlnet.weight", *extra):
        assert name in message


def test_a_second_tensor_of_a_name_is_unexpected(folder: Path) -> None:
    tensors = own()
    written(folder, tensors | {"blocks.0.ffn.copy.0.weight": tensors["blocks.0.ffn.0.weight"].clone()})
    assert "1 unexpected: blocks.0.ffn.copy.0.weight" in complaint(folder)


# ---- several sets ----------------------------------------------------------------------------------------------------------------

SETS: dict[str, Callable[[Tensors, Tensors], dict[str, Any]]] = {
    "generator": lambda plain, ema: {"generator": plain, "generator_ema": ema},
    "generator first": lambda plain, ema: {"generator_ema": ema, "generator": plain, "step": 7},
    "ema": lambda plain, ema: {"state_dict": plain, "ema": ema},
    "swa": lambda plain, ema: {"model": plain, "swa_model": ema},
    "deep": lambda plain, ema: {"train": {"model": plain, "model_ema": {"module": ema}}, "epoch": 3},
    "outside all": lambda plain, ema: plain | {"ema": ema},
    "beside an optimizer": lambda plain, ema: {"model": plain, "ema": ema, "optimizer": {"exp_avg": plain}, "exp_avg": plain},
    "compiled": lambda plain, ema: {"generator": before("_orig_mod.", plain), "generator_ema": ema},
}


@pytest.mark.parametrize("name", SETS)
def test_of_several_dictionaries_the_average_is_taken_and_told(name: str, folder: Path) -> None:
    ema = own(6)
    written(folder, SETS[name](own(5), ema), "pth")
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(ema))
    (note,) = account(folder).notes
    assert note.startswith("The tensors of checkpoint-9.pth are those of '")
    assert ("ema" in note or "swa" in note) and "left aside" in note


def test_numbers_beside_the_tensors_are_not_told(folder: Path) -> None:
    written(folder, {"state_dict": own(), "step": torch.tensor(7), "epoch": 3}, "pth")
    assert account(folder).notes == ("The tensors of checkpoint-9.pth are those of 'state_dict'.",)
    written(folder, own() | {"optimizer": {"state": {"a": torch.ones(2)}}}, "pth")
    assert (account(folder).status, account(folder).notes) == ("complete", ())


@pytest.mark.parametrize("name", ["ema", "state_dict", "model", "generator_ema", "student"])
def test_a_dictionary_around_the_tensors_is_taken_off_and_told(name: str, folder: Path) -> None:
    tensors = own()
    written(folder, {name: tensors}, "pth")
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(tensors))
    assert account(folder).notes == (f"The tensors of checkpoint-9.pth are those of {name!r}.",)


@pytest.mark.parametrize("content", [
    lambda plain, other: {"generator": plain, "critic": other},
    lambda plain, other: {"generator_ema": plain, "critic_ema": other},
])  # fmt: skip
def test_equal_dictionaries_are_not_guessed_among(content: Callable[[Tensors, Tensors], Any], folder: Path) -> None:
    written(folder, content(own(5), own(6)), "pth")
    message = complaint(folder)
    assert message.startswith(f"{folder / 'transformer' / 'checkpoint-9.pth'} holds 2 sets of the same tensors ('generator")
    assert message.endswith("save the one that is meant alone.")


def test_an_average_of_a_part_is_not_taken_for_the_whole(folder: Path) -> None:
    plain = own(5)
    part = {name: tensor for name, tensor in own(6).items() if "audio" in name}
    written(folder, {"model": plain, "ema": part}, "pth")
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(plain))
    assert account(folder).notes == ("The tensors of checkpoint-9.pth are those of 'model'; those of 'ema' are left aside.",)


@pytest.mark.parametrize(("one", "two"), [("generator.", "generator_ema."), ("", "ema."), ("model.net.", "model.ema_net.")])
def test_of_several_sets_in_one_list_of_names_the_average_is_taken_and_told(one: str, two: str, folder: Path) -> None:
    ema = own(6)
    written(folder, before(one, own(5)) | before(two, ema))
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(ema))
    notes = " ".join(account(folder).notes)
    assert "111 tensors" in notes and "left aside" in notes and "ema" in notes


def test_equal_sets_in_one_list_of_names_are_not_guessed_among(folder: Path) -> None:
    written(folder, before("generator.", own(5)) | before("critic.", own(6)))
    assert "holds 2 sets of the same tensors ('critic', 'generator')" in complaint(folder)


# ---- adapters --------------------------------------------------------------------------------------------------------------------

ADAPTERS: dict[str, Tensors] = {
    "lora": {"blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 48), "blocks.0.self_attn.q.lora_B.weight": torch.ones(48, 4)},
    "kohya": {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(4, 48)},
    "peft": {"base_model.model.blocks.0.self_attn.q.lora_A.default.weight": torch.ones(4, 48)},
    "lokr": {"blocks.0.self_attn.q.lokr_w1": torch.ones(4, 4)},
    "loha": {"blocks.0.self_attn.q.hada_w1_a": torch.ones(48, 4)},
    "dora": {"blocks.0.self_attn.q.lora_magnitude_vector.weight": torch.ones(48)},
    "dora, as kohya has it": {"lora_unet_blocks_0_self_attn_q.dora_scale": torch.ones(48, 1)},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_beside_the_weights_is_named_and_refused(name: str, folder: Path) -> None:
    adapter = ADAPTERS[name]
    written(folder, own() | adapter)
    assert complaint(folder) == (
        f"{folder / OWN} holds {len(adapter):,} tensors of an adapter beside the weights, such as {min(adapter)}. "
        "Merge them into the weights first, with the program that made the file."
    )
    written(folder, own())
    assert account(folder).status == "complete"


def test_an_adapter_around_base_layers_is_named_and_refused(folder: Path) -> None:
    tensors = own()
    for part in ("q", "k"):
        weight = tensors.pop(f"blocks.0.self_attn.{part}.weight")
        tensors[f"blocks.0.self_attn.{part}.base_layer.weight"] = weight
        tensors[f"blocks.0.self_attn.{part}.lora_A.default.weight"] = torch.ones(4, 48)
    written(folder, before("base_model.model.", tensors))
    assert "holds 2 tensors of an adapter beside the weights" in complaint(folder)


def test_an_adapter_of_more_tensors_than_the_weights_is_named_and_refused(folder: Path) -> None:
    adapter = {f"blocks.0.self_attn.q.lora_A.{number}.weight": torch.ones(4, 48) for number in range(200)}
    written(folder, own() | adapter)
    assert "holds 200 tensors of an adapter beside the weights" in complaint(folder)


def test_an_adapter_alone_is_no_transformer_of_its_own(folder: Path) -> None:
    """Not even the base, whose names it has within its own; beside a whole transformer it harms nothing."""
    lora = {
        f"blocks.{block}.self_attn.{part}.lora_{side}.weight": torch.ones(4, 48)
        for block in range(2)
        for part in ("q", "k", "v")
        for side in "AB"
    }
    torch.save(lora, folder / "transformer" / "checkpoint-1.pth")
    assert account(folder).status == "complete"
    (folder / OWN).unlink()
    message = complaint(folder)
    assert (
        f"{folder / 'transformer' / 'checkpoint-1.pth'} is a LoRA adapter, not a whole model; take the merged checkpoint."
        in message
    )
