"""A bundle of one program that is not compiled, for tests of what is written and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from echoedge.core.bundle import (
    MANIFEST,
    BundleWriter,
    ClipRecord,
    Figures,
    Hearing,
    Manifest,
    Method,
    ModelRecord,
    Parity,
    Placement,
    PlayingRecord,
    TargetRecord,
    TensorSpec,
    WeightsRecord,
)
from echoedge.core.bundle.manifest import CHECKSUM
from echoedge.core.config import NANO, NANO_CLIP

SHA = hashlib.sha256(b"weights").hexdigest()
METHODS = {
    "forward": Method(
        inputs=(TensorSpec(name="latents", dtype="float32", shape=(1, 16, 7, 8, 8)),),
        outputs=(TensorSpec(name="velocity", dtype="float32", shape=(1, 16, 7, 8, 8)),),
    )
}
TENSORS: dict[str, np.ndarray] = {
    "table": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    "scalar": np.array(2.5, np.float16),
    "mask": np.array([True, False]),
}
DENOISE: dict[str, Any] = {
    "role": "denoise", "clip": str(NANO_CLIP), "methods": METHODS, "layers": {"int8": 7},
    "placement": {"forward": Placement(delegate_calls=1, delegated_ops=20, other_ops={"aten.cat": 2})},
    "demanded": Figures(psnr_db=40), "measured": Figures(psnr_db=150, cosine=1),
}  # fmt: skip
FIXED: dict[str, Any] = {
    "model": ModelRecord.of(NANO, SHA),
    "clips": (ClipRecord.of(NANO_CLIP),),
    "target": TargetRecord(name="executorch", backend="xnnpack", precision="fp32"),
    "weights": WeightsRecord(name="int8", settings={"group": 32, "skip": ["head"]}),
    "versions": {"echoedge": "0.1.0", "torch": "2.13.0"},
    "playing": PlayingRecord.of(
        NANO, text_rows=64, reads_text=True, hearing=Hearing(neighbours=2), decoders={"full": "vae_decode"}
    ),
    "parity": Parity(demanded={"latents": Figures(psnr_db=40)}),
    "memory": {"weights": 1000, "per_window": {"activations": 5}},
}


def write(path: Path, program: Path, **changes: Any) -> Manifest:
    with BundleWriter(path, force=changes.pop("force", False)) as writer:
        writer.add_json("plan.json", {"steps": [1.0, 2.5], "name": "Zoë"})
        writer.add_tensors("step_tables.safetensors", TENSORS)
        writer.add_bytes("prompts/default.safetensors", b"prompt")
        writer.add_program("denoise", program, kind=changes.pop("kind", "pte"), **DENOISE)
        return writer.finish(**(FIXED | changes))


def contents(root: Path) -> dict[str, Any]:
    """What a bundle's manifest says, without its checksum: to be changed and written again."""
    data: dict[str, Any] = json.loads((root / MANIFEST).read_bytes())
    data.pop(CHECKSUM, None)
    return data


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = contents(root)
    change(data)
    (root / MANIFEST).write_text(json.dumps(data))
