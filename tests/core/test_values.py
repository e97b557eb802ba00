"""core/weights/values.py: numbers that no training leaves behind are named, and those that it does leave are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from echoedge.core.model.architecture import TransformerLayout
from echoedge.core.weights import values
from echoedge.core.weights.accounts import Account
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.tensor_files import TensorFile

from .test_checkpoints import OWN, SINGLE
from .tiny import tiny_config
from .tiny_checkpoint import stored, tiny_sizes, transformer_tensors

Change = Callable[[Tensor], Tensor]


def transformer(folder: Path, changes: Mapping[str, Change], dtype: torch.dtype = torch.float32) -> Account:
    """The examined account of a transformer some of whose tensors are changed."""
    tensors = stored(transformer_tensors(), dtype)
    for name, change in changes.items():
        tensors[name] = change(tensors[name])
    save_file(tensors, folder / OWN)
    checkpoint, layout = Checkpoint.open(folder), TransformerLayout(tiny_config())
    return checkpoint.examined(checkpoint.account("transformer", layout), layout)


def at(value: float, *places: int) -> Change:
    """The same numbers but for these."""

    def change(tensor: Tensor) -> Tensor:
        flat = tensor.flatten().clone()
        flat[list(places)] = value
        return flat.view(tensor.shape)

    return change


WRONG: dict[str, tuple[str, Change, str]] = {
    "NaN": ("blocks.1.ffn.0.weight", at(torch.nan, 7), "holds 1 NaN"),
    "many": ("head.head.bias", at(torch.nan, 0, 1, 2), "holds 3 NaN"),
    "all NaN": ("head.head.bias", lambda t: t * torch.nan, "holds 64 NaN"),
    "Inf": ("patch_embedding.weight", at(torch.inf, 5, 6), "holds 2 Inf"),
    "-Inf": ("blocks.0.norm3.bias", at(-torch.inf, 5), "holds 1 Inf"),
    "zeros": ("blocks.0.self_attn.q.weight", torch.zeros_like, "is all zeros"),
    "zeros of a convolution": ("patch_embedding.weight", torch.zeros_like, "is all zeros"),
    "zeros of a table": ("blocks.1.modulation", torch.zeros_like, "is all zeros"),
    "large": ("blocks.1.cross_attn.v.weight", lambda t: t * 2000, "times as large as in the other blocks"),
    "one number of a lost exponent": ("blocks.0.ffn.2.weight", at(1e30, 3), "times as large as in the other blocks"),
    "a large bias": ("blocks.0.ffn.2.bias", lambda t: t * 0 + 500, "times as large as in the other blocks"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_cannot_be_meant_are_named(name: str, dtype: torch.dtype, folder: Path) -> None:
    tensor, change, expected = WRONG[name]
    found = transformer(folder, {tensor: change}, dtype)
    assert found.status == "damaged"
    ((path, phrases),) = found.wrong_values.items()
    assert path == folder / OWN
    assert len(phrases) == 1
    assert phrases[0].startswith(f"{tensor} ")
    assert expected in phrases[0]
    assert found.complaint() == (
        f"The numbers of the flash transformer cannot be meant: in {folder / OWN} {phrases[0]}. "
        "Download the file again, or take an earlier one of its training."
    )


RIGHT: dict[str, Mapping[str, Change]] = {
    "untouched": {},
    "biases of zeros": {"blocks.0.self_attn.q.bias": torch.zeros_like, "blocks.1.ffn.0.bias": torch.zeros_like},
    "a head that was never trained": {"head.head.weight": torch.zeros_like, "head.head.bias": torch.zeros_like},
    "one bias that was trained": {
        "blocks.0.cross_attn.k.bias": lambda t: t * 0 + 1e-9, "blocks.1.cross_attn.k.bias": lambda t: t * 0 + 0.01,
    },
    "a hundred times as large": {"blocks.1.cross_attn.v.weight": lambda t: t * 100},
    "outliers": {"blocks.1.ffn.0.weight": at(300.0, 5)},
    "a matrix with zeros in it": {"patch_embedding.weight": at(0.0, *range(500))},
    "dead weights": {"blocks.0.cross_attn.q_audio.weight": at(torch.nan, 0)},
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_training_leaves_behind_is_no_damage(name: str, folder: Path) -> None:
    found = transformer(folder, RIGHT[name])
    assert (found.status, found.wrong_values) == ("complete", {})


def test_the_vae_s_attention_may_be_as_it_began(folder: Path) -> None:
    path, config = SINGLE["vae"]
    tensors = torch.load(folder / path)
    for name, expected in (("encoder.middle.1.proj.weight", "complete"), ("encoder.middle.1.to_qkv.weight", "damaged")):
        torch.save(tensors | {name: torch.zeros_like(tensors[name])}, folder / path)
        checkpoint = Checkpoint.open(folder)
        layout = tiny_sizes().layout("vae")
        assert checkpoint.examined(checkpoint.account("vae", layout), layout).status == expected


def test_every_component_is_looked_at(folder: Path) -> None:
    for component, (path, _) in SINGLE.items():
        tensors = torch.load(folder / path)
        name = next(name for name in tensors if name.endswith("weight") and not name.startswith(("textual", "lm_head")))
        tensors[name] = at(torch.nan, 0)(tensors[name])
        torch.save(tensors, folder / path)
        found = {a.name: a for a in Checkpoint.open(folder).accounts(tiny_sizes(), values=True)}[component]
        assert found.status == "damaged", component
        assert name in found.complaint()
    plain = Checkpoint.open(folder).accounts(tiny_sizes())
    assert {account.status for account in plain if account.name != "tokenizer"} == {"complete"}  # values are read where asked for


def test_the_name_in_the_file_is_told_where_it_is_another(folder: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in stored(transformer_tensors()).items()}
    tensors["module.head.head.bias"] = at(torch.nan, 0)(tensors["module.head.head.bias"])
    save_file(tensors, folder / OWN)
    checkpoint, layout = Checkpoint.open(folder), TransformerLayout(tiny_config())
    found = checkpoint.examined(checkpoint.account("transformer", layout), layout)
    assert found.wrong_values == {folder / OWN: ("head.head.bias (stored as module.head.head.bias) holds 1 NaN",)}


def test_many_are_counted(folder: Path) -> None:
    names = [name for name in transformer_tensors() if name.endswith(("attn.q.weight", "attn.k.weight"))]
    found = transformer(folder, dict.fromkeys(names, torch.zeros_like))
    assert "blocks.0.cross_attn.q.weight is all zeros, " in found.complaint()
    assert ", and 4 more. Download" in found.complaint()


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_pieces_do_not_change_what_is_found(piece: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_PIECE", piece)
    change = at(torch.nan, 3, 40, 41)
    assert transformer(folder, {"head.head.bias": change}).wrong_values == {folder / OWN: ("head.head.bias holds 3 NaN",)}
    assert transformer(folder, {"head.head.bias": at(torch.inf, 3)}).wrong_values == {folder / OWN: ("head.head.bias holds 1 Inf",)}


def test_every_tensor_is_read_once_and_the_file_mapped_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = [], []
    real = TensorFile.open

    class Noting(dict):  # type: ignore[type-arg]
        def __getitem__(self, name: str) -> Tensor:
            read.append(name)
            return super().__getitem__(name)  # type: ignore[no-any-return]

    def counted(self: TensorFile) -> Mapping[str, Tensor]:
        opened.append(self.path)
        mapping = real(self)
        return Noting({name: mapping[name] for name in mapping})

    monkeypatch.setattr(TensorFile, "open", counted)
    size = sum(tensor.nbytes for tensor in transformer_tensors().values())
    for most, times in ((size, 1), (size // 10, 10)):
        opened.clear()
        read.clear()
        monkeypatch.setattr(values, "_REMAP_BYTES", most)
        assert transformer(folder, {}).status == "complete"
        assert len(read) == len(set(read)) == 107
        assert times - 3 <= len(opened) <= times


def test_progress_counts_bytes(folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    Checkpoint.open(folder).accounts(tiny_sizes(), values=True, progress=lambda *step: told.append(step))
    last = {name: (done, total) for name, done, total in told}
    assert set(last) == {"transformer", "vae", "clip", "wav2vec2", "text_encoder", "tiny_vae"}
    assert all(done == total > 0 for done, total in last.values())
