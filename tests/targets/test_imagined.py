"""targets/imagined.py: what a call would run is counted without running it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoedge.targets.imagined import flops_of_call, operators_of_call


class Attends(nn.Module):
    """A projection, attention of its result to itself, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(16, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).view(1, x.shape[1], 2, 16).transpose(1, 2)
        return self.norm(F.scaled_dot_product_attention(y, y, y).transpose(1, 2).reshape(1, x.shape[1], 32))


def test_flops_are_those_of_the_products_and_of_attention() -> None:
    projection, attention = 2 * 40 * 16 * 32, 2 * 2 * 2 * 40 * 40 * 16  # of two heads, its two products
    module, inputs = Attends(), (torch.zeros(1, 40, 16),)
    assert [flops_of_call(module, inputs) for _ in range(3)] == [projection + attention] * 3
    assert flops_of_call(nn.Linear(16, 32), inputs) == projection


def test_operators_are_counted_as_often_as_they_are_called() -> None:
    module = nn.Sequential(Attends(), nn.Linear(32, 16), Attends())
    module.append(module[1])  # called twice
    kinds = {
        "norm": lambda part: isinstance(part, nn.LayerNorm),
        "linear": lambda part: isinstance(part, nn.Linear),
        "none": lambda _: 0,
    }
    assert operators_of_call(module, (torch.zeros(1, 5, 16),), kinds) == {"norm": 2, "linear": 4}
