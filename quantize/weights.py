"""Weight quantisation of a portable program with torchao, in the one form that XNNPACK executes correctly: 8-bit dynamic
activations."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from .recipes import WeightRecipe


def quantise(module: nn.Module, program: str, recipe: WeightRecipe) -> dict[str, int]:
    """Quantises the linear layers of `module` in place as `recipe` says. Returns how many layers got which weights.

    Weight-only schemes are not offered: XNNPACK lowers them without an error and computes garbage.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    counts: Counter[str] = Counter()
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, nn.Linear):
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
