"""targets/onnx: graphs that serve every shape, hold a rounding's integers bit for bit, and stay whole."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from echoedge.core.bundle import TensorSpec
from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError, EngineError, ExportError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.core.weights.nano import save_nano
from echoedge.core.weights.source import HeldSource, Making, entry_points, unit
from echoedge.quantize.distill.lessons import Lessons
from echoedge.quantize.distill.rounding import RoundedLinear, exported_recipe, held, round_layers
from echoedge.quantize.distill.run import passport_of
from echoedge.quantize.distill.student import student_of
from echoedge.quantize.grid import Rounded
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.roundings import ROUNDINGS
from echoedge.quantize.schemes import SCHEMES
from echoedge.quantize.weights import quantise
from echoedge.targets.base import Built, Fitting
from echoedge.targets.onnx.storage import settle, stored_weight
from echoedge.targets.onnx.target import TARGET

from ..bundles import CLIP, SOURCE, small_model

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

MAKING = Making(12)
MIXED = WeightRecipe(
    name="mixed",
    rules=(
        Rule(modules="*cross_attn.k", weights="int4", rounding="searched"),
        Rule(modules="*blocks.0.cross_attn.v", weights="int4", rounding="hqq"),
        Rule(modules="*text_embedding.0", weights="int8"),
        Rule(modules="*text_embedding.2", weights="int8", rounding="gptq"),
    ),
)
SHAPES = (CLIP, ClipSpec(16, 48, 5), ClipSpec(64, 32, 17))


def compiled(role: str, folder: Path, recipe: WeightRecipe, **options: str) -> Built:
    source, chosen = HeldSource(small_model(), SOURCE), TARGET.options(**options)
    lowered = TARGET.lower(unit(source, role, CLIP, MAKING), role, recipe, chosen, None, Fitting(samples(role)))
    (built,) = TARGET.write([lowered], folder, role, chosen)
    return built


def samples(role: str) -> list[tuple[torch.Tensor, ...]]:
    """Calls of a program, which roundings that look at data are fitted to."""
    entry = entry_points(HeldSource(small_model(), SOURCE), role, CLIP, MAKING)["forward"]
    return [tuple(entry.drawn(seed).values()) for seed in (1, 2)]


def moments(name: str) -> list[torch.Tensor]:
    """Of the rows that the last layer of the text's embedding is given on `samples`, mean of x xᵀ."""
    if name != "dit.text_embedding.2":
        return []
    embedding = small_model().dit.text_embedding
    with torch.no_grad():
        rows = torch.cat([embedding[1](embedding[0](text)).flatten(0, -2) for (text,) in samples("text_conditions")])
    return [rows.T @ rows / len(rows)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The step of the small model in full precision."""
    return compiled("denoise", tmp_path_factory.mktemp("full"), WeightRecipe(name="fp32"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Keys and values of a prompt, of 4 and 8 bits and in full precision."""
    return compiled("text_conditions", tmp_path_factory.mktemp("mixed"), MIXED, inputs="float")


def agreement(built: Built, clip: ClipSpec, role: str = "denoise", seed: int = 3) -> float:
    """Of a program with the reference's on a clip's shape, dB; prompts with masked rows, strengths that differ."""
    from echoedge.targets.onnx.session import open_session

    entry = entry_points(HeldSource(small_model(), SOURCE), role, clip, MAKING)["forward"]
    given = entry.drawn(seed)
    if role == "denoise":
        given["text_bias"][0, -3:] = -1e9
        given["modality_weights"].uniform_(0.5, 1.5)
    session = open_session(built.path / "forward.onnx", "cpu", 1)
    found, *_ = session.run(None, {name: x.numpy() for name, x in given.items()})
    expected = entry.run(*given.values())[0].numpy()
    assert found.shape == expected.shape
    return psnr(expected, found, float(np.ptp(expected)))


# ---- what is computed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", SHAPES, ids=str)
def test_one_file_plays_every_shape(full: Built, clip: ClipSpec) -> None:
    assert agreement(full, clip) > 100  # measured: 126 or more; of other weights 13


def test_weights_of_fewer_bits(mixed: Built) -> None:
    assert mixed.layers == {"int4": 3, "int8": 2, "fp32": 1}
    assert 25 < agreement(mixed, CLIP, "text_conditions") < 60


def test_inputs_and_outputs_are_named_by_what_chooses_their_size(full: Built) -> None:
    known = TARGET.methods(unit(HeldSource(small_model(), SOURCE), "denoise", CLIP, MAKING))["forward"]
    inputs = {spec.name: spec for spec in known.inputs}
    assert inputs["latents"] == TensorSpec(name="latents", dtype="float32", shape=(1, 16, "frames", "height", "width"))
    assert inputs["audio_k"].shape == (2, 1, "audio_tokens", 32)
    graph = onnx.load(str(full.path / "forward.onnx"), load_external_data=False).graph
    stated = {value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim) for value in graph.input}
    assert stated == {name: spec.shape for name, spec in inputs.items()}


