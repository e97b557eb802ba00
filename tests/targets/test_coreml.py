"""targets/coreml: packages in half precision that hold a rounding's integers bit for bit, and stay whole."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError, ExportError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.weights.source import HeldSource, entry_points, unit
from echoedge.quantize.grid import Palettised
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.roundings import rounded as round_as
from echoedge.quantize.schemes import SCHEMES
from echoedge.runtime.engines.mil import Package
from echoedge.runtime.engines.mil.engine import Programs
from echoedge.targets.base import Built, Fitting
from echoedge.targets.coreml.target import TARGET

from ..bundles import CLIP, SOURCE, small_model
from .test_onnx import MAKING, moments, samples

ct = pytest.importorskip("coremltools", reason="the extra coreml is not installed")

from echoedge.targets.coreml.convert import convert, fill, require_operators  # noqa: E402
from echoedge.targets.coreml.names import LARGEST  # noqa: E402
from echoedge.targets.coreml.operators import half, our_operators  # noqa: E402
from echoedge.targets.coreml.package import write_packages  # noqa: E402

ROUNDED = WeightRecipe(
    name="rounded",
    rules=(
        Rule(modules="*cross_attn.k", weights="int4", rounding="searched"),
        Rule(modules="*blocks.0.cross_attn.v", weights="pal6"),
        Rule(modules="*blocks.1.cross_attn.v", weights="pal4", rows=8),
        Rule(modules="*text_embedding.0", weights="int8"),
        Rule(modules="*text_embedding.2", weights="int8", rounding="gptq"),
    ),
)
OTHER = ClipSpec(16, 48, 5)


def compiled(
    role: str, folder: Path, recipe: WeightRecipe, clip: ClipSpec = CLIP, outside: str | None = None, **options: Any
) -> Built:
    source, chosen = HeldSource(small_model(), SOURCE), TARGET.options(**options)
    lowered = TARGET.lower(unit(source, role, clip, MAKING), role, recipe, chosen, outside, Fitting(samples(role)))
    folder.mkdir(exist_ok=True)
    (built,) = TARGET.write([lowered], folder, role, chosen)
    return built


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The step of the small model, its weights of half precision."""
    return compiled("denoise", tmp_path_factory.mktemp("half"), PRESETS["fp32"])


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Keys and values of a prompt, of 4 and 8 bits."""
    return compiled("text_conditions", tmp_path_factory.mktemp("rounded"), ROUNDED)


def agreement(built: Built, role: str, clip: ClipSpec = CLIP, precision: Any = "fp16", seed: int = 3) -> float:
    """Of a program with the reference's, dB; prompts with masked rows."""
    entry = entry_points(HeldSource(small_model(), SOURCE), role, clip, MAKING)["forward"]
    given = entry.drawn(seed)
    if role == "denoise":
        given["text_bias"][0, -3:] = -1e9
    found, *_ = Programs(precision).run(built.data or built.path, f"{built.prefix}forward", [x.numpy() for x in given.values()])
    expected = entry.run(*given.values())[0].numpy()
    assert found.shape == expected.shape
    return psnr(expected, found, float(np.ptp(expected)))


# ---- what is computed -----------------------------------------------------------------------------------------------------------


def test_a_step_is_the_references_but_for_half_precision(step: Built) -> None:
    assert agreement(step, "denoise") > 65  # measured: 73.8
    assert agreement(step, "denoise", precision="fp32") > 70  # measured: 81.3; of other weights 12.7


def test_attention_norms_and_gelus_stay_whole(step: Built) -> None:
    counts = Package.open(step.path / "forward.mlpackage").function().counts
    blocks = small_model().config.layers
    coupled = small_model().config.coupled_layers
    assert counts["scaled_dot_product_attention"] == blocks + 2 * coupled + 3 * (blocks - coupled)
    assert counts["layer_norm"] == 3 * blocks + 1 and counts["gelu"] == blocks
    assert "softmax" not in counts and "erf" not in counts


def test_ios_17_has_attention_as_products_and_integers_of_a_channel(tmp_path: Path) -> None:
    built = compiled("denoise", tmp_path, PRESETS["int8"], ios=17)
    package = Package.open(built.path / "forward.mlpackage")
    counts = package.function().counts
    assert package.specification == 8 and "scaled_dot_product_attention" not in counts
    assert counts["constexpr_affine_dequantize"] == built.layers["int8"] > 10
    assert agreement(built, "denoise") > 45  # measured: 56.8


