"""quantize/weights.py: weights are rounded to the nearest step per channel or group, and nothing else is touched."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echoedge.core.errors import ConfigError
from echoedge.quantize import weights as weights_module
from echoedge.quantize.grid import Grid
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.weights import executed_layers, input_moments, linear_layers
from echoedge.targets.executorch.storage import stored_weight

BITS = {"int8": 8, "int4": 4}
quantise = partial(weights_module.quantise, store=stored_weight)


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


# ---- parts of a program, and samples ---------------------------------------------------------------------------------------------


def test_a_part_is_looked_up_under_its_prefix() -> None:
    rules = (Rule(modules="dit.blocks.7.*", weights="int4"), Rule(modules="dit.blocks.8.*", weights="int8"))
    recipe = WeightRecipe(name="x", rules=rules)
    found = [quantise(nn.ModuleDict({"q": random_linear()}), "denoise", recipe, prefix=f"dit.blocks.{i}.") for i in (7, 8, 9)]
    assert found == [{"int4": 1}, {"int8": 1}, {"fp32": 1}]


class TwoLayers(nn.Module):
    """Inputs that have much in common, two layers, and one that nothing reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.unreached = nn.Linear(64, 96), nn.Linear(96, 48), nn.Linear(64, 8)
        self.requires_grad_(False)

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x * factor)))


def calls(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Calls of `TwoLayers` on inputs with three hidden causes."""
    mixing = torch.randn(3, 64, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(1, 50, 3, generator=generator) @ mixing + 0.2 * torch.randn(1, 50, 64, generator=generator), torch.ones(1))
        for _ in range(count)
    ]


def fitted() -> WeightRecipe:
    return WeightRecipe(name="mine", rules=(Rule(weights="int4", rounding="gptq"),))


def error_on_new_inputs(recipe: WeightRecipe, samples: list[tuple[Tensor, Tensor]]) -> float:
    module, exact, total = TwoLayers(), TwoLayers(), 0.0
    assert quantise(module, "denoise", recipe, samples=samples) == {"int4": 3}
    for call in calls(4, seed=1):
        total += float((module(*call) - exact(*call)).square().sum() / exact(*call).square().sum())
    return total / 4


def test_samples_make_a_program_more_exact_on_inputs_of_their_kind() -> None:
    of_its_kind = error_on_new_inputs(fitted(), calls(8))
    assert of_its_kind < 0.5 * error_on_new_inputs(fitted().data_free(), [])  # measured: 0.03
    strange = [(torch.randn(x.shape), factor) for x, factor in calls(8)]
    assert of_its_kind < 0.7 * error_on_new_inputs(fitted(), strange)  # measured: 0.04


def test_a_pass_over_the_samples_for_every_few_layers_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """With moments of few layers at a time, later layers see what the earlier ones, rounded, give."""
    together = error_on_new_inputs(fitted(), calls(8))
    monkeypatch.setattr(weights_module, "MOMENT_BYTES", 1)
    assert error_on_new_inputs(fitted(), calls(8)) == pytest.approx(together, rel=0.1)  # measured: 1.4 % apart


def test_a_rounding_that_needs_samples_says_so() -> None:
    with pytest.raises(ConfigError, match=r"'mine' rounds dit\.blocks\.3\.first of denoise with gptq, .* Give samples, or set"):
        quantise(TwoLayers(), "denoise", fitted(), prefix="dit.blocks.3.")


def test_only_layers_that_need_them_ask_for_samples() -> None:
    rules = (Rule(modules="second", weights="fp32", rounding="gptq"), Rule(modules="first", weights="int8"))
    assert quantise(TwoLayers(), "denoise", WeightRecipe(name="x", rules=rules)) == {"int8": 1, "fp32": 2}


def test_moments_are_those_of_the_inputs() -> None:
    module, samples = TwoLayers(), calls(3)
    found = input_moments(module, linear_layers(module), samples)
    assert set(found) == {"first", "second"}
    rows = torch.cat([x.view(-1, 64) for x, _ in samples]).double().numpy()
    assert np.abs(found["first"][0].numpy() - rows.T @ rows / len(rows)).max() < 1e-4 * np.abs(rows.T @ rows / len(rows)).max()


# ---- what the compiled file computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_compiled_layer_computes_what_the_quantised_one_does(weights: str, tmp_path: Path) -> None:
    recipe = WeightRecipe(name="x", rules=(Rule(weights=weights, rounding="searched"),))  # type: ignore[arg-type]
    call = calls(1)[0]
    assert compiled_agreement(recipe, recipe, call, tmp_path) > 100  # measured: equal bit for bit
    other = WeightRecipe(name="x", rules=(Rule(weights=weights, rounding="hqq"),))  # type: ignore[arg-type]
    assert compiled_agreement(recipe, other, call, tmp_path) < 80  # other weights of the same kind: 62 and 41 dB


def test_scales_that_the_kernel_does_not_keep_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = WeightRecipe(name="x", rules=(Rule(weights="int4", rounding="searched"),))
    monkeypatch.setattr(Grid, "scale", lambda _, scale: scale.clamp_min(1e-8))
    assert compiled_agreement(recipe, recipe, calls(1)[0], tmp_path) < 80  # measured: 66 dB


def compiled_agreement(compiled: WeightRecipe, eager: WeightRecipe, call: tuple[Tensor, Tensor], folder: Path) -> float:
    """PSNR between the file compiled with one recipe and the module quantised with another, in dB."""
    from executorch.runtime import Runtime

    from echoedge.core.metrics.psnr import psnr
    from echoedge.core.model.programs import EntryPoint
    from echoedge.targets.executorch.lower import compile_program

    inputs = dict(zip(("x", "factor"), call, strict=True))
    path = compile_program("p", {"forward": EntryPoint(TwoLayers(), inputs, ["y"])}, compiled, folder).path
    module = TwoLayers()
    quantise(module, "p", eager, call)
    found = Runtime.get().load_program(path).load_method("forward").execute(list(call))[0]
    return psnr(module(*call).numpy(), found.numpy())
