"""targets/gate.py: what a backend left outside is counted by its arithmetic, and too much of it refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from echoedge.core.bundle import Delegation
from echoedge.core.errors import ExportError
from echoedge.core.programs import Method, Program
from echoedge.quantize.recipes import PRESETS
from echoedge.targets.executorch import compile_program, lower_program
from echoedge.targets.gate import flops, require_delegated


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


def program_of(module: nn.Module, *inputs: Tensor) -> Program:
    return {"forward": Method(module.eval(), {f"x{i}": x for i, x in enumerate(inputs)}, ["y"])}


def test_flops_are_those_that_torch_counts() -> None:
    module, inputs = Mixed().eval(), (torch.randn(2, 5, 16), torch.randn(1, 4, 6, 6))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.linear(inputs[0])
        module(*inputs)
    twice_the_linear = 2 * 2 * 5 * 16 * 24
    exported = torch.export.export(module, inputs, strict=False)
    assert sum(flops(exported).values()) == counter.get_total_flops() - twice_the_linear


def test_what_the_backend_took_is_counted(tmp_path: Path) -> None:
    x, picture = torch.randn(1, 5, 16), torch.randn(1, 4, 6, 6)
    found = compile_program("mixed", program_of(Mixed(), x, picture), PRESETS["fp32"], tmp_path).delegation["forward"]
    assert found.delegated_flops == 2 * 5 * 16 * 24 + 2 * 5 * 5 * 24 + 2 * 8 * 36 * 2 * 9
    assert found.other_flops == {}
    assert found.flops_share == 1.0


def test_arithmetic_left_outside_fails_by_name(tmp_path: Path) -> None:
    program = program_of(Escapes(), torch.randn(1, 16, 16))
    lowered = lower_program("escapes", program, PRESETS["fp32"])
    assert list(lowered.delegation["forward"].other_flops) == ["aten.convolution.default"]
    with pytest.raises(ExportError, match=r"escapes\.forward: the backend took .* % of the FLOPs.*aten\.convolution\.default"):
        compile_program("escapes", program, PRESETS["fp32"], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("inside", "outside", "passes"), [(99, 1, True), (98, 2, False), (0, 0, True), (0, 1, False)])
def test_the_bar_is_at_99_percent(inside: int, outside: int, passes: bool) -> None:
    record = {"forward": Delegation(delegate_calls=1, delegated_ops=1, delegated_flops=inside, other_flops={"mm": outside})}
    if passes:
        require_delegated("p", record)
    else:
        with pytest.raises(ExportError, match="mm"):
            require_delegated("p", record)
