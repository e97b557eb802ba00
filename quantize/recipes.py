"""Recipes: which weights are stored how. A recipe is data, a preset by name or a JSON file."""

from __future__ import annotations

import difflib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..core.bundle import CONDITION_PROGRAMS
from ..core.errors import ConfigError
from .roundings import DATA_FREE, NEEDS_SAMPLES, PALETTE_ROUNDINGS, ROUNDINGS, Rounding
from .schemes import PALETTES, Weights

JOINT_CONDITIONS = "encode_conditions"
Layers = Literal["linear", "convolution"]
OF_CONVOLUTIONS: tuple[Weights, ...] = ("fp32", "int8")


class Rule(BaseModel):
    """`programs` and `modules` are shell-style patterns; `weights` is how the layers they match are stored: linear layers, or, with
    `layers` "convolution", convolutions, as fp32 or int8. A pattern that matches `encode_conditions` matches the four condition
    programs, which were one of that name.

    int8: 8-bit weights per output channel. int4: 4-bit weights in groups of `group` inputs; layers whose inputs do not divide
    into groups are stored as int8. Both with activations quantised to 8 bits as they come: per row, a convolution's all together.
    pal4, pal6, pal8: palettes, 4, 6 or 8 bits into a table of float16 values that `rows` output channels share, a few more where
    the outputs do not divide, all of them where there are no more: one table for a layer. Activations stay as they are.

    `rounding` of integers: nearest; searched and hqq choose scales that clip, from the weights alone; gptq rounds a layer's inputs
    one after the other and lets the rest make up for the error, from calibration samples. Of palettes: nearest and searched are
    k-means, the table of the smallest squared error; gptq weighs each input by what its error costs in the samples when the table
    is made, and then chooses codes as it does for integers; hqq is about scales, which palettes have none of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    programs: str = "*"
    modules: str = "*"
    weights: Weights
    layers: Layers = "linear"
    group: int = Field(default=32, ge=32, multiple_of=32)
    rows: int = Field(default=16, ge=1)
    rounding: Rounding = "nearest"

    @model_validator(mode="after")
    def _rounds(self) -> Self:
        if self.weights in PALETTES and self.rounding not in PALETTE_ROUNDINGS:
            raise ValueError(
                f"rounding is {self.rounding!r}, which chooses scales; {self.weights} is a palette, rounded by one of "
                f"{', '.join(PALETTE_ROUNDINGS)}"
            )
        if self.layers == "convolution" and self.weights not in OF_CONVOLUTIONS:
            raise ValueError(f"weights of convolutions are {self.weights!r}; they are one of {', '.join(OF_CONVOLUTIONS)}")
        if self.layers == "convolution" and self.rounding in NEEDS_SAMPLES:
            others = ", ".join(name for name in ROUNDINGS if name not in NEEDS_SAMPLES)
            raise ValueError(f"rounding of convolutions is {self.rounding!r}, which is of linear layers; take one of {others}")
        return self


class WeightRecipe(BaseModel):
    """Of the rules for its kind the first one that matches a layer holds; a layer that none matches stays fp32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    rules: tuple[Rule, ...] = ()

    @property
    def needs_samples(self) -> bool:
        """Whether a rule's rounding asks for calibration samples."""
        return any(rule.rounding in NEEDS_SAMPLES and rule.weights != "fp32" for rule in self.rules)

    def data_free(self) -> WeightRecipe:
        """The same weights, rounded as well as they can be without calibration samples."""
        free = (rule.model_copy(update={"rounding": DATA_FREE}) if rule.rounding in NEEDS_SAMPLES else rule for rule in self.rules)
        return self.model_copy(update={"rules": tuple(free)})

    def nearest(self) -> WeightRecipe:
        """The same weights, each rounded to the nearest step: what a student that learns through them computes with."""
        return self.model_copy(update={"rules": tuple(rule.model_copy(update={"rounding": "nearest"}) for rule in self.rules)})

    @property
    def of_convolutions(self) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.layers == "convolution")

    @property
    def rounds_convolutions(self) -> bool:
        return any(rule.weights != "fp32" for rule in self.of_convolutions)

    def without_convolutions(self) -> WeightRecipe:
        """The same of linear layers; convolutions stay fp32."""
        return self.model_copy(update={"rules": tuple(rule for rule in self.rules if rule.layers == "linear")})

    def rule_for(self, program: str, module: str, layers: Layers = "linear") -> Rule | None:
        names = (program, JOINT_CONDITIONS) if program in CONDITION_PROGRAMS else (program,)
        for rule in self.rules:
            if (
                rule.layers == layers
                and any(fnmatchcase(name, rule.programs) for name in names)
                and fnmatchcase(module, rule.modules)
            ):
                return rule
        return None


