"""What operators make of a call beside what torch makes of the graph: the first that is wrong is named, and none of right ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.runtime.engines.mil import compare
from echoedge.runtime.engines.mil.compare import Compared
from echoedge.runtime.engines.mil.engine import BuiltPackages, feed
from echoedge.runtime.engines.mil.traced import Traced
from echoedge.runtime.verify.operators import FINITE, WRONG
from echoedge.targets.base import Built

from .changed import Wrong, another, change, without, written

pytest.importorskip("coremltools", reason="the extra coreml is not installed")

from echoedge.targets.coreml.convert import convert, fill  # noqa: E402
from echoedge.targets.coreml.graph import GRAPHS, write_graphs  # noqa: E402
from echoedge.targets.coreml.package import write_packages  # noqa: E402

NAME = "forward"


class Few(nn.Module):
    """One of each family that the small model's packages lack, at sizes at which the wrong form fits too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.project = nn.Embedding(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """x [1, 4, 8, 8], ids [8] -> [1, 4, 16, 16]"""
        attended = torch.softmax(x, -1) @ x
        placed = self.project(attended) + self.table(ids)
        return F.interpolate(torch.flip(placed, (-1,)), scale_factor=2.0, mode="nearest")


@dataclass(frozen=True)
class Made:
    module: nn.Module
    folder: Path
    inputs: list[np.ndarray]

    def traced(self) -> Traced:
        return BuiltPackages(Built("few", "folder", self.folder)).traced(NAME, self.inputs, 0)


def packaged(module: nn.Module, given: dict[str, Tensor], folder: Path) -> Made:
    converted = convert("few", module.half(), given, ["out"], 18)
    module.float()
    fill("few", converted, module_tensors(module))
    folder.mkdir()
    write_packages({NAME: converted}, folder, "few", 18)
    write_graphs({NAME: converted.graph}, folder)
    return Made(module, folder, [x.numpy() for x in given.values()])


def module_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(1)
    given = {"x": torch.randn(1, 4, 8, 8), "ids": torch.tensor([3, 1, 4, 1, 5, 2, 6, 0])}
    return packaged(Few(), given, tmp_path_factory.mktemp("few") / "few")


@pytest.fixture(scope="module")
def right(few: Made) -> Traced:
    return few.traced()


def test_marks_are_what_torch_makes(few: Made, right: Traced) -> None:
    sources = right.trace.sources
    assert right.wrong is None and {sources[name] for name in ("softmax", "matmul", "linear", "embedding", "out")} == {"reference"}
    made = {
        name.rpartition("_")[0] for name, source in sources.items() if source == "proof"
    }  # by the converter, with its own count
    assert made == {"greater_equal", "add", "select"}  # of ids
    x = torch.from_numpy(few.inputs[0]).half().float()
    known = {"softmax": torch.softmax(x, -1), "matmul": torch.softmax(x, -1) @ x}
    for name, value in known.items():
        mark = right.trace.marks[name]
        assert mark.shape == tuple(value.shape) and mark.rms == pytest.approx(float(value.square().mean().sqrt()), rel=1e-5)
        assert np.isin(mark.samples.round(4), value.numpy().round(4)).all()
    with torch.no_grad():
        out = few.module(x, torch.from_numpy(few.inputs[1]))
    assert right.trace.marks["out"].rms == pytest.approx(float(out.square().mean().sqrt()), rel=2e-3)


@pytest.mark.parametrize(
    ("kind", "wrong", "named"),
    [
        ("softmax", written(axis=lambda axis: axis - 1), "softmax"),
        ("matmul", written(transpose_y=np.logical_not), "matmul"),
        ("linear", without("bias"), "linear"),
        ("gather", written(axis=lambda axis: axis + 1), "embedding"),
        ("reverse", written(axes=lambda axes: axes * 0 + 2), "flip"),
        ("upsample_nearest_neighbor", another("upsample_bilinear"), "out"),
    ],
)
def test_a_wrong_operator_is_named(few: Made, right: Traced, tmp_path: Path, kind: str, wrong: Wrong, named: str) -> None:
    copy = copied(few, tmp_path)
    assert change(copy.folder / f"{NAME}.mlpackage", kind, wrong) == named
    first = against(copy, right).first
    assert first is not None and first.name == named and first.relative > 10 * WRONG
    told = copy.traced().wrong  # as an export is told, which has the graph and no trace
    assert told is not None and told.name == named and "torch makes of the same graph" in told.reason


def copied(few: Made, tmp_path: Path) -> Made:
    folder = tmp_path / few.folder.name
    shutil.copytree(few.folder, folder)
    shutil.copy(few.folder.with_name(few.folder.name + GRAPHS), tmp_path)
    return Made(few.module, folder, few.inputs)


def against(made: Made, right: Traced, precision: Any = "fp32") -> Compared:
    function = BuiltPackages(Built("few", "folder", made.folder))._programs.function(made.folder, NAME)
    return compare(function, right.trace.marks, feed(function, made.inputs), WRONG if precision == "fp32" else FINITE, precision)


def test_none_is_named_of_a_right_package(few: Made, right: Traced) -> None:
    for precision in ("fp32", "fp16"):
        found = against(few, right, precision)
        assert found.first is None and found.results == len(right.trace.marks)


def test_without_its_graph_a_package_is_traced_by_itself(few: Made, right: Traced, tmp_path: Path) -> None:
    copy = copied(few, tmp_path)
    (tmp_path / (few.folder.name + GRAPHS)).unlink()
    alone = copy.traced()
    assert alone.wrong is None and set(alone.trace.sources.values()) == {"proof"}
    assert against(few, alone).first is None and list(alone.trace.marks) == list(right.trace.marks)


class Large(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.abs(x * x) * 0.001


def test_what_half_precision_alone_has_wrong_is_told_apart(tmp_path: Path) -> None:
    made = packaged(Large(), {"x": torch.full((1, 8), 300.0)}, tmp_path / "large")
    traced = made.traced()
    assert traced.wrong is None and against(made, traced).first is None
    first = against(made, traced, "fp16").first
    assert first is not None and (first.type, first.name) == ("mul", "mul")
