"""Rounded weights in a layer, on their way to a target's own form: a rounding's integers, computing what they stand for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quantize.grid import Grid, Palette, Palettised, Rounded, integers_of


class StoredWeight(Tensor):
    """Codes, int8 [out, in], that stand for weights; linear layers compute with what they stand for."""

    scale: Tensor
    grid: Grid

    @classmethod
    def of(cls, codes: Tensor, scale: Tensor, grid: Grid) -> StoredWeight:
        found: StoredWeight = Tensor._make_subclass(cls, codes)
        found.scale, found.grid = scale, grid
        return found

    @property
    def rounded(self) -> Rounded:
        with torch._C.DisableTorchFunctionSubclass():
            return Rounded(self.as_subclass(Tensor), self.scale)

    def detach(self) -> StoredWeight:
        return StoredWeight.of(self.rounded.codes, self.scale, self.grid)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            x, weight, *rest = args
            return F.linear(x, weight.rounded.values(), *rest, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


def stored_weight(rounded: Rounded | Palettised, grid: Grid | Palette) -> Tensor:
    """Raises ConfigError: weights are those of a palette."""
    rounded, grid = integers_of(rounded, grid)
    return StoredWeight.of(rounded.codes, rounded.scale, grid)
