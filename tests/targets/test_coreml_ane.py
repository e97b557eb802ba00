"""targets/coreml in the layout of the Neural Engine: the lint has nothing to say, the interpreter gives what the reference gives,
and weights are those of the other layout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echoedge.core.config import AudioConfig, ClipSpec
from echoedge.core.errors import ConfigError, EngineError
from echoedge.core.model.architecture import skeleton
from echoedge.core.model.programs import EntryPoints, denoise_program, denoise_reusing_program
from echoedge.core.model.transformer import DiT
from echoedge.core.weights.source import Unit
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.engines.mil import Package
from echoedge.runtime.engines.mil.engine import Programs, as_in_file, open_built
from echoedge.runtime.engines.mil.lint import lint
from echoedge.targets.base import Built, Fitting
from echoedge.targets.coreml.target import TARGET
from echoedge.targets.rewrites import channels_first

from ..core.tiny import tiny_config, tiny_dit

ct = pytest.importorskip("coremltools", reason="the extra coreml is not installed")

TALL = ClipSpec(64, 64, 17)  # 80 tokens, which are filled up to 96; 16 a frame
MIXED = WeightRecipe(
    name="mixed",
    rules=(
        Rule(modules="*self_attn.q", weights="int4"),
        Rule(modules="*self_attn.k", weights="pal6"),
        Rule(modules="*self_attn.v", weights="pal4", rows=8),
        Rule(modules="*blocks.*", weights="int8"),
    ),
)


@cache
def model(layers: int) -> DiT:
    """Of width 64: one coupled block, the others not."""
    audio = AudioConfig(layers=1, channels=6, hidden=10, tokens=2)
    return tiny_dit(tiny_config(dim=64, ffn_dim=96, layers=layers, audio=audio)).requires_grad_(False)


def compiled(folder: Path, methods: EntryPoints, recipe: WeightRecipe, blocks: DiT | None = None, **options: Any) -> Built:
    made, chosen = Unit("denoise", TALL, methods, TALL, model(1).config, blocks), TARGET.options(**options)
    folder.mkdir(exist_ok=True)
    (built,) = TARGET.write([TARGET.lower(made, "denoise", recipe, chosen, None, Fitting())], folder, "denoise", chosen)
    return replace(built, methods=TARGET.methods(made))


def package(built: Built) -> Package:
    return Package.open(built.path / "forward.mlpackage")


def sqnr(built: Built, methods: EntryPoints, precision: Any, seed: int = 3) -> float:
    """Of all outputs, the least, dB; some rows of the prompt are masked."""
    given = methods["forward"].drawn(3)
    if "text_bias" in given:
        given["text_bias"][0, -3:] = -1e9
    expected = methods["forward"].run(*(x if seed == 3 else x.flip(-1) for x in given.values()))
    inputs, record = [x.numpy() for x in given.values()], built.methods["forward"]
    found = Programs(precision).run(built.path, "forward", inputs, record=record)
    assert [each.shape for each in found] == [tuple(each.shape) for each in expected]
    pairs = zip((each.numpy() for each in expected), found, strict=True)
    return min(float(10 * np.log10(np.square(known).sum() / np.square(known - each).sum())) for known, each in pairs)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The step with what it keeps for others, half precision, attention in chunks: 64 queries and a tail of 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channels_first, "LOGITS", 64 * 96)
        return compiled(
            tmp_path_factory.mktemp("ane"), denoise_program(model(2), TALL, 12, reuse=True), PRESETS["fp32"], layout="ane"
        )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """One block, weights of several kinds, in both layouts."""
    methods = denoise_program(model(1), TALL, 12)
    return {name: compiled(tmp_path_factory.mktemp(name), methods, MIXED, layout=name) for name in ("gpu", "ane")}


def test_a_step_is_the_references_but_for_half_precision(step: Built) -> None:
    methods = denoise_program(model(2), TALL, 12, reuse=True)
    assert sqnr(step, methods, "fp32") > 60
    assert sqnr(step, methods, "fp16") > 50
    assert sqnr(step, methods, "fp32", seed=4) < 20  # of other inputs


def test_a_step_that_reuses(tmp_path: Path) -> None:
    methods = denoise_reusing_program(model(1), TALL)
    built = compiled(tmp_path, methods, PRESETS["fp32"], layout="ane")
    assert lint(package(built)) == []
    assert sqnr(built, methods, "fp32") > 60
    assert sqnr(built, methods, "fp16") > 50


def test_the_lint_finds_nothing_and_much_in_the_other_layout(step: Built, mixed: dict[str, Built]) -> None:
    assert lint(package(step)) == []
    assert lint(package(mixed["ane"])) == []
    found = Counter(finding.rule for finding in lint(package(mixed["gpu"])))
    assert found["five axes"] and found["last axis"] and found["fused attention"] and found["epsilon"]


def test_attention_is_einsum_and_softmax_of_a_head(step: Built) -> None:
    counts = package(step).function().counts
    heads, chunks = (
        model(2).config.heads,
        2,
    )  # of 96 keys: self-attention twice, and the coupled softmax over all three kinds of keys
    assert counts["softmax"] == heads * (2 * chunks + chunks + 3)
    assert counts["einsum"] == heads * (2 * 2 * chunks + 6 * chunks + 6)
    assert not {"scaled_dot_product_attention", "layer_norm", "matmul"} & set(counts)


def test_weights_are_the_same_integers_and_palettes_in_both_layouts(mixed: dict[str, Built]) -> None:
    gpu, ane = (stored(mixed[name]) for name in ("gpu", "ane"))
    assert gpu.keys() == ane.keys() and mixed["gpu"].layers == mixed["ane"].layers
    assert {"int4": 1, "pal6": 1, "pal4": 1}.items() <= mixed["ane"].layers.items()
    for name, (codes, scales) in gpu.items():
        ours, ours_scales = ane[name]
        assert ours.shape == (*codes.shape, 1, 1)
        assert np.array_equal(ours.reshape(codes.shape), codes) and np.array_equal(ours_scales.ravel(), scales.ravel())
        assert not np.array_equal(ours.reshape(codes.shape)[::-1], codes)


def stored(built: Built) -> dict[str, tuple[Any, Any]]:
    """Integers and scales, or indices and tables, by the operator's name, as coremltools reads them."""
    from coremltools.converters.mil.frontend.milproto.load import load

    path = built.path / "forward.mlpackage"
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    program = load(spec, 9, str(path / "Data/com.apple.CoreML/weights"))
    found = {}
    for each in program.functions["main"].operations:
        if each.op_type == "constexpr_lut_to_dense":
            found[each.name] = (each.indices.val.astype(np.uint8), each.lut.val)
        elif each.op_type == "constexpr_blockwise_shift_scale":
            found[each.name] = (each.data.val.astype(np.int8), each.scale.val)
    return found


