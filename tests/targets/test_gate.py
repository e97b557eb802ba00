"""targets/executorch/gate.py: what a backend left outside is counted by arithmetic and time, too much of it refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from executorch.exir import to_edge
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from echoedge.core.bundle import Placement
from echoedge.core.errors import ExportError
from echoedge.core.model.programs import EntryPoint, EntryPoints
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.base import Built
from echoedge.targets.executorch.backends import BACKENDS
from echoedge.targets.executorch.gate import (
    FREE_SECONDS,
    MOST_OUTSIDE,
    flops,
    outside_seconds,
    outside_share,
    placement,
    require_delegated,
)
from echoedge.targets.executorch.lower import compile_program, lower_program, write_programs

from .pte import operators_of


class Mixed(nn.Module):
    """Every kind of operator that has FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(16, 24), nn.Conv2d(4, 8, 3, padding=1, groups=2)

    def forward(self, x: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return torch.bmm(y, y.transpose(1, 2)), self.conv(picture)


class Escapes(nn.Module):
    """A product whose layout XNNPACK does not take: a 3D convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(16, 16), nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.linear(x).view(1, 1, 4, 4, 16))


def program_of(module: nn.Module, *inputs: Tensor) -> EntryPoints:
    return {"forward": EntryPoint(module.eval(), {f"x{i}": x for i, x in enumerate(inputs)}, ["y"])}


# ---- arithmetic ------------------------------------------------------------------------------------------------------------------


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


# Multiplications by hand: every output element, of a transposed convolution every input element, times the weights that it meets.
PRODUCTS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], int]] = {
    "linear": (F.linear, [(2, 5, 16), (24, 16)], 2 * 5 * 16 * 24),
    "linear, bias": (F.linear, [(2, 5, 16), (24, 16), (24,)], 2 * 5 * 16 * 24),
    "mm": (torch.mm, [(5, 16), (16, 24)], 5 * 16 * 24),
    "bmm": (torch.bmm, [(3, 5, 16), (3, 16, 7)], 3 * 5 * 16 * 7),
    "matmul": (torch.matmul, [(2, 3, 5, 16), (2, 3, 16, 7)], 6 * 5 * 16 * 7),
    "attention": (F.scaled_dot_product_attention, [(2, 3, 5, 16), (2, 3, 9, 16), (2, 3, 9, 16)], 2 * 6 * 5 * 9 * 16),
    "conv1d": (F.conv1d, [(2, 4, 9), (6, 4, 3)], 2 * 6 * 7 * 4 * 3),
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1), [(1, 4, 6, 6), (8, 4, 3, 3)], 8 * 36 * 4 * 9),
    "conv2d, stride": (lambda x, w: F.conv2d(x, w, stride=2), [(1, 4, 9, 9), (8, 4, 3, 3)], 8 * 16 * 4 * 9),
    "conv2d, groups": (lambda x, w: F.conv2d(x, w, padding=1, groups=2), [(1, 4, 6, 6), (8, 2, 3, 3)], 8 * 36 * 2 * 9),
    "conv2d, depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=4), [(1, 4, 6, 6), (4, 1, 3, 3)], 4 * 36 * 9),
    "conv3d": (F.conv3d, [(1, 2, 5, 6, 7), (3, 2, 3, 3, 3)], 3 * (3 * 4 * 5) * 2 * 27),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(1, 6, 5, 5), (6, 4, 2, 2)], 6 * 25 * 4 * 4),
    "transposed, overlap": (lambda x, w: F.conv_transpose2d(x, w, stride=2), [(2, 6, 5, 5), (6, 4, 3, 3)], 2 * 6 * 25 * 4 * 9),
    "transposed, groups": (lambda x, w: F.conv_transpose2d(x, w, stride=2, groups=2), [(1, 6, 5, 5), (6, 2, 3, 3)], 6 * 25 * 2 * 9),
    "transposed 1d": (lambda x, w: F.conv_transpose1d(x, w, stride=2), [(1, 6, 5), (6, 4, 2)], 6 * 5 * 4 * 2),
    "nothing": (torch.softmax, [(2, 5)], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_flops_are_those_of_the_closed_form_in_every_dialect(name: str) -> None:
    function, shapes, products = PRODUCTS[name]
    function = (lambda x: torch.softmax(x, -1)) if name == "nothing" else function
    exported = torch.export.export(Calls(function), tuple(torch.randn(shape) for shape in shapes), strict=False)
    edge = to_edge(exported)
    assert sum(flops(exported).values()) == 2 * products
    assert sum(flops(edge.exported_program()).values()) == 2 * products
    written = edge.to_executorch().exported_program()
    assert sum(flops(written).values()) == 2 * products
    assert placement(written).flops_share == (1.0 if products == 0 else 0.0)


def test_flops_are_those_that_torch_counts() -> None:
    module, inputs = Mixed().eval(), (torch.randn(2, 5, 16), torch.randn(1, 4, 6, 6))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    exported = torch.export.export(module, inputs, strict=False)
    assert sum(flops(exported).values()) == counter.get_total_flops()


def test_what_the_backend_took_is_counted(tmp_path: Path) -> None:
    x, picture = torch.randn(1, 5, 16), torch.randn(1, 4, 6, 6)
    found = compile_program("mixed", program_of(Mixed(), x, picture), PRESETS["fp32"], tmp_path).placement["forward"]
    assert found.delegated_flops == 2 * 5 * 16 * 24 + 2 * 5 * 5 * 24 + 2 * 8 * 36 * 2 * 9
    assert found.other_flops == {}
    assert found.flops_share == 1.0
    assert (found.other_seconds, found.border_bytes) == ({}, 0)


def test_doublings_inside_the_backend_are_counted_once(tmp_path: Path) -> None:
    """XNNPACK's own graph of a transposed convolution, which the decoders double their pictures with."""
    module = nn.Sequential(nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False))
    found = compile_program("double", program_of(module, torch.randn(1, 6, 5, 5)), PRESETS["fp32"], tmp_path).placement["forward"]
    assert (found.delegate_calls, found.delegated_flops) == (1, 2 * 6 * 25 * 4 * 4)


