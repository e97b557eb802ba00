"""quantize/schemes and quantize/roundings: what a scheme's weights take, and that every name has its scheme or rounding."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from echoedge.core.errors import ConfigError
from echoedge.quantize.grid import Grid, Palette, Palettised, Rounded
from echoedge.quantize.recipes import Rule, WeightRecipe
from echoedge.quantize.roundings import NEEDS_SAMPLES, PALETTE_ROUNDINGS, ROUNDINGS, Rounding
from echoedge.quantize.roundings.gptq import parts_of
from echoedge.quantize.schemes import PALETTES, SCHEMES, Weights, weight_bytes
from echoedge.quantize.weights import quantise
from echoedge.targets.executorch.storage import stored_weight
from echoedge.targets.onnx import storage as onnx_storage


def test_every_name_is_registered() -> None:
    assert set(SCHEMES) == set(get_args(Weights))
    assert set(PALETTES) < set(SCHEMES)
    assert set(ROUNDINGS) == set(get_args(Rounding))
    assert set(PALETTE_ROUNDINGS) == set(ROUNDINGS) - {"hqq"}
    assert set(NEEDS_SAMPLES) < set(ROUNDINGS)


@pytest.mark.parametrize(("inputs", "weights", "group"), [(64, "int8", 32), (64, "int4", 32), (128, "int4", 64), (80, "int4", 32)])
def test_bytes_are_those_of_the_stored_tensors(inputs: int, weights: Weights, group: int) -> None:
    layer = nn.Linear(inputs, 24)
    counts = quantise(
        nn.Sequential(layer), "p", WeightRecipe(name="x", rules=(Rule(weights=weights, group=group),)), store=stored_weight
    )
    codes, scale = layer.weight.qdata, layer.weight.scale
    packed = codes.numel() // 2 if "int4" in counts else codes.numel()
    assert weight_bytes(24, inputs, weights, group) == packed + scale.numel() * (2 if "int4" in counts else 4)
    assert weight_bytes(24, inputs, "fp32") == 24 * inputs * 4


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_rounding_stays_near_the_weight(rounding: Rounding, weights: Weights) -> None:
    weight = torch.randn(24, 64)
    grid = SCHEMES[weights].grid(24, 64, 32, 16)
    assert isinstance(grid, Grid)
    moments = [torch.eye(part.stop - part.start) for part in parts_of(64)]
    found = ROUNDINGS[rounding](weight, grid, moments)
    assert (found.codes.min() >= grid.low) and (found.codes.max() <= grid.high)
    error = (found.values() - weight).norm() / weight.norm()
    assert error < {"int8": 0.01, "int4": 0.12}[weights]  # measured over 20 draws: 0.0066 and 0.100 at most
    assert (found.values().flip(0) - weight).norm() / weight.norm() > 1


# ---- palettes --------------------------------------------------------------------------------------------------------------------


def palettised(outputs: int, inputs: int, weights: Weights, **fields: int) -> tuple[Palettised, Palette, dict[str, int]]:
    """What a target is given of a layer, and how the layer is counted."""
    given: list[tuple[Palettised, Palette]] = []

    def store(rounded: Rounded | Palettised, grid: Grid | Palette) -> Tensor:
        assert isinstance(rounded, Palettised) and isinstance(grid, Palette)
        given.append((rounded, grid))
        return rounded.values()

    layer = nn.Linear(inputs, outputs)
    recipe = WeightRecipe(name="x", rules=(Rule(weights=weights, **fields),))  # type: ignore[arg-type]
    counts = quantise(nn.Sequential(layer), "p", recipe, store=store)
    assert torch.equal(layer.weight, given[0][0].values())
    return *given[0], counts


@pytest.mark.parametrize(
    ("outputs", "fields", "rows"),
    [
        (32, {}, 16),
        (24, {}, 24),
        (40, {}, 20),
        (34, {}, 17),
        (8, {}, 8),
        (17, {}, 17),
        (32, {"rows": 4}, 4),
        (48, {"rows": 1000}, 48),
    ],
)
def test_tables_are_shared_by_as_many_outputs(outputs: int, fields: dict[str, int], rows: int) -> None:
    found, palette, counts = palettised(outputs, 20, "pal4", **fields)
    assert palette == Palette(4, rows)
    assert found.table.shape == (outputs // rows, 16)
    assert counts == {"pal4": 1}


@pytest.mark.parametrize("weights", PALETTES)
@pytest.mark.parametrize("inputs", [64, 63])
def test_bytes_of_palettes_are_those_of_packed_codes_and_tables(weights: Weights, inputs: int) -> None:
    found, palette, counts = palettised(17, inputs, weights)
    assert counts == {weights: 1}
    bits = "".join(format(int(code), f"0{palette.bits}b") for code in found.codes.flatten())
    assert weight_bytes(17, inputs, weights) == -(-len(bits) // 8) + found.table.half().numpy().nbytes
    assert weight_bytes(17, inputs, weights, rows=1) == -(-len(bits) // 8) + 17 * 2 * 2**palette.bits


@pytest.mark.parametrize("rounding", PALETTE_ROUNDINGS)
@pytest.mark.parametrize("weights", PALETTES)
def test_every_rounding_of_palettes_stays_near_the_weight(rounding: Rounding, weights: Weights) -> None:
    weight, palette = torch.randn(32, 64), Palette(PALETTES[weights], 16)
    found = PALETTE_ROUNDINGS[rounding](weight, palette, [torch.eye(64)])
    error = (found.values() - weight).norm() / weight.norm()
    assert error < {"pal8": 0.01, "pal6": 0.03, "pal4": 0.12}[weights]  # measured over 20 draws: 0.0035, 0.021 and 0.096
    assert (found.values().flip(0) - weight).norm() / weight.norm() > 1


def test_targets_of_integers_say_that_they_store_no_palette() -> None:
    layers = nn.Sequential(nn.Linear(64, 16))
    recipe = WeightRecipe(name="x", rules=(Rule(weights="pal6"),))
    for store in (stored_weight, onnx_storage.stored_weight):
        with pytest.raises(ConfigError, match=r"Weights are pal6, which this target does not store\. Choose int8 or int4\."):
            quantise(layers, "p", recipe, store=store)
