"""How a weight matrix is rounded to the integers of its scheme: one way a file, registered here.

`ROUNDINGS`: name -> function of a weight [out, in] float32, its grid, and second moments of its inputs, one matrix for each of
`gptq.parts_of`, empty for roundings that do not look at data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from ..grid import Grid, Rounded
from . import gptq, hqq, nearest, searched

Rounding = Literal["nearest", "searched", "hqq", "gptq"]
NEEDS_SAMPLES: tuple[Rounding, ...] = ("gptq",)  # roundings that look at what a layer is given
DATA_FREE: Rounding = "searched"  # what stands in for them
ROUNDINGS: Mapping[Rounding, Callable[[Tensor, Grid, Sequence[Tensor]], Rounded]] = {
    "nearest": lambda weight, grid, _: nearest.nearest(weight, grid),
    "searched": lambda weight, grid, _: searched.searched(weight, grid),
    "hqq": lambda weight, grid, _: hqq.hqq(weight, grid),
    "gptq": lambda weight, grid, moments: gptq.gptq(weight, moments, grid),
}