def test_what_ios_17_lacks_is_refused() -> None:
    for scheme in ("int4", "pal6"):
        sentence = TARGET.refuses(scheme, TARGET.options(ios=17))
        assert sentence is not None and "iOS 17" in sentence
        assert TARGET.refuses(scheme, TARGET.options()) is None
    with pytest.raises(ConfigError, match="ios is 15. Choose from 17, 18"):
        TARGET.options(ios=15)


# ---- weights --------------------------------------------------------------------------------------------------------------------


def stored(built: Built) -> dict[str, Any]:
    """Operators that hold rounded weights, by the name of the weight, as coremltools reads them."""
    from coremltools.converters.mil.frontend.milproto.load import load

    path = built.path / "forward.mlpackage"
    model = ct.models.MLModel(str(path), skip_model_load=True)
    program = load(model.get_spec(), 9, str(path / "Data/com.apple.CoreML/weights"))
    held = ("constexpr_blockwise_shift_scale", "constexpr_lut_to_dense")
    return {op.name: op for op in program.functions["main"].operations if op.op_type in held}


def test_integers_and_palettes_are_those_of_the_rounding(rounded: Built) -> None:
    assert rounded.layers == {"int4": 2, "int8": 2, "pal6": 1, "pal4": 1}
    found = stored(rounded)
    assert len(found) == 6
    layers = dict(small_model().dit.named_modules())
    for name, operator in found.items():
        module = name.removeprefix("p_inner_").removesuffix("_weight_stored")
        layer = next(each for known, each in layers.items() if f"dit_{known.replace('.', '_')}" == module)
        known = next(key for key, each in layers.items() if each is layer)
        rule = ROUNDED.rule_for("text_conditions", f"dit.{known}")
        assert rule is not None
        grid = SCHEMES[rule.weights].grid(layer.out_features, layer.in_features, rule.group, rule.rows)
        assert grid is not None
        with torch.no_grad():
            expected = round_as(layer.weight.detach(), grid, rule.rounding, moments(f"dit.{known}"))
        if isinstance(expected, Palettised):
            assert np.array_equal(operator.indices.val.astype(np.uint8), expected.codes.numpy())
            assert np.array_equal(operator.lut.val[:, 0, :, 0], expected.table.numpy())  # float16's values already
            assert np.array_equal(operator.materialized_val_inference(), expected.values().numpy().astype(np.float16))
            continue
        assert np.array_equal(operator.data.val.astype(np.int8), expected.codes.numpy())
        assert np.array_equal(operator.scale.val, expected.scale.half().numpy())
        assert not np.array_equal(operator.data.val.astype(np.int8), expected.codes.numpy()[::-1])


def test_weights_of_fewer_bits_agree_and_are_small(rounded: Built, tmp_path: Path) -> None:
    assert 25 < agreement(rounded, "text_conditions") < 60
    plain = compiled("text_conditions", tmp_path, PRESETS["fp32"])
    sizes = [sum(file.stat().st_size for file in built.path.rglob("weight.bin")) for built in (rounded, plain)]
    assert sizes[0] < 0.6 * sizes[1]  # measured: 0.50, most of it small tensors


def test_a_weight_that_is_not_given_is_named() -> None:
    layers = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).half()
    converted = convert("two", layers, {"x": torch.randn(1, 4, 32)}, ["y"], 18)
    weights: dict[str, Tensor] = {name: tensor.detach() for name, tensor in layers.named_parameters()}
    with pytest.raises(ExportError, match=r"weights that were not given: 1\.weight"):
        fill("two", converted, [(name, tensor) for name, tensor in weights.items() if name != "1.weight"])
    converted = convert("two", layers, {"x": torch.randn(1, 4, 32)}, ["y"], 18)
    with pytest.raises(ExportError, match=r"takes 0\.bias of shape \[32\], not \[31\]"):
        fill("two", converted, [("0.bias", torch.zeros(31))])


@pytest.mark.parametrize("harm", ["bias", "weight"])
def test_a_dropped_bias_or_a_turned_weight_is_seen(harm: str, tmp_path: Path) -> None:
    layer = nn.Linear(48, 48)
    weights = dict(layer.named_parameters())
    wrong = weights | {harm: torch.zeros(48) if harm == "bias" else layer.weight.detach().T.contiguous()}
    for name, given, bar in (("right", weights, True), ("wrong", wrong, False)):
        (tmp_path / name).mkdir()
        converted = convert("one", nn.Linear(48, 48).half(), {"x": torch.randn(1, 4, 48)}, ["y"], 18)
        fill("one", converted, [(key, tensor.detach()) for key, tensor in given.items()])
        write_packages({"forward": converted}, tmp_path / name, "one", 18)
        x = torch.randn(1, 4, 48)
        (found,) = Programs("fp16").run(tmp_path / name, "forward", [x.numpy()])
        expected = layer(x).detach().numpy()
        assert (psnr(expected, found, float(np.ptp(expected))) > 60) is bar


