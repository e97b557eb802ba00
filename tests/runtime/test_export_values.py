"""runtime/export on weights whose numbers cannot be meant: refused before anything is compiled or hashed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from echoedge.core.config import Variant
from echoedge.core.errors import CheckpointError
from echoedge.core.weights import source
from echoedge.core.weights.accounts import OVERLAY_FILE
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.pipeline import export_bundle, work_folder

from .test_export_checkpoint import request_for


class Reached(Exception):
    """The export came as far as its jobs."""


@pytest.fixture
def folder(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def reached(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr(pipeline, "jobs_of", reached)
    return shutil.copytree(folders["flash"], tmp_path / "flash")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("blocks.1.ffn.0.weight", lambda t: t * torch.nan, "NaN"),
        ("head.head.bias", lambda t: t / 0, "Inf"),
        ("blocks.0.self_attn.q.weight", torch.zeros_like, "is all zeros"),
        ("blocks.0.self_attn.q.weight", lambda t: t * 1e4, "times as large as in the other blocks"),
    ],
)
def test_it_is_refused_before_anything_is_compiled(
    name: str, change: Callable[[Tensor], Tensor], expected: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(folder / OVERLAY_FILE)
    save_file(tensors | {name: change(tensors[name])}, folder / OVERLAY_FILE)
    hashed: list[Path] = []
    monkeypatch.setattr(source, "file_sha256", lambda path: hashed.append(path) or "")
    with pytest.raises(CheckpointError) as caught:
        export_bundle(request_for(folder), tmp_path / "a.echoedge")
    message = str(caught.value)
    assert f"in {folder / OVERLAY_FILE} {name} " in message
    assert expected in message
    assert message.endswith("Download the file again, or take an earlier one of its training.")
    assert "\n" not in message
    assert not hashed
    assert not any(work_folder(tmp_path / "a.echoedge").glob("*")), "nothing was written"


def test_what_training_leaves_behind_is_exported(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / OVERLAY_FILE)
    zeros = {name: torch.zeros_like(t) for name, t in tensors.items() if name.endswith(".bias") or name == "head.head.weight"}
    save_file(tensors | zeros, folder / OVERLAY_FILE)
    with pytest.raises(Reached):
        export_bundle(request_for(folder), tmp_path / "a.echoedge")


def test_every_exported_component_is_looked_at(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("Wan2.1_VAE.pth"):
        tensors = torch.load(path)
        torch.save(tensors | {"conv2.weight": torch.zeros_like(tensors["conv2.weight"])}, path)
    with pytest.raises(CheckpointError, match=r"numbers of the VAE cannot be meant: in .*VAE.pth conv2.weight is all zeros"):
        export_bundle(request_for(folder), tmp_path / "a.echoedge")