def test_arithmetic_left_outside_fails_by_name(tmp_path: Path) -> None:
    program = program_of(Escapes(), torch.randn(1, 16, 16))
    with pytest.raises(ExportError, match=r"escapes\.forward: the backend took .* % of the FLOPs.*aten\.convolution\.default"):
        compile_program("escapes", program, PRESETS["fp32"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("inside", "outside", "passes"), [(99, 1, True), (98, 2, False), (0, 0, True), (0, 1, False)])
def test_the_bar_is_at_99_percent(inside: int, outside: int, passes: bool) -> None:
    record = {"forward": Placement(delegate_calls=1, delegated_ops=1, delegated_flops=inside, other_flops={"mm": outside})}
    if passes:
        require_delegated("p", record)
    else:
        with pytest.raises(ExportError, match="mm"):
            require_delegated("p", record)


# ---- time ------------------------------------------------------------------------------------------------------------------------

HEADS, TOKENS, WIDTH = 8, 256, 64


class Attends(nn.Module):
    """Attention as EchoEdge writes it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.bmm(torch.softmax(torch.bmm(q, k), -1), v)


def xnnpack_without(*names: str) -> Any:
    """XNNPACK that leaves operators of these configurations outside."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    kept = [config for config in ALL_PARTITIONER_CONFIGS if config.__name__ not in names]
    assert len(kept) == len(ALL_PARTITIONER_CONFIGS) - len(names)
    return replace(BACKENDS["xnnpack"], build=lambda: XnnpackPartitioner(configs=kept))


def attention(folder: Path, *without: str) -> Built:
    inputs = (torch.randn(HEADS, TOKENS, WIDTH), torch.randn(HEADS, WIDTH, TOKENS), torch.randn(HEADS, TOKENS, WIDTH))
    lowered = lower_program("attends", program_of(Attends(), *inputs), PRESETS["fp32"], xnnpack_without(*without))
    return write_programs([lowered], folder / "attends.pte")[0]


def test_a_softmax_outside_is_refused_although_it_has_no_flops(tmp_path: Path) -> None:
    message = (
        r"^attends\.forward: .* ms of a call, \d\d % of it, are spent outside the backend; 10 % are allowed\. Outside stayed: "
        r"aten\._softmax\.default ×1 \(.* ms\); 4\.19 MB cross the border\. "
        r"Rewrite them in a form that it takes \(targets/rewrites\)\.$"
    )
    with pytest.raises(ExportError, match=message):
        attention(tmp_path, "SoftmaxConfig")
    assert not list(tmp_path.iterdir())


def test_the_same_program_with_its_softmax_inside_passes(tmp_path: Path) -> None:
    found = attention(tmp_path)
    assert operators_of(found.path) == {"forward": (1, [])}
    record = found.placement["forward"]
    assert (record.delegate_calls, record.other_ops, record.other_seconds, record.border_bytes) == (1, {}, {}, 0)


def test_what_is_recorded_is_what_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.targets.executorch.lower.require_delegated", lambda *_: None)
    found = attention(tmp_path, "SoftmaxConfig")
    assert operators_of(found.path) == {"forward": (2, ["aten::_softmax.out"])}
    record = found.placement["forward"]
    logits = HEADS * TOKENS * TOKENS
    assert record.delegate_calls == 2
    assert record.other_ops == {"aten._softmax.default": 1}
    assert record.border_bytes == 2 * 4 * logits  # out to the softmax, and back
    assert record.delegated_flops == 4 * logits * WIDTH
    (seconds,) = record.other_seconds.values()
    assert 0.2e-9 < seconds / logits < 100e-9  # measured: 6.5 ns an element
    assert seconds < outside_seconds(record) < seconds + 2e-3


def test_views_are_no_operators_where_they_are_none_in_the_file(tmp_path: Path) -> None:
    """ExecuTorch turns a view into another name of the same memory, but where it is the method's result."""

    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.view(4, 6).view(2, 12) + 1.0).view(24)

    made = to_edge(torch.export.export(Views(), (torch.randn(24),), strict=False)).to_executorch()
    (tmp_path / "views.pte").write_bytes(made.buffer)
    assert operators_of(tmp_path / "views.pte") == {"forward": (0, ["aten::add.out", "aten::view_copy.out"])}
    assert placement(made.exported_program()).other_ops == {"aten.add.Tensor": 1, "aten.view_copy.default": 1}


