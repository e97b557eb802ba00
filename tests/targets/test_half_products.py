"""targets/executorch/half_products.py: the same program with its products in bfloat16, and what becomes of it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from echoedge.core.errors import ExportError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import EntryPoint
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch import half_products
from echoedge.targets.executorch.half_products import Products, multiplies_bfloat16, products_in
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.executorch.program_file import ProgramFile
from echoedge.targets.rewrites.attention import ChunkedAttention

needs_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")


class Attends(nn.Module):
    """Attention behind a linear layer, so that a product of weights stands beside those of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.attention = nn.Linear(32, 32), ChunkedAttention()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention(q, k, self.v(v))


def sample() -> tuple[Attends, dict[str, Tensor]]:
    torch.manual_seed(3)
    return Attends(), {name: torch.randn(1, 24, 2, 32) for name in "qkv"}


def compiled(products: Products, folder: Path, weights: str = "fp32") -> tuple[Any, Tensor]:
    """What the backend took, and the file's output."""
    module, inputs = sample()
    with products_in(products):
        made = compile_program("denoise", {"forward": EntryPoint(module, inputs, ["y"])}, PRESETS[weights], folder)
    (y,) = ProgramFile(made.path).run("forward", [tensor.numpy() for tensor in inputs.values()])
    return made.placement["forward"], torch.from_numpy(y)


@torch.no_grad()
def reference() -> Tensor:
    module, inputs = sample()
    return module(*inputs.values())


def decibels(y: Tensor) -> float:
    expected = reference()
    return psnr(y, expected, float(expected.max() - expected.min()))


@needs_bfloat16
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_products_are_those_of_bfloat16(weights: str, tmp_path: Path) -> None:
    taken, y = compiled("bf16", tmp_path, weights)
    assert taken.delegate_calls == 1
    assert not taken.other_ops
    # measured: fp32 56.1, int8 54.9; with float32 products 150 and 61: the rounding to bfloat16 shows, and is all that does
    assert 45 < decibels(y) < 75


def test_products_are_float32_where_nothing_is_said(tmp_path: Path) -> None:
    assert decibels(compiled("fp32", tmp_path)[1]) > 100


@needs_bfloat16
def test_nothing_lasts_beyond_the_context(tmp_path: Path) -> None:
    with products_in("bf16"):
        pass
    with pytest.raises(RuntimeError, match="lost"), products_in("bf16"):
        raise RuntimeError("lost")
    assert decibels(compiled("fp32", tmp_path)[1]) > 100


def test_another_executorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from executorch.backends.xnnpack.operators import node_visitor

    monkeypatch.setattr(node_visitor, "_node_visitor_dict", {})
    with pytest.raises(ExportError, match="products in fp32"), products_in("bf16"):
        pass
    with products_in("fp32"):
        pass


@pytest.mark.parametrize(
    ("flags", "can"), [("fma avx512_bf16 amx", True), ("asimd bf16 i8mm", True), ("avx512f avx512_vnni", False)]
)
def test_processors(flags: str, can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_products.Path, "read_text", lambda _: f"flags\t: {flags}\n")
    assert multiplies_bfloat16() is can


def test_a_processor_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(half_products.Path, "read_text", refuse)
    assert not multiplies_bfloat16()
