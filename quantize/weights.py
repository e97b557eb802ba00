"""Weight quantisation of a portable program with torchao, in the one form that XNNPACK executes correctly: 8-bit dynamic
activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .recipes import WeightRecipe


def executed_layers(module: nn.Module, inputs: Sequence[Tensor]) -> set[str]:
    """Names of the linear layers that `module` runs on `inputs`: a program holds the whole model and uses a part of it."""
    names: set[str] = set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: names.add(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return names


def quantise(module: nn.Module, program: str, recipe: WeightRecipe, inputs: Sequence[Tensor] | None = None) -> dict[str, int]:
    """Quantises the linear layers of `module` in place as `recipe` says. Returns how many layers got which weights.

    With `inputs` only the layers that the module runs on them are quantised and counted.

    Weight-only schemes are not offered: XNNPACK lowers them without an error and computes garbage.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    counts: Counter[str] = Counter()
    used = None if inputs is None else executed_layers(module, inputs)
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, nn.Linear) or (used is not None and name not in used):
            continue
        rule = recipe.rule_for(program, name)
        if rule is None or rule.weights == "fp32":
            counts["fp32"] += 1
            continue
        if rule.weights == "int4" and layer.in_features % rule.group == 0:
            dtype, granularity = torch.int4, PerGroup(rule.group)  # type: ignore[attr-defined]
            counts["int4"] += 1
        else:
            dtype, granularity = torch.int8, PerAxis(0)
            counts["int8"] += 1
        config = Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity)
        quantize_(layer, config, filter_fn=lambda m, _: isinstance(m, nn.Linear))
    return dict(counts)
