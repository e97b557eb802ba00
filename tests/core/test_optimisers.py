"""core/train/optimisers.py: matrices by Muon beside AdamW, beside PyTorch's own Muon."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from echoedge.core.train.optimisers import OPTIMISERS, adamw, muon, set_rate

RATE = 1e-3


def moved(shape: tuple[int, int], make: str) -> Tensor:
    """What three steps on the same gradients make of a matrix."""
    layer = nn.Linear(shape[1], shape[0])
    before = layer.weight.detach().clone()
    if make == "torch":
        ours = [torch.optim.Muon([layer.weight], weight_decay=0.0, adjust_lr_fn="match_rms_adamw")]
    else:
        ours = OPTIMISERS[make](layer)  # type: ignore[index]
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        for weight in layer.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        set_rate(ours, RATE)
        for each in ours:
            each.step()
    return layer.weight.detach() - before


@pytest.mark.parametrize("shape", [(48, 48), (96, 24), (24, 96)])
def test_matrices_move_as_with_pytorchs_muon(shape: tuple[int, int]) -> None:
    """Theirs computes in half the bits."""
    torch.manual_seed(0)
    ours, theirs, other = (moved(shape, make) for make in ("muon", "torch", "adamw"))
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.995
    assert float(ours.norm() / theirs.norm()) == pytest.approx(1.0, abs=0.03)
    assert torch.cosine_similarity(ours.flatten(), other.flatten(), dim=0) < 0.95


def test_what_is_no_matrix_is_adamws() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LayerNorm(4), nn.Linear(4, 5))
    matrices, others = muon(model)
    assert [weight.shape for group in matrices.param_groups for weight in group["params"]] == [(5, 4)]
    assert isinstance(others, torch.optim.AdamW) and sum(len(group["params"]) for group in others.param_groups) == 5
    (every,) = adamw(model)
    assert sum(len(group["params"]) for group in every.param_groups) == 6


def test_all_groups_go_by_one_rate() -> None:
    model = nn.Linear(16, 64)
    optimisers = muon(model)
    set_rate(optimisers, 2.0)
    one = [group["lr"] for each in optimisers for group in each.param_groups]
    set_rate(optimisers, 4.0)
    assert [group["lr"] for each in optimisers for group in each.param_groups] == [2 * rate for rate in one]
    assert one[1] == 2.0 and one[0] != 2.0
