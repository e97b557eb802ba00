"""core/weights/tensor_files.py: every format, files that are damaged or hostile, and memory that is the file's own."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.config import PRESETS
from echoedge.core.errors import CheckpointError
from echoedge.core.model.architecture import Architecture, TransformerLayout
from echoedge.core.weights import checkpoints
from echoedge.core.weights.accounts import BASE_FOLDER
from echoedge.core.weights.checkpoints import Checkpoint, load_speech_encoder, load_transformer, load_vae
from echoedge.core.weights.recognition import scales_among
from echoedge.core.weights.tensor_files import TensorFile
from echoedge.core.weights.wrappings import adapters_among

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
        (b"<!DOCTYPE html><html>Not found</html>", "is a saved web page, not the weights. Download the file itself"),
        (b"\n <html><body>Sign in</body></html>", "is a saved web page"),
        (b"Entry not found\n", r"is text \('Entry not found'\), not weights. Download the file itself"),
        (b'{"error": "Access is restricted"}', "is text .*not weights"),
        (bytes(4096), "is full of zeros where it should begin: a download that did not finish"),
        (b"GGUF\x03\0\0\0" + bytes(64), "is a GGUF file, which holds quantised weights. Take the file in bf16"),
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


def test_a_header_that_begins_like_a_web_page_is_none(folder: Path) -> None:
    save_file(stored(transformer_tensors()), folder / OWN)
    data = (folder / OWN).read_bytes()
    length = int.from_bytes(data[:8], "little")
    padding = (ord("<") - length) % 256
    (folder / OWN).write_bytes(
        (length + padding).to_bytes(8, "little") + data[8 : 8 + length] + b" " * padding + data[8 + length :]
    )
    assert (folder / OWN).read_bytes()[:1] == b"<"
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(transformer_tensors()))


@pytest.mark.parametrize("cut", [1, 40, -1, -40])
def test_bytes_too_many_or_too_few_are_counted(cut: int, folder: Path) -> None:
    data = (folder / OWN).read_bytes()
    (folder / OWN).write_bytes(data + bytes(cut) if cut > 0 else data[:cut])
    (folder / BASE).unlink()
    expected = f"{cut} bytes lie behind its last tensor" if cut > 0 else f"it ends after {len(data) + cut:,} of {len(data):,} bytes"
    assert complaint(folder) == f"{folder / OWN} is damaged: {expected}. Download it again."
    (folder / OWN).write_bytes(data)
    assert Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config())).status == "complete"


@pytest.mark.parametrize("component", ["transformer", *SINGLE])
def test_a_file_cut_at_99_percent_says_so(component: str, folder: Path) -> None:
    path = folder / (OWN if component == "transformer" else SINGLE[component][0])
    shortened(path, 0.99)
    account = next(a for a in Checkpoint.open(folder).accounts(tiny_sizes()) if a.name == component)
    assert account.status == "unreadable"
    size = path.stat().st_size
    said = (
        f"it ends after {size:,} of"
        if component == "transformer"
        else f"it was cut; of its bytes only the first {size:,} are there"
    )
    assert account.complaint().startswith(f"{path} is damaged: {said}")
    assert account.complaint().endswith("Download it again.")


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_a_link_to_nowhere_is_named(component: str, folder: Path) -> None:
    path = folder / (OWN if component == "transformer" else SINGLE[component][0])
    moved = path.rename(folder.parent / "blob")
    path.symlink_to(moved)
    assert next(a for a in Checkpoint.open(folder).accounts(tiny_sizes()) if a.name == component).status == "complete"
    moved.unlink()
    for given in (folder, path):
        account = next(a for a in Checkpoint.open(given).accounts(tiny_sizes()) if a.name == component)
        assert account.status == "unreadable"
        assert account.complaint() == (
            f"{path} is a link to {moved}, which is not there. Bring that file back, or copy the weights here."
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_locked_file_is_named(folder: Path) -> None:
    (folder / OWN).chmod(0)
    assert complaint(folder) == f"{folder / OWN} may not be read by you (Permission denied). Allow it: chmod u+r {folder / OWN}."
    (folder / OWN).chmod(0o600)
    assert Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config())).status == "complete"


def test_what_the_system_refuses_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file without the right to read it would be, for root too."""
    real = Path.open

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == folder / OWN:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert complaint(folder) == f"{folder / OWN} may not be read by you (Permission denied). Allow it: chmod u+r {folder / OWN}."


