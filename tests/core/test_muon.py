"""core/train/muon.py: steps are orthogonal, go downhill, and leave untouched what has no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoedge.core.train.muon import Muon, _by_gram, _by_weight, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (16, 60), (60, 16), (16, 160)])
def test_directions_are_kept_and_their_lengths_become_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4 * torch.linspace(0.3, 1.0, shape[0])[:, None]
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    change = u.T @ orthogonalise(matrix) @ vh.T
    kept = s > 1e-2 * s.norm()
    # The published iteration takes singular values to 0.68 ... 1.13.
    assert ((change.diagonal()[kept] > 0.65) & (change.diagonal()[kept] < 1.15)).all()
    assert (change - change.diagonal().diag()).abs().max() < 1e-3
    assert s[0] / s[-1] > 2  # they were not equal before


@pytest.mark.parametrize("shape", [(4, 9), (2, 90)])
def test_nothing_becomes_nothing(shape: tuple[int, int]) -> None:
    assert torch.equal(orthogonalise(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(24, 24), (8, 100)])
def test_both_ways_of_iterating_agree(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_by_weight(matrix), _by_gram(matrix), atol=1e-5)
    assert not torch.allclose(_by_weight(matrix), matrix / matrix.norm(), atol=0.1)


def test_columns_without_a_gradient_stay() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    weight.grad[:, :, -1] = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight[:, :, :-1], before[:, :, :-1])
    assert (weight[:, :, -1] - before[:, :, -1]).abs().max() > 1e-3


def test_a_badly_scaled_regression_is_solved_where_gradient_descent_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 12, generator=generator) * torch.logspace(0, -2, 12)
    target = torch.randn(12, 6, generator=generator)

    def loss_after(steps: int, muon: bool) -> float:
        weight = nn.Parameter(torch.zeros(6, 12))
        optimiser = Muon([weight], lr=1.0) if muon else torch.optim.SGD([weight], lr=0.5)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = (0.2 if muon else 0.5) * (1 - step / steps)
            optimiser.zero_grad()
            (inputs @ (weight.T - target)).square().mean().backward()
            optimiser.step()
        return float((inputs @ (weight.T - target)).square().mean())

    muon, descent = loss_after(100, True), loss_after(100, False)
    assert muon < 0.5 * descent, (muon, descent)


def test_weights_without_a_gradient_are_skipped() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2))
