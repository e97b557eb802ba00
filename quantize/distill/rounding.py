"""Training through the weights that programs will hold.

A layer that a recipe rounds computes with what the exporter makes of its weight: half precision, as the weights file keeps it, then
the nearest values of the scheme's grid, scales from the weight as it is now. The gradient goes to the weight as if it had been used
itself. What a file of such weights is exported to are therefore the integers and scales that training ended with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.config import ClipSpec, ModelConfig
from ...core.errors import ConfigError
from ...core.model.architecture import skeleton
from ...core.model.programs import (
    audio_conditions_program,
    denoise_program,
    image_conditions_program,
    text_conditions_program,
)
from ...core.model.transformer import DiT
from ...core.weights.passport import Passport
from ..grid import Grid, Palette, Rounded
from ..recipes import PRESETS, WeightRecipe
from ..roundings.nearest import nearest
from ..weights import executed_layers, grid_of, linear_layers

CLIP = ClipSpec(32, 32, 5)  # every shape of two latent frames and more runs the same layers
TEXT_ROWS = 2
PREFIX = "dit."  # of the transformer's layers in programs
PATCHES = {"denoise": "dit.patch_embedding.noise", "patch_conditions": "patch_embedding.given"}  # layers of programs alone
Inputs = Literal["float", "int8"]  # of rounded layers


@cache
def layers_of(config: ModelConfig) -> dict[tuple[str, str], nn.Linear]:
    """The linear layers of a transformer that its programs run, by the program's role and the layer's name there; without weights.
    Those of the timestep run in none: they are computed once, when a plan is exported."""
    dit = skeleton(DiT, config).to_empty(device="cpu")
    programs = {
        "text_conditions": text_conditions_program(dit, TEXT_ROWS), "image_conditions": image_conditions_program(dit),
        "audio_conditions": audio_conditions_program(dit, CLIP), "denoise": denoise_program(dit, CLIP, TEXT_ROWS),
    }  # fmt: skip
    found: dict[tuple[str, str], nn.Linear] = {}
    for role, methods in programs.items():
        for method in methods.values():
            executed = executed_layers(method.module, tuple(method.inputs.values()))
            found |= {(role, name): layer for name, layer in linear_layers(method.module).items() if name in executed}
    dit.to("meta")
    return found


def grids_of(config: ModelConfig, recipe: WeightRecipe) -> dict[str, Grid | Palette]:
    """What each of a transformer's layers is rounded to in the program that runs it, by its name; those that stay are not there.

    Raises:
        ConfigError: the recipe rounds the patch embedding, which is no layer of the transformer but of programs alone.
    """
    for role, layer in PATCHES.items():
        rule = recipe.rule_for(role, layer)
        if rule is not None and rule.weights != "fp32":
            raise ConfigError(
                f"The recipe {recipe.name!r} rounds {layer} of {role} to {rule.weights}; a student's patch embedding stays as it "
                'is. Put the rule {"modules": "*patch_embedding*", "weights": "fp32"} first.'
            )
    rules = {(role, name): recipe.rule_for(role, name) for role, name in layers_of(config)} if recipe.rules else {}
    grids = {key: grid_of(layers_of(config)[key], rule) for key, rule in rules.items() if rule is not None}
    return {name.removeprefix(PREFIX): grid for (_, name), grid in grids.items() if grid is not None}


# ---- layers ----------------------------------------------------------------------------------------------------------------------


def held(weight: Tensor, grid: Grid) -> Rounded:
    """The integers and scales that a program holds of a weight [out, in] that has been to a weights file."""
    return nearest(weight.detach().half().float(), grid)


def eight_bits(x: Tensor) -> Tensor:
    """Each row to 8 bits with a scale and a zero of its own, as XNNPACK takes the inputs of layers with fewer bits."""
    from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, dequantize_affine, quantize_affine

    x, block = x.detach().float(), (1,) * (x.dim() - 1) + (x.shape[-1],)
    scale, zero = choose_qparams_affine(x, MappingType.ASYMMETRIC, block, torch.int8, zero_point_dtype=torch.int8)
    codes = quantize_affine(x, block, scale, zero, torch.int8)
    return dequantize_affine(codes, block, scale, zero, torch.int8)


class _Straight(torch.autograd.Function):
    """The value of a function of one tensor, and the gradient of none."""

    @staticmethod
    def forward(_: Any, x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        return of(x).to(x.dtype)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class RoundedLinear(nn.Linear):
    """A linear layer that computes with what its program will hold; its state is that of the layer that it stands for."""

    grid: Grid
    inputs: Inputs

    @classmethod
    def of(cls, layer: nn.Linear, grid: Grid, inputs: Inputs) -> RoundedLinear:
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        made.weight, made.bias, made.grid, made.inputs = layer.weight, layer.bias, grid, inputs
        return made

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid
        weight = _Straight.apply(self.weight, lambda weight: held(weight, grid).values())
        return F.linear(_Straight.apply(x, eight_bits) if self.inputs == "int8" else x, weight, self.bias)


def round_layers(dit: DiT, recipe: WeightRecipe, inputs: Inputs = "float") -> DiT:
    """Has `dit` compute as programs of this recipe do; in place. Names of parameters, and what is in them, stay.

    Raises:
        ConfigError: as `grids_of`, or the recipe has palettes.
    """
    for name, grid in grids_of(dit.config, recipe).items():
        if isinstance(grid, Palette):
            raise ConfigError(
                f"The recipe {recipe.name!r} rounds {name} to {grid.name}, a palette, which is searched for. A student learns "
                "through int8 or int4."
            )
        dit.set_submodule(name, RoundedLinear.of(dit.get_submodule(name), grid, inputs))  # type: ignore[arg-type]
    return dit


# ---- what a passport says of it --------------------------------------------------------------------------------------------------


def taught_recipe(passport: Passport) -> WeightRecipe:
    """The recipe that a student was taught through."""
    if not passport.rules:
        return PRESETS["fp32"]
    return WeightRecipe.model_validate({"name": passport.weights, "rules": passport.rules})


def as_taught(dit: DiT, passport: Passport) -> DiT:
    """Has a student compute through the weights that it was taught through; in place."""
    return round_layers(dit, taught_recipe(passport), passport.inputs)


def exported_recipe(passport: Passport, config: ModelConfig, asked: WeightRecipe) -> tuple[WeightRecipe, str | None]:
    """The recipe by which a student is exported that is to have the weights of `asked`, and a sentence where those are not what it
    was taught through: where they are, they are rounded to the nearest, as in training, whatever `asked` would do."""
    taught = grids_of(config, taught_recipe(passport))
    if not taught:
        return asked, None
    if taught == grids_of(config, asked):
        return asked.nearest(), None
    return asked, (
        f"This student was taught through {passport.weights} weights, and {asked.name} rounds them anew, which nobody taught it. "
        f"Export it with the weights {passport.weights} for those that its training ended with."
    )
