"""targets/executorch/lower.py: a program becomes one .pte that computes the same, and what the backend left outside is told."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echoedge.core.errors import ExportError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.model.programs import EntryPoint, EntryPoints
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.base import Built
from echoedge.targets.executorch import lower as executorch
from echoedge.targets.executorch.lower import compile_program


class Mlp(nn.Module):
    """What a transformer's feed-forward has: a norm, two products and a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(32), nn.GELU(approximate="tanh")
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(self.norm(x))))


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(7, 16), nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.table(ids))


class Branching(nn.Module):
    """Which way it goes depends on values: it has no single graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def program_of(module: nn.Module, x: Tensor) -> EntryPoints:
    return {"forward": EntryPoint(module.eval(), {"x": x}, ["y"])}


def executed(path: Path, x: Tensor, method: str = "forward") -> np.ndarray:
    """What the file itself computes."""
    from executorch.runtime import Runtime

    loaded = Runtime.get().load_program(path).load_method(method)
    assert loaded is not None
    return np.array(loaded.execute([x])[0])


@torch.no_grad()
def agreement(module: nn.Module, path: Path, x: Tensor) -> float:
    return psnr(module(x).numpy(), executed(path, x))


@pytest.fixture(scope="module")
def mlp() -> Mlp:
    torch.manual_seed(0)
    return Mlp().eval()


@pytest.fixture(scope="module", params=["fp32", "int8"])
def compiled(request: pytest.FixtureRequest, mlp: Mlp, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Built]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, compile_program("mlp", program_of(mlp, torch.randn(1, 6, 32)), PRESETS[request.param], folder)


LEAST = {"fp32": 80.0, "int8": 40.0}  # measured on fresh inputs: 144 and 54 dB or more; with one row negated 33 or less


def test_one_file_named_after_the_program(compiled: tuple[str, Built]) -> None:
    path = compiled[1].path
    assert path.name == "mlp.pte"
    assert [file.name for file in path.parent.iterdir()] == ["mlp.pte"]


def test_a_portable_module_is_one_delegate_and_nothing_else(compiled: tuple[str, Built]) -> None:
    taken = compiled[1].placement["forward"]
    assert taken.delegate_calls == 1
    assert taken.delegated_ops >= 10
    assert taken.other_ops == {}


def test_layers_are_reported_as_stored(compiled: tuple[str, Built]) -> None:
    weights, result = compiled
    assert result.layers == {weights: 2}


def test_the_file_computes_what_torch_computes(compiled: tuple[str, Built], mlp: Mlp) -> None:
    weights, result = compiled
    assert agreement(mlp, result.path, torch.randn(1, 6, 32)) > LEAST[weights]


def test_the_file_of_other_weights_does_not(compiled: tuple[str, Built], mlp: Mlp) -> None:
    tampered = copy.deepcopy(mlp)
    with torch.no_grad():
        tampered.up.weight[0].mul_(-1)  # one row of 64
    assert agreement(tampered, compiled[1].path, torch.randn(1, 6, 32)) < 40


def test_the_model_itself_is_left_alone(compiled: tuple[str, Built], mlp: Mlp) -> None:
    del compiled
    assert type(mlp.norm) is nn.LayerNorm
    assert type(mlp.up.weight) is nn.Parameter


def test_eight_bits_make_the_file_smaller(tmp_path: Path) -> None:
    layer = program_of(nn.Linear(256, 256), torch.randn(1, 4, 256))
    sizes = {}
    for weights in ("fp32", "int8"):
        (tmp_path / weights).mkdir()
        sizes[weights] = compile_program("linear", layer, PRESETS[weights], tmp_path / weights).path.stat().st_size
    assert sizes["fp32"] > 4 * 256 * 256
    assert 256 * 256 < sizes["int8"] < 0.4 * sizes["fp32"]


def test_an_operator_that_xnnpack_does_not_take_is_named(tmp_path: Path) -> None:
    module = Lookup().eval()
    ids = torch.tensor([[0, 3, 6, 3]])
    result = compile_program("lookup", program_of(module, ids), PRESETS["fp32"], tmp_path)
    taken = result.placement["forward"]
    assert taken.other_ops == {"aten.embedding.default": 1}
    assert taken.delegate_calls == 1
    assert agreement(module, result.path, ids) > 80


def test_a_norm_that_was_not_rewritten_is_named(mlp: Mlp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch, "make_portable", lambda module, **_: copy.deepcopy(module))
    x = torch.randn(1, 6, 32)
    taken = compile_program("mlp", program_of(mlp, x), PRESETS["fp32"], tmp_path).placement["forward"]
    assert taken.other_ops["aten.native_layer_norm.default"] == 1


def test_methods_of_one_program_share_a_file(mlp: Mlp, tmp_path: Path) -> None:
    one, four = torch.randn(1, 1, 32), torch.randn(1, 4, 32)
    program = program_of(mlp, one) | {"next": EntryPoint(mlp, {"x": four}, ["y"])}
    result = compile_program("mlp", program, PRESETS["fp32"], tmp_path)
    assert {name: taken.delegate_calls for name, taken in result.placement.items()} == {"forward": 1, "next": 1}
    assert result.layers == {"fp32": 4}
    with torch.no_grad():
        for method, x in (("forward", one), ("next", four)):
            assert psnr(mlp(x).numpy(), executed(result.path, x, method)) > 80


def test_a_module_without_one_graph_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^branching\.forward could not be traced: "):
        compile_program("branching", program_of(Branching(), torch.randn(3)), PRESETS["fp32"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_backend_that_fails_is_reported_by_name(mlp: Mlp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executorch import exir

    def fails(*_args: object, **_options: object) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(exir, "to_edge_transform_and_lower", fails)
    with pytest.raises(ExportError, match=r"^mlp could not be lowered to XNNPACK: no kernel$"):
        compile_program("mlp", program_of(mlp, torch.randn(1, 2, 32)), PRESETS["fp32"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_delegated_is_counted_as_such(tmp_path: Path) -> None:
    class Compare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ne(x, 0)

    taken = compile_program("compare", program_of(Compare(), torch.randn(3)), PRESETS["fp32"], tmp_path).placement["forward"]
    assert (taken.delegate_calls, taken.delegated_ops) == (0, 0)
    assert Counter(taken.other_ops).total() >= 1
