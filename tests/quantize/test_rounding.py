"""quantize/rounding.py: codes and scales against plain numpy and exhaustive search, on the scales that the kernel keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.quantize.grid import Grid
from echoedge.quantize.roundings.hqq import hqq
from echoedge.quantize.roundings.nearest import full_range, nearest
from echoedge.quantize.roundings.searched import searched

INT4 = Grid(4, 32, torch.bfloat16)
INT8 = Grid(8, 64, torch.float32)


def matrix(seed: int = 0, outputs: int = 24, inputs: int = 64) -> Tensor:
    """Normal weights, in rows of very different size."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    return weight * torch.logspace(-2, 1, outputs)[:, None]


def by_group(weight: Tensor, values: Tensor) -> np.ndarray:
    """The squared error of every group."""
    return (weight - values).double().square().view(-1, 32).sum(1).numpy()


def best_by_trial(group: np.ndarray, grid: Grid) -> float:
    """The least squared error of one group over a fine grid of bfloat16 scales."""
    least = np.inf
    widest = np.abs(group).max() * 2 / 15
    for factor in np.linspace(0.3, 1.1, 400):
        scale = float(torch.tensor(widest * factor).to(torch.bfloat16))
        codes = np.clip(np.rint(group / scale), grid.low, grid.high)
        least = min(least, float(((group - codes * scale) ** 2).sum()))
    return least


@pytest.mark.parametrize("way", [nearest, searched, hqq])
def test_scales_of_groups_are_what_the_kernel_keeps(way: object) -> None:
    rounded = way(matrix(), INT4)  # type: ignore[operator]
    assert torch.equal(rounded.scale, rounded.scale.to(torch.bfloat16).float())
    assert rounded.scale.shape == (24, 2)
    assert rounded.codes.dtype == torch.int8
    assert int(rounded.codes.min()) >= -8
    assert int(rounded.codes.max()) <= 7
    expected = rounded.codes.numpy().reshape(24, 2, 32) * rounded.scale.numpy()[..., None]
    assert np.array_equal(rounded.values().numpy(), expected.reshape(24, 64))


def test_codes_were_chosen_for_the_rounded_scale() -> None:
    """Scales rounded afterwards leave codes that are not the nearest."""
    weight = matrix()
    rounded = searched(weight, INT4)
    nearest_codes = np.rint(weight.numpy().reshape(24, 2, 32) / rounded.scale.numpy()[..., None]).clip(-8, 7)
    assert np.array_equal(rounded.codes.numpy().reshape(24, 2, 32), nearest_codes)
    late = Grid(4, 32, torch.float32)
    before = searched(weight, late)
    late_scale = before.scale.to(torch.bfloat16).float()
    assert not torch.equal(late.codes(late.groups(weight), late_scale).view(24, 64).to(torch.int8), before.codes)


def test_channels_keep_float32_scales() -> None:
    rounded = nearest(matrix(), INT8)
    assert rounded.scale.shape == (24, 1)
    assert not torch.equal(rounded.scale, rounded.scale.to(torch.bfloat16).float())


def test_searched_scales_are_close_to_the_best_there_are() -> None:
    weight = matrix(outputs=8)
    found, plain = searched(weight, INT4).values(), nearest(weight, INT4).values()
    best = np.array([best_by_trial(group, INT4) for group in weight.view(-1, 32).double().numpy()])
    assert (by_group(weight, found) / best).max() < 1.25  # measured: 1.19
    assert (by_group(weight, plain) / best).max() > 1.3  # measured: 1.43
    assert (by_group(weight, found) / by_group(weight, plain)).mean() < 0.95  # measured: 0.92


@pytest.mark.parametrize("seed", range(5))
def test_searching_is_never_worse_than_the_whole_range(seed: int) -> None:
    weight = torch.rand(16, 64, generator=torch.Generator().manual_seed(seed)) - 0.5
    assert (by_group(weight, searched(weight, INT4).values()) <= by_group(weight, nearest(weight, INT4).values()) * 1.00001).all()


def test_importance_moves_the_error_to_what_counts_less() -> None:
    weight = matrix()
    importance = torch.cat([torch.full((16,), 100.0), torch.ones(16)]).repeat(2)

    def weighed(values: Tensor) -> np.ndarray:
        return ((weight - values).square() * importance).view(-1, 32).sum(1).numpy()

    ours, plain = searched(weight, INT4, importance).values(), searched(weight, INT4).values()
    assert (weighed(ours) / weighed(plain)).mean() < 0.92  # measured: 0.87
    assert (by_group(weight, ours) / by_group(weight, plain)).mean() > 1.2  # measured: 1.44


def test_zeros_stay_zeros() -> None:
    for way in (nearest, searched, hqq):
        rounded = way(torch.zeros(4, 64), INT4)
        assert not rounded.codes.any()
        assert (rounded.scale > 0).all()
        assert torch.isfinite(rounded.scale).all()


def test_the_whole_range_reaches_half_a_step_beyond_the_largest_code() -> None:
    grouped = torch.tensor([[[-7.5, 3.0], [1.0, 15.0]]])
    assert full_range(grouped, Grid(4, 2, torch.bfloat16)).tolist() == [[1.0, 2.0]]