def test_a_transformer_that_streams_gives_the_same_package(mixed: dict[str, Built], tmp_path: Path) -> None:
    methods = denoise_program(skeleton(DiT, model(1).config), TALL, 12)
    built = compiled(tmp_path, methods, MIXED, model(1), layout="ane")
    assert built.layers == mixed["ane"].layers
    given = [x.numpy() for x in denoise_program(model(1), TALL, 12)["forward"].drawn(3).values()]
    (ours,), (held,) = (open_built(each).run("forward", given) for each in (built, mixed["ane"]))
    assert np.array_equal(ours, held)
    given[1] = -given[1]
    assert not np.array_equal(open_built(built).run("forward", given)[0], held)


def test_inputs_are_laid_out_and_filled_up_by_less_than_a_row(mixed: dict[str, Built]) -> None:
    given = as_in_file(np.arange(6, dtype=np.float32).reshape(1, 2, 3), (1, 32))
    assert given.shape == (1, 32) and given[0, :6].tolist() == [0, 1, 2, 3, 4, 5] and not given[0, 6:].any()
    assert as_in_file(np.zeros((2, 3), np.float32), (1, 38)).shape == (2, 3)  # a row and more
    assert as_in_file(np.zeros((2, 3), np.float32), (1, 5)).shape == (2, 3)
    inputs = [x.numpy() for x in denoise_program(model(1), TALL, 12)["forward"].drawn(3).values()]
    inputs[0] = inputs[0][:, :, :-1]
    with pytest.raises(EngineError, match=r"main takes latents as fp16 \[1, 16, 1, 320\]"):
        open_built(mixed["ane"]).run("forward", inputs)


def test_the_layout_is_an_option_that_the_manifest_tells() -> None:
    options = TARGET.options(layout="ane", ios=17)
    assert TARGET.settings(options) == {"ios": 17, "units": "all", "layout": "ane"}
    assert TARGET.settings(TARGET.options())["layout"] == "gpu"
    with pytest.raises(ConfigError, match="layout is 'separate'. Choose from: gpu, ane"):
        TARGET.options(layout="separate")
