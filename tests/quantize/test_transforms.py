"""quantize/transforms.py: scaling and rotation change nothing but the rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from echoedge.quantize.grid import Grid, Rounded
from echoedge.quantize.roundings.nearest import nearest
from echoedge.quantize.transforms import awq, hadamard, output_error, rotated
from echoedge.targets.executorch.storage import stored_weight

INT4, INT8 = Grid(4, 32, torch.bfloat16), Grid(8, 128, torch.float32)


def layer_and_inputs() -> tuple[nn.Linear, Tensor]:
    """A layer whose inputs have a few channels that are far stronger than the others."""
    torch.manual_seed(0)
    x = torch.randn(500, 128)
    x[:, ::16] *= 20
    return nn.Linear(128, 48).requires_grad_(False), x


def round_to_nearest(grid: Grid) -> object:
    def rounding(weight: Tensor, _: Tensor) -> Rounded:
        return nearest(weight, grid)

    return rounding


@pytest.mark.parametrize("transform", [awq, rotated])
def test_the_transformed_layer_computes_the_same(transform: object) -> None:
    """At 8 bits, up to the rounding of weights and inputs."""
    layer, x = layer_and_inputs()
    exact = layer(x)
    changed = transform(layer, x.T @ x / len(x), INT8, round_to_nearest(INT8), stored_weight)  # type: ignore[operator]
    assert float((changed(x) - exact).norm() / exact.norm()) < 0.02  # measured: 0.011 and 0.008
    changed.inverse = changed.inverse.roll(1, 0)
    assert float((changed(x) - exact).norm() / exact.norm()) > 0.3


def test_scaling_helps_where_few_inputs_are_strong() -> None:
    layer, x = layer_and_inputs()
    moments, weight = x.T @ x / len(x), layer.weight.detach().clone()
    exact, plain = layer(x), output_error(weight, nearest(weight, INT4), moments)
    scaled = awq(layer, moments, INT4, round_to_nearest(INT4), stored_weight)  # type: ignore[arg-type]
    error = float((scaled(x) - exact).square().sum(1).mean())
    assert error < 0.95 * plain  # measured: 0.91, with the rounding of the inputs in it


def test_the_error_of_a_layer_is_that_of_its_outputs() -> None:
    layer, x = layer_and_inputs()
    rounded = nearest(layer.weight.detach(), INT4)
    direct = float((x @ (layer.weight.detach() - rounded.values()).T).square().sum(1).mean())
    assert output_error(layer.weight.detach(), rounded, x.T @ x / len(x)) == pytest.approx(direct, rel=1e-4)


def test_hadamard_is_orthogonal() -> None:
    matrix = hadamard(64)
    assert torch.allclose(matrix @ matrix.T, torch.eye(64), atol=1e-6)
    assert torch.allclose(matrix.abs(), torch.full((64, 64), 0.125))
