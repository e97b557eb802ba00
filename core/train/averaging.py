"""The exponential moving average of a model's parameters, which is what a training run gives."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float, updates: int = 0) -> AveragedModel:
    """The average of `model`, its copy so far, after `updates` of it; `update_parameters` moves it towards a model.

    The decay grows with every update, (n + 1) / (n + 10), up to `decay`, so that where training began does not hold the first ones.
    """
    average = AveragedModel(model, avg_fn=partial(_moved, decay=decay))
    average.n_averaged.fill_(updates + 1)  # at 0 the library's first update would replace the average
    return average.eval().requires_grad_(False)


def _moved(kept: Tensor, new: Tensor, count: Tensor | int, decay: float) -> Tensor:
    done = int(count)
    return kept.lerp(new, 1 - min(decay, (done + 1) / (done + 10)))
