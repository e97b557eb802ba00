"""What one call of a module would run, found without computing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def imagine(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Calls a module with inputs of these shapes."""
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        module(*(torch.empty(x.shape, dtype=x.dtype) for x in inputs))


def flops_of_call(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Of the products of one call, those of attention among them: of the operator that processors have for it torch counts none."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        imagine(module, inputs)
    return counter.get_total_flops()


def operators_of_call(
    module: nn.Module, inputs: Sequence[Tensor], kinds: Mapping[str, Callable[[nn.Module], int]]
) -> dict[str, int]:
    """How many operators of each name one call runs: `kinds` says how many of them a module is, whenever it is called."""
    found: Counter[str] = Counter()

    def note(part: nn.Module, *_: object) -> None:
        found.update({name: count for name, of in kinds.items() if (count := of(part))})

    handles = [part.register_forward_pre_hook(note) for part in module.modules()]
    try:
        imagine(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return dict(found)
