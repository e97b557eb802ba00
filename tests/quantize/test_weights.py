"""quantize/weights.py: weights are rounded to the nearest step per channel or group, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.weights import executed_layers, quantise

BITS = {"int8": 8, "int4": 4}


def only(weights: str, group: int = 32) -> WeightRecipe:
    return WeightRecipe(name=weights, rules=(Rule(weights=weights, group=group),))  # type: ignore[arg-type]


def weight_of(layer: nn.Linear) -> np.ndarray:
    """The values that a layer computes with, whatever they are stored as."""
    weight: Tensor = layer.weight.detach()
    return (weight.dequantize() if hasattr(weight, "qdata") else weight).numpy().astype(np.float64)


def as_bfloat16(value: np.ndarray) -> np.ndarray:
    """Rounded to a mantissa of 8 bits."""
    mantissa, exponent = np.frexp(value)
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


def rounded(weight: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric rounding in groups of inputs, written out: the values, and the step of each, which XNNPACK keeps in bfloat16 for
    4-bit groups."""
    grouped = weight.reshape(len(weight), -1, group).astype(np.float64)
    step = np.abs(grouped).max(-1, keepdims=True) / (2**bits - 1) * 2
    step = as_bfloat16(step) if bits == 4 else step
    codes = np.clip(np.rint(grouped / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (codes * step).reshape(weight.shape), np.broadcast_to(step, grouped.shape).reshape(weight.shape)


def random_linear(inputs: int = 64, outputs: int = 24) -> nn.Linear:
    """Rows of very different size, so that one scale for all of them would show."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-2, 1, outputs)[:, None])
    return layer.requires_grad_(False)


@pytest.mark.parametrize(("weights", "group"), [("int8", 64), ("int4", 32), ("int4", 64)])
def test_weights_are_rounded_to_the_nearest_step(weights: str, group: int) -> None:
    layer = random_linear()
    before = weight_of(layer)
    assert quantise(nn.Sequential(layer), "denoise", only(weights, group)) == {weights: 1}
    expected, step = rounded(before, BITS[weights], group)
    error = np.abs(weight_of(layer) - before)
    assert (error <= 0.53 * step).all()  # bfloat16 rounds a scale down by up to 0.4 %, which cuts a largest weight of 7.5 steps
    assert (error <= 0.5001 * step).mean() > 0.98
    # A value half-way between two steps may fall to either side in float32; every other value is the same.
    other = np.abs(weight_of(layer) - expected) > 1e-3 * step
    assert other.mean() < 0.01
    assert (error[other] > 0.499 * step[other]).all()


def test_one_scale_for_all_rows_would_be_far_coarser() -> None:
    layer = random_linear()
    before = weight_of(layer)
    quantise(nn.Sequential(layer), "denoise", only("int8"))
    smallest = np.abs(weight_of(layer) - before)[0].max()
    assert smallest < 0.05 * np.abs(before).max() / 255


def test_four_bits_are_coarser_than_eight() -> None:
    errors = []
    for weights in BITS:
        torch.manual_seed(0)
        layer = random_linear()
        before = weight_of(layer)
        quantise(nn.Sequential(layer), "denoise", only(weights))
        errors.append(np.abs(weight_of(layer) - before).mean())
    assert errors[1] > 5 * errors[0]


@pytest.mark.parametrize(("inputs", "found"), [(64, "int4"), (96, "int4"), (80, "int8"), (20, "int8")])
def test_int4_falls_back_to_int8_where_the_inputs_do_not_divide(inputs: int, found: str) -> None:
    layer = random_linear(inputs)
    before = weight_of(layer)
    assert quantise(nn.Sequential(layer), "denoise", only("int4")) == {found: 1}
    expected, step = rounded(before, BITS[found], 32 if found == "int4" else inputs)
    assert (np.abs(weight_of(layer) - expected) <= 1.0001 * step).all()


def test_fp32_is_untouched() -> None:
    module = nn.Sequential(random_linear(), random_linear(24, 8))
    before = [parameter.clone() for parameter in module.parameters()]
    assert quantise(module, "denoise", PRESETS["fp32"]) == {"fp32": 2}
    assert all(type(parameter) is nn.Parameter for parameter in module.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_biases_and_other_layers_are_untouched() -> None:
    module = nn.Sequential(nn.Embedding(5, 64), random_linear(), nn.LayerNorm(24), nn.Conv1d(3, 3, 1))
    kept = {name: value.clone() for name, value in module.named_parameters() if name != "1.weight"}
    assert quantise(module, "denoise", PRESETS["int8"]) == {"int8": 1}
    now = dict(module.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in kept.items())


def test_layers_are_counted_by_what_they_got() -> None:
    module = nn.ModuleDict({"blocks": nn.ModuleList([random_linear(), random_linear(80)]), "head": random_linear()})
    wrapper = nn.ModuleDict({"dit": module})
    assert quantise(wrapper, "denoise", PRESETS["int4"]) == {"int4": 1, "int8": 2}


def test_rules_are_asked_with_the_programs_name() -> None:
    module = nn.ModuleDict({"dit": nn.ModuleDict({"blocks": nn.ModuleList([random_linear()])})})
    assert quantise(module, "encode_conditions", PRESETS["int4"]) == {"int8": 1}


def test_a_program_without_linear_layers() -> None:
    assert quantise(nn.Sequential(nn.Conv2d(3, 3, 1)), "vae_decode", PRESETS["int8"]) == {}


def test_activations_are_quantised_too() -> None:
    """Weights alone would give the exact product with the rounded weights; XNNPACK computes garbage for that form."""
    layer = random_linear()
    quantise(nn.Sequential(layer), "denoise", only("int8"))
    x = torch.randn(4, 64)
    exact = x @ layer.weight.dequantize().T + layer.bias
    difference = float((layer(x) - exact).abs().max() / exact.abs().max())
    assert 1e-5 < difference < 0.02


class Half(nn.Module):
    """Holds two layers and runs one, as a program holds the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.run, self.idle = random_linear(), random_linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def test_layers_that_the_program_does_not_run_are_left_alone() -> None:
    module, x = Half(), torch.randn(2, 64)
    idle = module.idle.weight.clone()
    assert executed_layers(module, (x,)) == {"run"}
    assert quantise(module, "denoise", PRESETS["int8"], (x,)) == {"int8": 1}
    assert torch.equal(module.idle.weight, idle)
    assert quantise(Half(), "denoise", PRESETS["int8"]) == {"int8": 2}
