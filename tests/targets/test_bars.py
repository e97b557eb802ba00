"""targets/bars.py: what is demanded of a program follows from its own weights and type; they meet it and nothing coarser does."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import nn

from echoedge.core.bundle import Figures
from echoedge.core.bundle.agreement import falls_short, figures, worst
from echoedge.core.config import NANO, NANO_CLIP
from echoedge.core.errors import ConfigError
from echoedge.core.model.programs import EntryPoints, build_programs, vae_decode_program
from echoedge.core.model.tiny_vae import TinyVAE
from echoedge.core.weights.nano import load_nano
from echoedge.quantize.grid import Grid, Palette, Palettised, Rounded
from echoedge.quantize.recipes import Rule, WeightRecipe
from echoedge.quantize.schemes import PALETTES, Weights
from echoedge.quantize.weights import quantise
from echoedge.targets.bars import COMPUTE_BARS, EXACT, HALF_TINY, WEIGHT_BARS, Compute, bar, clip_bars
from echoedge.targets.executorch.half_products import multiplies_bfloat16
from echoedge.targets.executorch.lower import gelu_for
from echoedge.targets.executorch.storage import stored_weight
from echoedge.targets.executorch.target import ExecuTorch, ExecuTorchOptions
from echoedge.targets.rewrites.portable import make_portable

from ..bundles import CLIP, small_programs
from ..core.tiny_checkpoint import playable_sizes

LAYERS = {
    "audio_encoder": {"int8": 4}, "image_encoder": {"fp32": 2}, "vae_encode": {}, "text_conditions": {"int8": 9, "fp32": 1},
    "denoise": {"int4": 4, "int8": 3, "fp32": 2}, "vae_decode": {}, "tiny_decode": {},
}  # fmt: skip


# ---- which bar -------------------------------------------------------------------------------------------------------------------


def test_a_program_is_asked_for_what_its_own_weights_allow() -> None:
    assert {name: bar(name, layers, "fp32") for name, layers in LAYERS.items()} == {
        "audio_encoder": WEIGHT_BARS["int8"], "image_encoder": EXACT, "vae_encode": EXACT, "text_conditions": WEIGHT_BARS["int8"],
        "denoise": WEIGHT_BARS["int4"], "vae_decode": EXACT, "tiny_decode": EXACT,
    }  # fmt: skip


def test_the_lower_of_weights_and_type_holds() -> None:
    assert bar("denoise", {"fp32": 3}, "bf16") == COMPUTE_BARS["bf16"]
    assert bar("denoise", {"fp32": 3, "int8": 1}, "bf16") == WEIGHT_BARS["int8"]
    assert bar("denoise", {"fp32": 3, "int8": 0}, "fp32") == EXACT
    for scheme, precision in product(get_args(Weights), get_args(Compute)):
        own, type_ = WEIGHT_BARS[scheme], COMPUTE_BARS[precision]
        assert bar("x", {scheme: 1}, precision).psnr_db == min(own.psnr_db or 0, type_.psnr_db or 0)


def test_a_program_without_products_is_as_exact_as_ever() -> None:
    assert bar("tiny_decode", {}, "bf16") == EXACT
    assert bar("tiny_decode", {}, "fp16") == HALF_TINY
    assert bar("vae_decode", {}, "fp16") == bar("denoise", {}, "fp16") == COMPUTE_BARS["fp16"] != HALF_TINY


def test_it_is_the_tiny_decoder_alone_that_has_no_products() -> None:
    """Read off the graphs: products of activations are what `--products` changes the type of."""
    programs = small_programs() | {"tiny_decode": vae_decode_program(TinyVAE(playable_sizes("flash").tiny_vae).eval(), CLIP)}

    def products(program: EntryPoints) -> int:
        method = next(iter(program.values()))
        graph = torch.export.export(make_portable(method.module), tuple(method.inputs.values()), strict=False).graph
        return sum("bmm" in str(node.target) or "matmul" in str(node.target) for node in graph.nodes)

    assert products(programs["tiny_decode"]) == 0
    assert products(programs["denoise"]) > 0


def test_a_clip_is_asked_for_what_flows_into_it() -> None:
    found = clip_bars(LAYERS, "fp32")
    assert found["latents"] == WEIGHT_BARS["int4"]
    assert found["frames"] == Figures(psnr_db=25.0)
    finer = clip_bars(LAYERS | {"denoise": {"int8": 7}}, "fp32")
    assert (finer["latents"], finer["frames"]) == (WEIGHT_BARS["int8"], Figures(psnr_db=35.0))
    exact = clip_bars(dict.fromkeys(LAYERS, {}), "fp32")
    assert (exact["latents"], exact["frames"]) == (EXACT, Figures(psnr_db=80.0))  # pixels of 8 bits
    decoder = clip_bars(dict.fromkeys(LAYERS, {}) | {"vae_decode": {"int8": 1}}, "fp32")
    assert (decoder["latents"], decoder["frames"]) == (EXACT, Figures(psnr_db=35.0))
    unplayed = clip_bars(dict.fromkeys(LAYERS, {}) | {"tiny_decode": {"int8": 1}}, "fp32")  # full is there and goes first
    assert unplayed["frames"] == Figures(psnr_db=80.0)


def test_programs_that_make_no_clip_have_no_bars_of_one() -> None:
    assert clip_bars({"denoise": {"int8": 1}}, "fp32") == {}
    assert clip_bars({"vae_decode": {}}, "fp32") == {}


def test_the_type_follows_from_backend_and_products() -> None:
    target = ExecuTorch()
    assert target.precision(target.options()) == "fp32"
    assert target.precision(ExecuTorchOptions(products="fp32")) == "fp32"
    if multiplies_bfloat16():
        assert target.precision(target.options(products="bf16")) == "bf16"
    assert {target.precision(target.options(backend=name)) for name in ("vulkan", "coreml", "mps")} == {"fp16"}
    with pytest.raises(ConfigError, match="backend is 'webgpu'"):
        target.options(backend="webgpu")


def test_every_scheme_has_a_bar() -> None:
    assert set(WEIGHT_BARS) == set(get_args(Weights))
    assert set(COMPUTE_BARS) == set(get_args(Compute))
    with pytest.raises(ConfigError, match="weights is 'int2'"):
        bar("denoise", {"int2": 1}, "fp32")


# ---- met by what they are for, and by nothing coarser ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["small", "nano"])
def programs(request: pytest.FixtureRequest) -> dict[str, EntryPoints]:
    return small_programs() if request.param == "small" else build_programs(load_nano(), NANO_CLIP, NANO.text_len)


def values_of(rounded: Rounded | Palettised, _: Grid | Palette) -> torch.Tensor:
    """What palettes stand for: activations stay as they are."""
    return rounded.values()


def agreement(program: EntryPoints, name: str, weights: Weights | None = None, dtype: torch.dtype = torch.float32) -> Figures:
    """The worst of the program in PyTorch with all its linear layers in `weights` and everything in `dtype`, on drawn inputs."""
    recipe = WeightRecipe(name="all", rules=(Rule(weights=weights),) if weights else ())
    compared = []
    for method in program.values():
        inputs = tuple(method.drawn().values())
        module = make_portable(method.module, inputs=inputs, gelu=gelu_for(recipe, name, method.module))
        quantise(module, name, recipe, inputs, store=stored_weight if weights not in PALETTES else values_of)
        module = module.to(dtype)
        with torch.no_grad():
            found: Any = module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        pairs = zip(method.run(*inputs), found if isinstance(found, tuple) else (found,), strict=True)
        compared += [figures(a.numpy(), b.float().numpy()) for a, b in pairs]
    return worst(compared)


@pytest.mark.parametrize(("fine", "coarse"), [("fp32", "int8"), ("int8", "int4")])
def test_the_step_meets_its_bar_and_coarser_weights_do_not(
    fine: Weights, coarse: Weights, programs: dict[str, EntryPoints]
) -> None:
    """Measured, small and nano, every layer stored so: fp32 148.9 and 144.4 dB, int8 54.4 and 52.4, int4 32.1 and 33.3."""
    assert not falls_short(agreement(programs["denoise"], "denoise", fine), WEIGHT_BARS[fine])
    assert falls_short(agreement(programs["denoise"], "denoise", coarse), WEIGHT_BARS[fine])


def test_the_step_in_palettes_meets_its_bar_and_coarser_ones_do_not() -> None:
    """Measured, small and nano, every layer stored so: pal8 66.5 and 58.5 dB, pal6 44.9 and 43.9, pal4 34.4 and 32.9."""
    denoise = small_programs()["denoise"]
    reached = [agreement(denoise, "denoise", weights) for weights in PALETTES]
    for weights, own in zip(PALETTES, reached, strict=True):
        assert not falls_short(own, WEIGHT_BARS[weights])
    for weights, coarser in zip(("fp32", *PALETTES), reached, strict=False):
        assert falls_short(coarser, WEIGHT_BARS[weights])


def test_what_is_coarser_than_four_bits_fails_the_lowest_bar(programs: dict[str, EntryPoints]) -> None:
    """Every linear weight of the step rounded to three levels of its largest."""
    method = next(iter(programs["denoise"].values()))
    inputs = tuple(method.drawn().values())
    module = make_portable(method.module, inputs=inputs)
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.weight is not None:  # None: the program does not run it
            step = layer.weight.detach().abs().amax(1, keepdim=True)
            layer.weight = nn.Parameter((layer.weight / step).round() * step, requires_grad=False)
    with torch.no_grad():
        found = figures(method.run(*inputs)[0].numpy(), module(*inputs).numpy())
    for lowest in ("int4", "pal4"):
        assert falls_short(found, WEIGHT_BARS[lowest])  # measured: 16.4 dB at most


def test_half_precision_meets_its_bar_and_bfloat16_does_not(programs: dict[str, EntryPoints]) -> None:
    """The decoder, which loses most. Measured, small and nano: float16 65.1 and 65.9 dB, bfloat16 48.1 and 47.9."""
    decode = programs["vae_decode"]
    assert not falls_short(agreement(decode, "vae_decode", dtype=torch.float16), COMPUTE_BARS["fp16"])
    assert falls_short(agreement(decode, "vae_decode", dtype=torch.float16), COMPUTE_BARS["fp32"])
    for bars in ("fp16", "bf16"):  # of bf16 programs products alone are in bfloat16, not everything
        assert falls_short(agreement(decode, "vae_decode", dtype=torch.bfloat16), COMPUTE_BARS[bars])


def test_gelu_is_exact_where_nothing_is_quantised() -> None:
    """The short form costs full precision 50 dB (small: 148 to 91): it goes with a part's own weights, not with the recipe's."""
    part = nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh"))
    recipe = WeightRecipe(name="one", rules=(Rule(programs="denoise", modules="*0", weights="int8"),))
    assert gelu_for(recipe, "denoise", part) == "fast"
    assert gelu_for(recipe, "text_conditions", part) == "exact"
    assert gelu_for(recipe, "denoise", part, used=()) == "exact"
    first = WeightRecipe(name="shadowed", rules=(Rule(weights="fp32"), *recipe.rules))
    assert gelu_for(first, "denoise", part) == "exact"
    prefixed = WeightRecipe(name="prefixed", rules=(Rule(modules="blocks.1.*", weights="int8"),))
    assert gelu_for(prefixed, "denoise", part, "blocks.1.") == "fast"
    assert gelu_for(prefixed, "denoise", part, "blocks.2.") == "exact"
