"""quantize/convolutions.py and targets/executorch/convolutions.py: which convolutions get 8 bits, the integers that a file holds,
and that XNNPACK computes what they stand for."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.core.errors import ExportError
from echoedge.core.model.programs import EntryPoint
from echoedge.quantize.convolutions import convolutions, quantise_convolutions
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.targets.base import Built
from echoedge.targets.executorch import lower
from echoedge.targets.executorch.convolutions import DynamicConvolution
from echoedge.targets.executorch.lower import compile_program
from echoedge.targets.executorch.program_file import ProgramFile

RECIPE = WeightRecipe(name="two", rules=(Rule(layers="convolution", modules="rounded*", weights="int8"),))


class Frames(nn.Module):
    """As a video decoder has them: frames of five dimensions, a convolution, a transposed one, and one that no rule matches."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded_down = nn.Conv2d(5, 7, 3, stride=2, padding=1)
        self.rounded_up = nn.ConvTranspose2d(7, 6, 4, stride=2, padding=1, bias=False)
        self.kept = nn.Conv2d(6, 3, 3, padding=1)
        self.rounded_idle = nn.Conv2d(5, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c, h, w = x.shape
        y = torch.relu(self.rounded_down(x.reshape(b * t, c, h, w)))
        return self.kept(self.rounded_up(y)).view(b, t, 3, h, w)


def eight_bits(weight: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values of weights, a scale for each index of the axis `outputs`."""
    axes = tuple(axis for axis in range(4) if axis != outputs)
    scale = np.abs(weight).max(axes, keepdims=True) * np.float32(2) / np.float32(255)
    codes = np.clip(np.rint(weight / scale), -128, 127)
    return codes.astype(np.int8), codes * scale


def stepped(x: np.ndarray) -> np.ndarray:
    """Each picture in 256 steps between its least and its largest value, zero among them."""
    least = np.minimum(x.min((1, 2, 3), keepdims=True), 0)
    step = (np.maximum(x.max((1, 2, 3), keepdims=True), 0) - least) / 255
    zero = np.rint(-128 - least / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, -128, 127) - zero) * step)


def emulated(module: Frames, x: Tensor) -> np.ndarray:
    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float64))

    down, up = module.rounded_down, module.rounded_up
    y = F.conv2d(tensor(stepped(x[0].numpy())), tensor(eight_bits(down.weight.numpy(), 0)[1]), down.bias.double(), 2, 1)  # type: ignore[union-attr]
    y = tensor(stepped(torch.relu(y).numpy()))
    y = F.conv_transpose2d(y, tensor(eight_bits(up.weight.numpy(), 1)[1]), None, 2, 1)
    return F.conv2d(y, module.kept.weight.double(), module.kept.bias.double(), padding=1).numpy()[None]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def module() -> Frames:
    torch.manual_seed(0)
    return Frames().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    """Three frames of unlike range."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, 5, 8, 6, generator=generator) * torch.tensor([1.0, 0.2, 4.0]).view(1, 3, 1, 1, 1)


@pytest.fixture(scope="module")
def built(module: Frames, x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("frames")
    return compile_program("vae_decode", {"next": EntryPoint(module, {"x": x}, ["y"])}, RECIPE, folder)


def test_the_file_holds_the_integers_of_the_grid(module: Frames, built: Built) -> None:
    held = built.path.read_bytes()
    down = eight_bits(module.rounded_down.weight.numpy(), 0)[0].transpose(0, 2, 3, 1)  # XNNPACK: out, rows, columns, in
    up = eight_bits(module.rounded_up.weight.numpy(), 1)[0].transpose(1, 2, 3, 0)
    assert all(np.ascontiguousarray(codes).tobytes() in held for codes in (down, up))
    assert np.ascontiguousarray(down + (down == 1)).tobytes() not in held


def test_what_no_rule_matches_stays_float_and_is_not_counted(module: Frames, built: Built) -> None:
    held, kept = built.path.read_bytes(), module.kept.weight.numpy().transpose(0, 2, 3, 1)
    assert np.ascontiguousarray(kept).tobytes() in held
    down = module.rounded_down.weight.numpy().transpose(0, 2, 3, 1)
    assert np.ascontiguousarray(down).tobytes() not in held
    assert built.layers == {"int8": 2}  # the idle one is not counted either


def test_it_is_one_delegate(built: Built) -> None:
    assert built.placement["next"].delegate_calls == 1 and not built.placement["next"].other_ops


def test_the_file_computes_what_the_integers_stand_for(module: Frames, built: Built, x: Tensor) -> None:
    found = ProgramFile(built.path).run("next", [x.numpy()])[0]
    wanted = emulated(module, x)
    largest = np.abs(wanted).max()
    off = np.abs(found - wanted).max() / largest
    assert off < 2e-6, off  # measured: 2.7e-7
    assert np.abs(module(x).numpy() - wanted).max() / largest > 1e-3  # full precision is something else, 6e-3


def test_integers_of_another_scale_would_show(module: Frames, built: Built, x: Tensor) -> None:
    found = ProgramFile(built.path).run("next", [x.numpy()])[0]
    wanted = emulated(module, x * torch.tensor([1.0, 1.0, 1.01]).view(1, 3, 1, 1, 1))
    assert np.abs(found - wanted).max() / np.abs(wanted).max() > 1e-3


def test_the_compiler_loses_rounded_frames_without_help(
    module: Frames, x: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lower, "inputs_turned", nullcontext)
    with pytest.raises(ExportError, match="vae_decode could not be lowered to XNNPACK"):
        compile_program("vae_decode", {"next": EntryPoint(module, {"x": x}, ["y"])}, RECIPE, tmp_path)


def test_an_input_of_zeros_gives_the_bias(module: Frames, built: Built, x: Tensor) -> None:
    found = ProgramFile(built.path).run("next", [np.zeros(tuple(x.shape), np.float32)])[0]
    assert np.abs(found - emulated(module, x * 0 + 1e-30)).max() < 1e-2
    assert np.isfinite(found).all()


def test_full_precision_is_left_alone(x: Tensor) -> None:
    same = Frames().eval()
    assert quantise_convolutions(same, "vae_decode", PRESETS["fp32"], [x], store=DynamicConvolution) == {}
    assert not [part for part in same.modules() if isinstance(part, DynamicConvolution)]


def test_convolutions_in_groups_are_not_among_them() -> None:
    found = convolutions(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(4, 4)))
    assert list(found) == ["1"]