# ---- weights --------------------------------------------------------------------------------------------------------------------


def unpacked(built: Built) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes [out, in] and scales of the layers of MatMulNBits, by the name of their weights, read with onnx alone."""
    from onnx import numpy_helper

    graph = onnx.load(str(built.path / "forward.onnx")).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {a.name: a.i for a in node.attribute}
            packed, scales = held[node.input[1]], held[node.input[2]]
            raised = packed if attributes["bits"] == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1)
            codes = raised.reshape(len(packed), -1)[:, : attributes["K"]].astype(np.int16) - (1 << attributes["bits"] - 1)
            found[node.input[1].removesuffix(".packed")] = codes, scales
    return found


def test_the_files_integers_are_those_of_the_rounding(mixed: Built) -> None:
    dit, found = small_model().dit, unpacked(mixed)
    assert len(found) == 5
    for name, (codes, scales) in found.items():
        layer, rule = dit.get_submodule(name.removeprefix("dit.")), MIXED.rule_for("text_conditions", name)
        assert rule is not None
        grid = SCHEMES[rule.weights].grid(layer.out_features, layer.in_features, rule.group, rule.rows)
        rounded: Rounded = ROUNDINGS[rule.rounding](layer.weight.detach().float(), grid, moments(name))
        assert np.array_equal(codes, rounded.codes.numpy()), name
        blocks = scales.shape[1] // rounded.scale.shape[1]  # of one group
        np.testing.assert_allclose(scales, np.repeat(rounded.scale.numpy(), blocks, axis=1), rtol=1e-6)
        other = ROUNDINGS["nearest" if rule.rounding != "nearest" else "searched"](layer.weight.detach().float(), grid, ())
        assert not np.array_equal(codes, other.codes.numpy()), name


def test_the_files_integers_are_those_of_another_targets(mixed: Built) -> None:
    """The same recipe and calls, as ExecuTorch stores them."""
    from echoedge.targets.executorch.storage import stored_weight as of_executorch

    (entry,) = entry_points(HeldSource(small_model(), SOURCE), "text_conditions", CLIP, MAKING).values()
    module = copy.deepcopy(entry.module)
    calls = samples("text_conditions")
    counts = quantise(module, "text_conditions", MIXED, calls[0], store=of_executorch, samples=calls)
    assert counts == mixed.layers
    for name, (codes, _) in unpacked(mixed).items():
        assert np.array_equal(codes, module.get_submodule(name).weight.qdata.numpy()), name


def test_the_files_integers_are_those_that_a_student_computes_with(tmp_path: Path) -> None:
    """From the transformer that training leaves, over its weights file, to the graph."""
    model, teaches, role = small_model(), PRESETS["mixed"].nearest(), "text_conditions"
    assert model.encoders is not None
    student = round_layers(student_of(model.dit), teaches)
    passport, path = passport_of("ab" * 32, PLAN_PRESETS["nano"], Lessons(), teaches), tmp_path / "student.safetensors"
    save_nano(path, student, model.vae, model.encoders, passport)
    dit = student_of(model.dit)
    dit.load_state_dict({k.removeprefix("dit."): v.float() for k, v in load_file(path).items() if k.startswith("dit.")})
    source = HeldSource(replace(model, config=dit.config, dit=dit.requires_grad_(False)), SOURCE)
    recipe, _ = exported_recipe(passport, dit.config, PRESETS["mixed"])
    lowered = TARGET.lower(unit(source, role, CLIP, MAKING), role, recipe, TARGET.options(), None, Fitting())
    (built,) = TARGET.write([lowered], tmp_path, role, TARGET.options())
    found, kinds = unpacked(built), set()
    assert len(found) == 6 and built.layers == {"int8": 2, "int4": 4}
    for name, (codes, scales) in found.items():
        layer = student.get_submodule(name.removeprefix("dit."))
        assert isinstance(layer, RoundedLinear)
        computed = held(layer.weight, layer.grid)
        assert np.array_equal(codes, computed.codes.numpy()), name
        assert np.array_equal(scales, np.repeat(computed.scale.numpy(), scales.shape[1] // computed.scale.shape[1], axis=1)), name
        if layer.grid.bits == 4:  # as the preset alone would round them
            searched: Rounded = ROUNDINGS["searched"](layer.weight.detach().half().float(), layer.grid, ())
            assert not np.array_equal(codes, searched.codes.numpy()), name
        kinds.add(layer.grid.bits)
    assert kinds == {4, 8}


def test_how_inputs_are_rounded_is_in_the_file_and_in_the_manifest(mixed: Built) -> None:
    graph = onnx.load(str(mixed.path / "forward.onnx"), load_external_data=False).graph
    levels = {a.i for node in graph.node if node.op_type == "MatMulNBits" for a in node.attribute if a.name == "accuracy_level"}
    assert levels == {1} == {TARGET.settings(TARGET.options(inputs="float"))["accuracy_level"]}
    assert TARGET.settings(TARGET.options()) == {"inputs": "blocks", "accuracy_level": 4}


def test_sums_of_products_of_8_bits_are_whole(tmp_path: Path) -> None:
    """Twice 255 by 127; cut off at 16 bits they would be 32,767."""
    from echoedge.targets.onnx.session import open_session

    pair = onnx.numpy_helper.from_array(np.full((2, 1), 127, np.int8), "b")
    shapes = [
        onnx.helper.make_tensor_value_info(name, kind, [1, n]) for name, kind, n in (("a", 2, 2), ("y", 6, 1))
    ]  # uint8, int32
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "sum", shapes[:1], shapes[1:], [pair])
    path = tmp_path / "sum.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    (tmp_path / "weights.data").touch()
    (found,) = open_session(path, "cpu", 1).run(None, {"a": np.array([[255, 255]], np.uint8)})
    assert found.tolist() == [[2 * 255 * 127]]


def test_integers_of_a_channel_for_speed(tmp_path: Path) -> None:
    """DynamicQuantizeLinear and MatMulInteger, as the runtime computes them from the written file."""
    from echoedge.targets.hollow import named_tensors
    from echoedge.targets.onnx.graph import WeightsFile, trace, write
    from echoedge.targets.onnx.session import open_session

    torch.manual_seed(0)
    layers, x = nn.Sequential(nn.Linear(48, 40), nn.Linear(40, 24)).requires_grad_(False), torch.randn(1, 7, 48)
    expected = layers(x).numpy()
    recipe = WeightRecipe(name="int8", rules=(Rule(modules="0", weights="int8"), Rule(weights="int4", group=32)))
    assert quantise(layers, "p", recipe, store=stored_weight) == {"int8": 2}  # 40 inputs are no groups of 32
    codes = layers[0].weight.rounded.codes.numpy()  # type: ignore[union-attr]
    settle(layers, "whole")
    sizes = {"x": (1, 7, 48), "y": (1, 7, 24)}
    graph, weights = trace("p", layers, {"x": x}, [{}], sizes, ["y"]), WeightsFile(tmp_path / "weights.data")
    weights.add("forward", named_tensors(layers))
    path = write(graph, "forward", weights)
    model = onnx.load(str(path))
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == 2
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(held["0.codes"].T, codes)
    (found,) = open_session(path, "cpu", 1).run(None, {"x": x.numpy()})
    assert 35 < psnr(expected, found, float(np.ptp(expected))) < 60  # measured: 45


# ---- what is refused ------------------------------------------------------------------------------------------------------------


def changed(full: Built, folder: Path, change: object) -> Path:
    """A copy of the step whose graph `change` has changed."""
    import shutil

    copied = folder / "copy"
    shutil.copytree(full.path, copied)
    model = onnx.load(str(copied / "forward.onnx"), load_external_data=False)
    change(model)  # type: ignore[operator]
    (copied / "forward.onnx").write_bytes(model.SerializeToString())
    return copied / "forward.onnx"


def test_an_attention_that_fell_apart_is_named(full: Built, tmp_path: Path) -> None:
    from echoedge.targets.onnx.graph import check

    found = check(full.path / "forward.onnx", {"Attention": 7, "RMSNormalization": 6, "LayerNormalization": 7, "Gelu": 2})
    assert found["Attention"] == 7 and found["RotaryEmbedding"] == 4

    def decompose(model: object) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Attention")  # type: ignore[attr-defined]
        node.op_type = "MatMul"
        del node.attribute[:], node.input[2:], node.output[1:]

    with pytest.raises(ExportError, match="has 6 Attention where 7 belong"):
        check(changed(full, tmp_path, decompose), {"Attention": 7})


def _weight_of_head(model: Any) -> None:
    next(t for t in model.graph.initializer if t.name.endswith("head.head.weight")).dims[0] += 1


def _stated_within(model: Any) -> None:
    """The width that a rewrite left behind."""
    from onnx import TensorProto, helper

    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    model.graph.value_info.append(helper.make_tensor_value_info(norm.output[0], TensorProto.FLOAT, [1, None, 77]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_weight_of_head, r"weights dit\.head\.head\.weight are \[33, 64\], and the graph was made for \[32, 64\]"),
        (_stated_within, r"LayerNormalization node_layer_norm: .*dimension 2: \(32\) vs \(77\)"),
    ],
)
def test_a_dimension_that_is_stale_is_named(full: Built, tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    from echoedge.targets.onnx.graph import check
    from echoedge.targets.onnx.session import open_session

    path = changed(full, tmp_path, change)
    with pytest.raises(ExportError, match=f"has a stale dimension: {said}. Export the bundle again"):
        check(path, {})
    if change is _weight_of_head:  # the runtime takes what contradicts itself further inside
        with pytest.raises(EngineError, match=f"has a stale dimension: {said}. Export the bundle again"):
            open_session(path, "cpu")


def test_a_file_that_is_no_graph_says_what_the_runtime_says(full: Built, tmp_path: Path) -> None:
    from echoedge.targets.onnx.session import open_session

    path = changed(full, tmp_path, lambda _: None)
    path.write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match=r"cannot be loaded by ONNX Runtime .* Export the bundle again"):
        open_session(path, "cpu")


def test_weights_that_are_cut_are_named(full: Built, tmp_path: Path) -> None:
    from echoedge.targets.onnx.graph import check
    from echoedge.targets.onnx.session import open_session

    path = changed(full, tmp_path, lambda _: None)
    data = path.with_name("weights.data")
    data.write_bytes(data.read_bytes()[:-4096])
    with pytest.raises(ExportError, match="is cut off"):
        check(path, {})
    with pytest.raises(EngineError, match="is cut off"):
        open_session(path, "cpu")
    data.unlink()
    with pytest.raises(EngineError, match="is not there"):
        open_session(path, "cpu")


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="tpu"):
        TARGET.options(device="tpu")
    with pytest.raises(ConfigError, match="backend"):
        TARGET.options(backend="xnnpack")


# ---- where it runs --------------------------------------------------------------------------------------------------------------


def test_what_runs_where_is_proven(full: Built) -> None:
    from echoedge.targets.onnx import session as at

    opened = at.open_session(full.path / "forward.onnx", "cpu", 1)
    found = at.placed(opened)
    assert set(found.nodes) == {"CPUExecutionProvider"} and found.nodes["CPUExecutionProvider"]["Attention"] == 7
    assert found.elsewhere("CPUExecutionProvider") == {}
    with pytest.raises(EngineError, match="Attention ×7"):
        at.require_placed("denoise", found, "CUDAExecutionProvider", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineError, match="fell back to CPUExecutionProvider"):
        at.require_placed("denoise", found, "CUDAExecutionProvider", opened.get_providers())


def test_flops_of_a_call_are_those_of_its_products(full: Built) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from echoedge.targets.onnx.session import profile

    entry = entry_points(HeldSource(small_model(), SOURCE), "denoise", CLIP, MAKING)["forward"]
    given = entry.drawn(3)
    found = profile(full.path / "forward.onnx", "cpu", {name: x.numpy() for name, x in given.items()}, 1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        entry.run(*given.values())
    assert set(found.operators) == {"CPUExecutionProvider"} and sum(found.slowest(100).values()) == pytest.approx(1)
    (counted,) = found.flops_by_provider.values()
    assert 1.0 < counted / counter.get_total_flops() < 1.1  # coupled attention runs twice
    assert full.placement["forward"].delegated_flops == counter.get_total_flops()  # as the manifest has it


def test_the_library_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "from echoedge.targets.onnx.session import library; library()"
    places = {name: str(tmp_path / name.lower()) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    environment = {**os.environ, **places}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