# A few thousand weights each, and most of what int8 would cost: the head alone makes two thirds of nano's int8 error.
HIGH = (
    Rule(programs="denoise*", modules="*head.head", weights="fp32"),
    Rule(modules="*patch_embedding*", weights="fp32"),
)
# The 3x3 convolutions of the VAE's residual blocks, four fifths of nano's decoder. What doubles pictures is given values that are
# not normalised: rounding them too takes a random decoder at toy width from 45 dB to the bar of 40. The tiny decoder's are not
# either: with weights as large as those of the tests' toy it comes to 20 dB. 1x1 convolutions gain less than rounding costs.
RESIDUAL = Rule(programs="vae_*code", modules="*.residual.*", layers="convolution", weights="int8")
PRESETS = {
    "fp32": WeightRecipe(name="fp32"),
    "int8": WeightRecipe(name="int8", rules=(*HIGH, Rule(weights="int8"), RESIDUAL)),
    "int4": WeightRecipe(
        name="int4",
        rules=(
            *HIGH,
            Rule(programs="denoise", modules="*blocks.*", weights="int4", rounding="searched"),
            Rule(weights="int8"),
            RESIDUAL,
        ),
    ),
    # What searches of nano find worth 8 bits in the blocks is what attention gives to the clip; text and portrait bear 4.
    "mixed": WeightRecipe(
        name="mixed",
        rules=(
            *HIGH,
            Rule(programs="denoise", modules="*self_attn.[vo]", weights="int8"),
            Rule(programs="denoise", modules="*cross_attn.o", weights="int8"),
            Rule(programs="denoise", modules="*blocks.*", weights="int4", rounding="gptq"),
            Rule(programs="encode_conditions", modules="*cross_attn.[kv]", weights="int4", rounding="searched"),
            Rule(programs="encode_conditions", modules="*cross_attn.[kv]_img", weights="int4", rounding="searched"),
            Rule(weights="int8"),
            RESIDUAL,
        ),
    ),
    "pal8": WeightRecipe(name="pal8", rules=(*HIGH, Rule(weights="pal8"))),
    "pal6": WeightRecipe(name="pal6", rules=(*HIGH, Rule(weights="pal6"))),
    # Conditions and encoders of 6 bits lie 14 dB and more beyond a step of 4 (nano: 49 to 68 dB, 35); 8 bits would not show.
    "pal4": WeightRecipe(
        name="pal4", rules=(*HIGH, Rule(programs="denoise", modules="*blocks.*", weights="pal4"), Rule(weights="pal6"))
    ),
}


def read_recipe(text: str) -> WeightRecipe:
    """A preset's name, or the path of a recipe file.

    Raises:
        ConfigError: neither; the message lists the presets or says what is wrong in the file.
    """
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix.lower() != ".json":
        near = difflib.get_close_matches(text, PRESETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There are no weights {text!r}. Choose from {', '.join(PRESETS)}, or name a recipe file (.json).{hint}")
    try:
        return WeightRecipe.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) + ": " if first["loc"] else ""
        example = json.dumps(PRESETS["int4"].model_dump())
        raise ConfigError(f"The recipe {path} is not valid: {place}{first['msg']}. A valid one is: {example}") from error