# ---- shapes ---------------------------------------------------------------------------------------------------------------------


def test_shapes_are_functions_that_share_weights(tmp_path: Path) -> None:
    role = "audio_conditions"
    shapes = [compiled(role, tmp_path / str(clip), PRESETS["int8"], clip, role) for clip in (CLIP, OTHER)]
    merged = TARGET.merge([built.data for built in shapes if built.data], tmp_path, role)
    for built, clip in zip(shapes, (CLIP, OTHER), strict=True):
        assert agreement(replace(built, data=merged), role, clip) > 45
    package = Package.open(merged / "functions.mlpackage")
    assert sorted(package.functions) == sorted(f"{built.prefix}forward" for built in shapes)
    alone = [sum(file.stat().st_size for file in built.path.rglob("weight.bin")) for built in shapes]
    assert package.weight_bytes < 0.7 * sum(alone)


# ---- the library ----------------------------------------------------------------------------------------------------------------


class Forms(nn.Module):
    """What the library's own way takes out of half precision, or changes."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * 0.5
        joined = torch.cat([x.new_zeros(1, 1, x.shape[2]), nn.functional.pad(x, (0, 0, 0, 1)), x.new_ones(1, 1, x.shape[2])], 1)
        return nn.functional.gelu(y, approximate="tanh"), nn.functional.gelu(y), joined / (x.abs().amax() + 1.0), y + (-1e9)


def test_operators_keep_half_precision_and_their_form(tmp_path: Path) -> None:
    x = torch.randn(1, 4, 32)
    converted = convert("forms", Forms(), {"x": x}, ["tanh", "exact", "joined", "masked"], 18)
    fill("forms", converted, [])
    write_packages({"forward": converted}, tmp_path, "forms", 18)
    tanh, exact, joined, masked = Programs("fp32").run(tmp_path, "forward", [x.half().float().numpy()])
    expected = Forms()(x.half().float())
    assert np.abs(tanh - expected[0].numpy()).max() < 2e-5 < 1e-4 < np.abs(tanh - exact).max()  # the forms differ by 4.7e-4
    assert np.abs(exact - expected[1].numpy()).max() < 2e-5
    assert np.abs(joined - expected[2].numpy()).max() < 1e-3
    assert (masked < -0.99 * LARGEST).all() and np.isfinite(masked).all()


def test_the_library_converts_as_before_afterwards() -> None:
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    known = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(known)
    with our_operators():
        assert known["gelu"] is not before["gelu"]
    assert known == before


def test_numbers_that_half_precision_lacks() -> None:
    assert half(1e9) == LARGEST and half(-1e9) == -LARGEST and half(65504.0) == 65504 and half(0.1) == np.float16(0.1)


def test_single_precision_and_too_many_dimensions_are_refused() -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.float() * 2.0).half()

    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.reshape(2, 2, 2, 2, 2, 4) * 2.0).sigmoid().reshape(1, 4, 32)

    for module, sentence in ((Single(), "would compute .* in float32"), (Wide(), "tensor of 6 dimensions .* Core ML takes 5")):
        with pytest.raises(ExportError, match=sentence):
            convert("odd", module, {"x": torch.randn(1, 4, 32)}, ["y"], 18)


def test_an_operator_that_came_apart_is_named() -> None:
    converted = convert("one", nn.Sequential(nn.LayerNorm(32)).half(), {"x": torch.randn(1, 4, 32)}, ["y"], 18)
    require_operators("one", converted, {"layer_norm": 1})
    with pytest.raises(ExportError, match="one has 1 layer_norm where 2 belong"):
        require_operators("one", converted, {"layer_norm": 2})


def test_without_the_library_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.targets.coreml.library import library

    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(ExportError, match=r"needs coremltools, which is not here .* pip install 'echoedge\[coreml\]'"):
        library()


def test_metadata_tells_what_it_is(step: Built) -> None:
    model = ct.models.MLModel(str(step.path / "forward.mlpackage"), skip_model_load=True)
    assert (model.author, model.short_description) == ("EchoEdge", "denoise: forward")
    assert model.input_description["latents"].startswith("fp16 [1, 16, ")
    assert model.output_description["velocity"].startswith("fp16 [1, 16, ")
