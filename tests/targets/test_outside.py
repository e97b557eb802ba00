"""targets/executorch/outside.py: operators alone, timed on real kernels where they can be and estimated where they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from executorch.exir import to_edge
from torch import Tensor, nn

from echoedge.targets.executorch import outside
from echoedge.targets.executorch.outside import Alone, estimated_seconds, functional, kernel_seconds, tensor_bytes

aten = torch.ops.aten
X = torch.rand(8, 256, 256)


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def node_of(function: Callable[..., Any], *inputs: Tensor, written: bool = True) -> Any:
    """The one operator of a program that calls `function`, as ExecuTorch writes it."""
    edge = to_edge(torch.export.export(Calls(function), inputs, strict=False))
    program = edge.to_executorch().exported_program() if written else edge.exported_program()
    (node,) = (node for node in program.graph.nodes if hasattr(node.target, "overloadpacket") or hasattr(node.target, "_op"))
    return node


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Alone]]:
    """What is compiled, with nothing remembered from before."""
    seen: list[Alone] = []
    compiled = Alone.compiled

    def watched(self: Alone) -> Callable[[], object]:
        seen.append(self)
        return compiled(self)

    monkeypatch.setattr(Alone, "compiled", watched)
    outside._measured.cache_clear()
    yield seen
    outside._measured.cache_clear()


@pytest.mark.parametrize("written", [True, False])
def test_a_softmax_takes_what_softmax_takes(written: bool, compilations: list[Alone]) -> None:
    node = node_of(lambda x: torch.softmax(x, -1), X, written=written)
    seconds = kernel_seconds(node)
    assert len(compilations) == 1
    assert 0.1 < seconds / estimated_seconds(X.numel()) < 10  # measured: 0.9
    assert tensor_bytes(node) == 4 * X.numel()


def test_more_elements_take_longer() -> None:
    small, large = (kernel_seconds(node_of(torch.exp, torch.rand(n, 1000))) for n in (20, 400))
    assert 5 < large / small < 80  # measured: 20


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x: torch.softmax(x, -1), (X,)),
        (lambda x: aten.slice_copy.Tensor(x, 0, 3, 5), (X,)),
        (lambda *x: torch.cat(x, 1), (X, X)),
        (lambda ids, table: torch.embedding(table, ids, 3), (torch.tensor([[1, 2]]), torch.rand(7, 20_000))),
        (lambda x: x.to(torch.int32), (X,)),
        (lambda x: torch.where(x > 2.0, x, x), (X,)),
        (lambda i: i % i, (torch.ones(100, 100, dtype=torch.long),)),  # a division by zero would end the process
        (lambda x: torch.full((90, 100), 2.0) + x[0, 0, 0], (X,)),
        (lambda x, w: torch.conv2d(x, w, padding=1), (torch.rand(1, 4, 32, 32), torch.rand(8, 4, 3, 3))),
        (lambda x: torch.nn.functional.layer_norm(x, (256,)), (X,)),
    ],
)
def test_the_operator_alone_is_the_operator(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> None:
    """Its module computes what the operator computes on the same tensors, and it runs."""
    edge = to_edge(torch.export.export(Calls(function), inputs, strict=False))
    for node in edge.to_executorch().exported_program().graph.nodes:
        if not hasattr(node.target, "overloadpacket"):
            continue
        alone = Alone(node)
        drawn = alone.inputs()
        assert [tuple(value.shape) for value in drawn] == [tuple(given.meta["val"].shape) for given in alone.tensors]
        made = alone.module()(*drawn)
        whole = made if isinstance(made, (tuple, list)) else (made,)
        assert [tuple(value.shape) for value in whole] == [tuple(value.shape) for value in alone.results]
        assert alone.compiled()() is not None


def test_the_functional_operator_is_found_behind_the_one_that_writes() -> None:
    assert functional(aten.add.out) == aten.add.Tensor
    assert functional(aten.slice_copy.Tensor_out) == aten.slice_copy.Tensor
    assert functional(aten.full.out) == aten.full.default
    assert functional(aten._to_copy.out) == aten._to_copy.default
    assert functional(aten.bmm.default) == aten.bmm.default


def test_equal_operators_are_timed_once(compilations: list[Alone]) -> None:
    for start in range(3):
        kernel_seconds(node_of(lambda x, start=start: aten.slice_copy.Tensor(x, 0, start, start + 2), X))
    assert len(compilations) == 1
    kernel_seconds(node_of(lambda x: aten.slice_copy.Tensor(x, 0, 0, 3), X))
    assert len(compilations) == 2


def test_few_elements_and_huge_tensors_are_estimated(compilations: list[Alone], monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel_seconds(node_of(torch.exp, torch.rand(10))) == estimated_seconds(10)
    monkeypatch.setattr(outside, "MOST_BYTES", 1000)
    assert kernel_seconds(node_of(torch.exp, X)) == estimated_seconds(X.numel())
    table = torch.rand(1000, 8)
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert kernel_seconds(node_of(lambda t, i: torch.embedding(t, i, 2), table, ids)) == estimated_seconds(4 * 8)
    assert compilations == []


def test_what_no_kernel_takes_is_estimated(compilations: list[Alone], capfd: pytest.CaptureFixture[str]) -> None:
    """ExecuTorch's convolution refuses three dimensions when it is called."""
    node = node_of(torch.conv3d, torch.rand(1, 4, 8, 16, 16), torch.rand(4, 4, 3, 3, 3))
    work = 2 * 4 * (6 * 14 * 14) * 4 * 27
    assert kernel_seconds(node, work) == estimated_seconds(4 * 8 * 16 * 16 + 4 * 4 * 27, work)
    assert len(compilations) == 1
    assert capfd.readouterr().err == ""
