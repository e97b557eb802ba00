"""Convolutions of a portable program in 8 bits, as a recipe's rules for them say, free of how a target stores the result.

A convolution is rounded as the matrix [out, in · rows · columns] that it multiplies windows with: a scale for each output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .grid import Palettised, Rounded
from .recipes import Rule, WeightRecipe
from .roundings import rounded
from .schemes import SCHEMES
from .weights import executed_layers

Convolution: TypeAlias = nn.Conv2d | nn.ConvTranspose2d
StoreConvolution = Callable[[Convolution, Rounded], nn.Module]  # what a target's compiler takes in its place


def convolutions(module: nn.Module) -> dict[str, Convolution]:
    """Those over pictures whose channels are not in groups."""
    found = {name: part for name, part in module.named_modules() if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d))}
    return {name: part for name, part in found.items() if part.groups == 1 and part.weight is not None}


def matrix_of(conv: Convolution) -> Tensor:
    """Its weights, [out, in · rows · columns], float32."""
    weight = conv.weight.detach().float()
    return (weight.transpose(0, 1) if isinstance(conv, nn.ConvTranspose2d) else weight).flatten(1)


@torch.no_grad()
def rounded_convolution(conv: Convolution, rule: Rule) -> Rounded | None:
    """Its weights as the rule rounds them; None where they stay as they are."""
    matrix = matrix_of(conv)
    grid = SCHEMES[rule.weights].grid(len(matrix), matrix.shape[1], rule.group, rule.rows)
    if grid is None:
        return None
    found = rounded(matrix, grid, rule.rounding, ())
    assert not isinstance(found, Palettised)  # rules refuse palettes of convolutions
    return found


def quantise_convolutions(
    module: nn.Module, program: str, recipe: WeightRecipe, inputs: Sequence[Tensor], *, store: StoreConvolution
) -> dict[str, int]:
    """Replaces, in place, convolutions of `module` that run on inputs of these shapes, as `recipe` says, by what `store` makes of
    them. Returns how many got which weights; those that stay as they are, are not counted."""
    asked = {name: (conv, recipe.rule_for(program, name, "convolution")) for name, conv in convolutions(module).items()}
    rules = {name: (conv, rule) for name, (conv, rule) in asked.items() if rule is not None and rule.weights != "fp32"}
    if not rules:
        return {}
    used = executed_layers(module, inputs, {name: conv for name, (conv, _) in rules.items()})
    counts: dict[str, int] = {}
    for name, (conv, rule) in rules.items():
        found = rounded_convolution(conv, rule) if name in used else None
        if found is not None:
            module.set_submodule(name, store(conv, found))
            counts[rule.weights] = counts.get(rule.weights, 0) + 1
    return counts