def test_a_view_between_two_delegates_passes_the_tensor_on(tmp_path: Path) -> None:
    class Apart(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 2.0).view(6, 20).view(3, 40) * 3.0

    lowered = lower_program("apart", program_of(Apart(), torch.randn(4, 30)), PRESETS["fp32"], xnnpack_without("ViewCopyConfig"))
    found = write_programs([lowered], tmp_path / "apart.pte")[0]
    assert operators_of(found.path) == {"forward": (2, [])}
    assert found.placement["forward"].other_ops == {}
    assert found.placement["forward"].border_bytes == 2 * 4 * 120


def test_of_an_operator_with_several_results_what_is_used_crosses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.targets.executorch.lower.make_portable", lambda module, **_: module)  # the norm stays as it is
    module = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 8))
    found = compile_program("norm", program_of(module, torch.randn(1, 6, 16)), PRESETS["fp32"], tmp_path)
    assert operators_of(found.path) == {"forward": (2, ["aten::native_layer_norm.out"])}
    assert found.placement["forward"].border_bytes == 2 * 4 * 6 * 32


def record(inside: float, outside: float, border: int = 0) -> Placement:
    """Of a method that spends so many seconds inside and outside."""
    work = math.ceil(inside * 100e9)
    return Placement(
        delegate_calls=1,
        delegated_ops=1,
        delegated_flops=work,
        other_ops={"op": 1},
        other_seconds={"op": outside},
        border_bytes=border,
    )


@pytest.mark.parametrize(
    ("inside", "outside", "border", "passes"),
    [
        (0.0, 0.9 * FREE_SECONDS, 0, True),  # nobody waits for that
        (0.0, 1.1 * FREE_SECONDS, 0, False),
        (1.0, 0.9 * MOST_OUTSIDE, 0, True),
        (1.0, 1.2 * MOST_OUTSIDE, 0, False),
        (1.0, 0.0, 400_000_000, True),  # 0.08 s at 5 GB/s
        (1.0, 0.0, 800_000_000, False),
        (1.0, 0.06, 400_000_000, False),
    ],
)
def test_the_budget_of_time(inside: float, outside: float, border: int, passes: bool) -> None:
    found = {"forward": record(inside, outside, border)}
    if passes:
        require_delegated("p", found)
    else:
        with pytest.raises(ExportError, match=r"p\.forward: .*Outside stayed: op ×1 \(.* ms\)"):
            require_delegated("p", found)


def test_shares_of_time() -> None:
    assert outside_share(record(3.0, 1.0)) == pytest.approx(0.25)
    assert outside_share(record(3.0, 0.5, 2_500_000_000)) == pytest.approx(0.25)
    assert outside_share(record(0.0, 0.0)) == 0.0


def test_records_without_times_are_read() -> None:
    old = Placement.model_validate_json(
        '{"delegate_calls": 1, "delegated_ops": 3, "other_ops": {"aten.cat.default": 2}}', strict=True
    )
    assert (outside_seconds(old), old.border_bytes) == (0.0, 0)
