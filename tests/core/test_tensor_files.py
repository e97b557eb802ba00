"""core/weights/tensor_files.py: every format, files that are damaged or hostile, and memory that is the file's own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.errors import CheckpointError
from echoedge.core.model.architecture import TransformerLayout
from echoedge.core.weights import checkpoints
from echoedge.core.weights.accounts import BASE_FOLDER
from echoedge.core.weights.checkpoints import Checkpoint, load_speech_encoder, load_transformer, load_vae
from echoedge.core.weights.tensor_files import TensorFile

from .test_checkpoints import BASE, LOADERS, OWN, SINGLE, alive, complaint, same
from .tiny import tiny_config, tiny_vae
from .tiny_checkpoint import MODEL, encoder_tensors, stored, tiny_sizes, transformer_tensors

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


# ---- memory ----------------------------------------------------------------------------------------------------------------------


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
    real = TensorFile.open

    def counted(self: TensorFile) -> Mapping[str, Tensor]:
        maps.append(self.path)
        return real(self)

    monkeypatch.setattr(TensorFile, "open", counted)
    layout, tensors = TransformerLayout(tiny_config()), alive(transformer_tensors())
    size = sum(tensor.nbytes for tensor in tensors.values())
    for most, times in ((size, 1), (size // 10, 10)):
        maps.clear()
        monkeypatch.setattr(checkpoints, "_REMAP_BYTES", most)
        found = Checkpoint.open(folder).tensors("transformer", layout, lambda _: torch.bfloat16)
        assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in tensors.items())
        assert times - 2 <= len(maps) <= times, (most, len(maps))
