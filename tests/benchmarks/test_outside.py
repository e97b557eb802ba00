"""What ExecuTorch's own kernels take here, the constants of targets/executorch/outside.py:

    pytest --benchmark-only tests/benchmarks/test_outside.py

`extra_info` has nanoseconds an element and, of products, 10^9 FLOPs a second.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoedge.targets.executorch.gate import flops
from echoedge.targets.executorch.outside import Alone

from ..targets.test_outside import X, node_of

KERNELS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "a call": (torch.exp, (torch.rand(1),)),
    "softmax": (lambda x: torch.softmax(x, -1), (X,)),
    "exp": (torch.exp, (X,)),
    "where": (lambda mask, x: torch.where(mask, x, x), (X > 0.5, X)),
    "permute": (lambda x: torch.ops.aten.permute_copy.default(x, [0, 2, 1]), (X,)),
    "GELU": (F.gelu, (X,)),
    "layer norm": (lambda x: F.layer_norm(x, (256,)), (X,)),
    "add": (torch.add, (X, X)),
    "slice": (lambda x: torch.ops.aten.slice_copy.Tensor(x, 0, 0, 4), (X,)),
    "convolution": (lambda x, w: torch.conv2d(x, w, padding=1), (torch.rand(1, 32, 32, 32), torch.rand(32, 32, 3, 3))),
    "batched product": (torch.bmm, (X, X)),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.benchmark(group="operators outside the backend, one thread")
def test_a_kernel(name: str, benchmark: Any) -> None:
    function, inputs = KERNELS[name]
    node = node_of(function, *inputs)
    benchmark(Alone(node).compiled())
    seconds, work = benchmark.stats["min"], sum(flops(SimpleNamespace(graph=node.graph)).values())
    benchmark.extra_info["ns an element"] = 1e9 * seconds / max(value.numel() for value in inputs)
    benchmark.extra_info["GFLOP/s"] = work / seconds / 1e9