def test_what_a_file_is_decides_and_not_its_name(folder: Path) -> None:
    tensors = stored(transformer_tensors(seed=5))
    torch.save(tensors, folder / OWN)
    assert same(load_transformer(Checkpoint.open(folder), torch.float32, config=tiny_config()), alive(tensors))
    account = Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config()))
    assert account.notes == (f"{MODEL}.safetensors is read as a file of torch.save, which it is.",)
    (folder / OWN).unlink()
    save_file(tensors, folder / "transformer" / f"{MODEL}.bin")
    account = Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config()))
    assert (account.status, account.notes) == ("complete", (f"{MODEL}.bin is read as safetensors, which it is.",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "00002-of-00003.safetensors is empty. Download it again."),
        (b"\x02\0\0\0\0\0\0\0{}", "00002-of-00003.safetensors holds no tensors. Download it again."),
        (b"version https://git-lfs.github.com/spec/v1\n", "00002-of-00003.safetensors is a pointer of Git LFS"),
    ],
)
def test_an_empty_shard_is_named(content: bytes, expected: str, folder: Path) -> None:
    (folder / OWN).unlink()
    sharded(folder / "transformer", stored(transformer_tensors()))
    assert Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config())).status == "complete"
    (folder / "transformer" / f"{MODEL}-00002-of-00003.safetensors").write_bytes(content)
    assert expected in complaint(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"weight_map": {}}', "names no shards. Download it again."),
        ("<html></html>", "is a saved web page, not the weights."),
        ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS, not the weights. Fetch them: git lfs pull."),
    ],
)
def test_what_is_no_index_is_named(content: str, expected: str, folder: Path) -> None:
    (folder / OWN).unlink()
    index = folder / "transformer" / f"{MODEL}.safetensors.index.json"
    index.write_text(content)
    assert complaint(folder).startswith(f"{index} {expected}")


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    (folder / OWN).unlink()
    sharded(folder / "transformer", stored(transformer_tensors()), index=False)
    assert Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config())).status == "complete"
    save_file({"blocks.0.modulation": torch.ones(1, 6, 48)}, folder / "transformer" / "more.safetensors")
    assert re.search(r"both hold blocks\.0\.modulation\. Take away the file that is not meant\.", complaint(folder))


# ---- quantised copies ------------------------------------------------------------------------------------------------------------


def test_a_type_that_is_not_read_is_named(folder: Path) -> None:
    tensors = transformer_tensors()
    tensors["head.head.weight"] = tensors["head.head.weight"].to(torch.int8)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / OWN)
    message = complaint(folder)
    assert "1 of a type that is not read: head.head.weight (int8)" in message
    assert "Take the file in bf16, fp16 or fp32." in message


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", [None, "scale_weight", "weight_scale"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_fp8_is_refused_in_a_sentence(dtype: torch.dtype, scale: str | None, suffix: str, folder: Path) -> None:
    tensors = stored(transformer_tensors())
    linear = [name for name in tensors if name.endswith("attn.q.weight")]
    for name in linear:
        tensors[name] = tensors[name].to(dtype)
        if scale:
            tensors[name.removesuffix("weight") + scale] = torch.ones([])
    (folder / OWN).unlink()
    FORMATS[suffix](folder / "transformer", tensors)
    scales = "4 of scales, such as blocks.0.cross_attn.q." + scale if scale else "none of scales"
    assert complaint(folder) == (
        f"{folder}/transformer/{MODEL}.{suffix} is quantised: 4 tensors of fp8, such as blocks.0.cross_attn.q.weight, {scales}. "
        "Take the file in bf16, fp16 or fp32; `export` quantises it."
    )


def test_scales_alone_are_enough_to_refuse(folder: Path) -> None:
    save_file(stored(transformer_tensors() | {"blocks.0.ffn.0.scale_weight": torch.ones([])}), folder / OWN)
    assert "is quantised: 1 of scales, such as blocks.0.ffn.0.scale_weight." in complaint(folder)


def test_no_released_name_is_taken_for_a_scale_or_an_adapter() -> None:
    for variant in ("flash", "preview"):
        sizes = Architecture(PRESETS[variant])
        for component in ("transformer", *SINGLE):
            layout = sizes.layout(component)  # type: ignore[arg-type]
            assert layout is not None
            assert not scales_among(layout.tensors())
            assert not adapters_among(layout.tensors())


def test_a_gguf_file_is_named_where_there_is_nothing_else(folder: Path) -> None:
    gguf = folder / "transformer" / "echomimic-Q4_K_M.gguf"
    gguf.write_bytes(b"GGUF\x03\0\0\0" + bytes(64))
    assert Checkpoint.open(folder).account("transformer", TransformerLayout(tiny_config())).status == "complete"
    (folder / OWN).unlink()
    for given in (folder, gguf):
        with pytest.raises(CheckpointError, match="Q4_K_M.gguf is a GGUF file, .* Take the file in bf16"):
            load_transformer(Checkpoint.open(given), config=tiny_config())


def test_a_quantised_encoder_is_named_where_there_is_nothing_else(folder: Path) -> None:
    path, config = SINGLE["text_encoder"]
    (folder / path).unlink()
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in encoder_tensors(config).items()}
    save_file(tensors, folder / BASE_FOLDER / "umt5-xxl-enc-fp8_e4m3fn.safetensors")
    with pytest.raises(CheckpointError, match="umt5-xxl-enc-fp8_e4m3fn.safetensors is quantised"):
        LOADERS["text_encoder"](Checkpoint.open(folder), config=config)


# ---- twins -----------------------------------------------------------------------------------------------------------------------


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
