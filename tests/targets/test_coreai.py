"""targets/coreai: `.aimodel`s that Apple's runtime executes, with a rounding's integers in their bits, proven before they ship."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from echoedge.core.config import Variant
from echoedge.core.errors import ConfigError, ExportError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.weights.source import CheckpointSource, HeldSource, Making, entry_points, unit
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.roundings import ROUNDINGS
from echoedge.quantize.schemes import SCHEMES
from echoedge.quantize.weights import quantise
from echoedge.runtime.export.compile import compile_one, prove
from echoedge.runtime.export.record import Recorded, record_whole
from echoedge.targets.bars import COMPUTE_BARS, EXACT, bar
from echoedge.targets.base import Built, Fitting
from echoedge.targets.coreai.target import TARGET

from ..bundles import CLIP, SOURCE, small_model, small_request
from ..core.tiny_checkpoint import playable_sizes
from ..runtime.test_export_checkpoint import CLIP as PLAYED
from .test_onnx import MIXED, moments, samples

pytest.importorskip("coreai_torch", reason="the extra coreai is not installed")

MAKING = Making(12)
FULL = WeightRecipe(name="fp32")


def compiled(role: str, folder: Path, recipe: WeightRecipe = FULL, **options: str) -> Built:
    source, chosen = HeldSource(small_model(), SOURCE), TARGET.options(**options)
    calls = samples(role) if recipe.needs_samples else ()
    lowered = TARGET.lower(unit(source, role, CLIP, MAKING), role, recipe, chosen, None, Fitting(calls))
    (built,) = TARGET.write([lowered], folder, role, chosen)
    return built


def agreement(built: Built, method: str = "forward", source: CheckpointSource | None = None) -> float:
    """Of a unit's method with the reference's, dB, of the output that agrees least."""
    from echoedge.runtime.engines.coreai import open_built

    if source is not None:
        entry = entry_points(source, built.label, PLAYED, Making(8, reuse=True))[method]
    else:
        entry = entry_points(HeldSource(small_model(), SOURCE), built.label, CLIP, MAKING)[method]
    given = entry.drawn(3)
    if "text_bias" in given:
        given["text_bias"][0, -3:] = -1e9
    found = open_built(built).run(method, [x.numpy() for x in given.values()])
    expected = [x.numpy() for x in entry.run(*given.values())]
    return min(psnr(a, b, float(np.ptp(a)) or 1.0) for a, b in zip(expected, found, strict=True))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Keys and values of a prompt, of 4 and 8 bits and in full precision."""
    return compiled("text_conditions", tmp_path_factory.mktemp("mixed"), MIXED)


# ---- what is computed -----------------------------------------------------------------------------------------------------------


def test_the_step_and_the_decoder_are_the_references(tmp_path: Path) -> None:
    step, decoder = compiled("denoise", tmp_path), compiled("vae_decode", tmp_path)
    assert agreement(step) > 100  # measured: 147.8
    assert agreement(decoder, "first") > 100 and agreement(decoder, "next") > 100  # measured: 136.5, 133.3
    assert [path.name for path in sorted(decoder.path.iterdir())] == ["first.aimodel", "methods.json", "next.aimodel"]
    entry = entry_points(HeldSource(small_model(), SOURCE), "denoise", CLIP, MAKING)["forward"]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        entry.run(*entry.inputs.values())
    assert step.placement["forward"].delegated_flops == counter.get_total_flops()


@pytest.mark.parametrize(("precision", "most"), [("bf16", 65), ("fp16", 85)])
def test_types(precision: str, most: float, tmp_path: Path) -> None:
    """Inputs and outputs stay float32."""
    demanded = bar("text_conditions", {}, TARGET.compute(TARGET.options(precision=precision))).psnr_db
    found = agreement(compiled("text_conditions", tmp_path, precision=precision))
    assert demanded is not None and demanded < found < most  # measured: 53.6, 72.2


def test_bars_follow_from_what_is_computed_in() -> None:
    bars = {name: bar("denoise", {}, TARGET.compute(TARGET.options(precision=name))) for name in ("fp32", "bf16", "fp16")}
    assert bars == {"fp32": EXACT, "bf16": COMPUTE_BARS["whole-bf16"], "fp16": COMPUTE_BARS["fp16-sums"]}
    assert bar("tiny_decode", {}, "whole-bf16") == EXACT  # it stays float32


def test_weights_of_fewer_bits(mixed: Built) -> None:
    assert mixed.layers == {"int4": 3, "int8": 2, "fp32": 1}
    assert 25 < agreement(mixed) < 60


# ---- weights --------------------------------------------------------------------------------------------------------------------


def in_file(codes: Tensor, bits: int) -> bytes:
    """As a file has them: of 4 bits two in a byte, the first one low."""
    raw = codes.numpy().astype(np.uint8).ravel()
    return raw.tobytes() if bits == 8 else ((raw[0::2] & 15) | (raw[1::2] << 4)).tobytes()


def test_the_files_integers_are_those_of_the_rounding(mixed: Built) -> None:
    written, dit = (mixed.path / "forward.aimodel" / "main.mlirb").read_bytes(), small_model().dit
    layers = {name: layer for name, layer in dit.named_modules() if isinstance(layer, nn.Linear)}
    found = 0
    for name, layer in layers.items():
        rule = MIXED.rule_for("text_conditions", f"dit.{name}")
        if rule is None or not (name.startswith("text_embedding") or name.endswith(("cross_attn.k", "cross_attn.v"))):
            continue
        grid = SCHEMES[rule.weights].grid(layer.out_features, layer.in_features, rule.group, rule.rows)
        weight = layer.weight.detach().float()
        assert in_file(ROUNDINGS[rule.rounding](weight, grid, moments(f"dit.{name}")).codes, grid.bits) in written, name
        other = ROUNDINGS["nearest" if rule.rounding != "nearest" else "searched"](weight, grid, ())
        assert in_file(other.codes, grid.bits) not in written, name
        found += 1
    assert found == 5


def test_the_files_integers_are_those_of_another_targets(mixed: Built) -> None:
    """The same recipe and calls, as ExecuTorch stores them."""
    from echoedge.targets.executorch.storage import stored_weight as of_executorch

    written = (mixed.path / "forward.aimodel" / "main.mlirb").read_bytes()
    (entry,) = entry_points(HeldSource(small_model(), SOURCE), "text_conditions", CLIP, MAKING).values()
    module, calls = copy.deepcopy(entry.module), samples("text_conditions")
    assert quantise(module, "text_conditions", MIXED, calls[0], store=of_executorch, samples=calls) == mixed.layers
    stored = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear) and hasattr(layer.weight, "qdata")]
    assert len(stored) == 5
    for weight in stored:
        assert in_file(weight.qdata, 4 if weight.target_dtype == torch.int4 else 8) in written


class Wide(nn.Module):
    """A layer large enough for its bytes to count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(512, 512).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def wide(path: Path, weights: str) -> int:
    """A file of `Wide`, and its bytes."""
    from echoedge.targets.coreai.asset import Part, convert
    from echoedge.targets.coreai.storage import settle
    from echoedge.targets.stored_weight import stored_weight

    module = Wide()
    quantise(module, "p", WeightRecipe(name="w", rules=(Rule(weights=weights),)), store=stored_weight)
    convert("p", Part(settle(module), {"x": torch.zeros(1, 3, 512)}, ["y"]), "fp32", path)
    return (path / "main.mlirb").stat().st_size


def test_bytes_of_a_weight(tmp_path: Path) -> None:
    size = {weights: wide(tmp_path / f"{weights}.aimodel", weights) / 512**2 for weights in ("int8", "int4")}
    assert 1.0 < size["int8"] < 1.08 and 0.62 < size["int4"] < 0.70  # scales of 32 weights take an eighth of a byte


def test_weights_that_are_not_packed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.targets.coreai import storage
    from echoedge.targets.coreai.asset import check
    from echoedge.targets.coreai.storage import Holds

    wide(tmp_path / "bytes.aimodel", "int8")
    assert check(tmp_path / "bytes.aimodel", Holds({8: 512**2}, 512 * (512 + 8))) > 0
    with pytest.raises(ExportError, match=r"holds 0 weights of 4 bits where 262144 belong: the converter has unpacked some"):
        check(tmp_path / "bytes.aimodel", Holds({4: 512**2}, 512 * (256 + 8)))
    with pytest.raises(ExportError, match=r"takes .* kB where its weights with their scales warrant .* kB: 1\.\d\d bytes a weight"):
        check(tmp_path / "bytes.aimodel", Holds({8: 512**2}, 512 * (256 + 8)))
    monkeypatch.setattr(storage.PackedLinear, "forward", _unpacked)
    with pytest.raises(ExportError, match=r"holds 0 weights of 4 bits where 262144 belong"):
        wide(tmp_path / "floats.aimodel", "int4")


def _unpacked(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer whose file has floats in place of its integers."""
    codes, scale = layer.codes, layer.scale
    weight = (codes.view(len(codes), scale.shape[1], -1).float() * scale[..., None]).flatten(1)
    return x @ nn.Buffer(weight.t()) + layer.bias


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from echoedge.targets.coreai import asset

    monkeypatch.setattr(asset, "LARGEST_FILE", 200_000)
    with pytest.raises(ExportError, match=r"takes .* kB, and one file may take 200 kB\. Take fewer bits"):
        wide(tmp_path / "bytes.aimodel", "int8")


# ---- a transformer that streams -------------------------------------------------------------------------------------------------


def streamed(
    variant: Variant, role: str, weights: str, folders: dict[Variant, Path], folder: Path
) -> tuple[Built, CheckpointSource]:
    source, chosen = CheckpointSource(str(folders[variant]), variant, playable_sizes(variant)), TARGET.options()
    made = unit(source, role, PLAYED, Making(8, reuse=True))
    assert made.blocks is not None
    (built,) = TARGET.write([TARGET.lower(made, role, PRESETS[weights], chosen, None, Fitting())], folder, role, chosen)
    return built, source


def test_a_step_in_two_files(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hand on what lies between them; the velocity and what the blocks add come out."""
    from echoedge.targets.coreai import target

    monkeypatch.setattr(target, "MOST_WEIGHTS", 30_000)
    built, source = streamed("flash", "denoise", "int8", folders, tmp_path)
    told = json.loads((built.path / "methods.json").read_text())["forward"]
    assert told["parts"] == ["forward.aimodel", "forward-2.aimodel"] and told["outputs"] == ["velocity", "residual"]
    assert built.layers["int8"] == 16 and built.placement["forward"].delegate_calls == 2
    assert 45 < agreement(built, source=source) < 80  # measured: 57


def test_keys_and_values_come_block_by_block(folders: dict[Variant, Path], tmp_path: Path) -> None:
    built, source = streamed("preview", "audio_conditions", "fp32", folders, tmp_path)
    assert agreement(built, source=source) > 100


# ---- what is refused ------------------------------------------------------------------------------------------------------------


def _without_bias(module: nn.Module) -> nn.Module:
    layer = module.get_submodule("dit.text_embedding.2")
    layer.bias = nn.Parameter(torch.zeros_like(layer.bias), requires_grad=False)
    return module


def _turned(module: nn.Module) -> nn.Module:
    layer = module.get_submodule("dit.blocks.0.cross_attn.k")
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
    return module


def _sound(module: nn.Module) -> nn.Module:
    return module


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded]:
    """The small model's calls in full precision."""
    folder = tmp_path_factory.mktemp("recorded")
    return folder, record_whole(small_request("fp32", "coreai"), folder)


@pytest.mark.parametrize(("change", "passes"), [(_sound, True), (_without_bias, False), (_turned, False)])
def test_a_file_that_computes_something_else_is_refused(
    change: Callable[[nn.Module], nn.Module], passes: bool, recorded: tuple[Path, Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    from echoedge.targets.coreai import target

    folder, calls = recorded
    request, settle = small_request("fp32", "coreai"), target.settle
    monkeypatch.setattr(target, "settle", lambda module: settle(change(module)))
    made = compile_one(request, folder, role="text_conditions", shape=0)
    if passes:
        figures = prove(request, folder, made, calls, role="text_conditions").figures
        assert figures is not None and (figures.psnr_db or 0) > 100  # measured: 150
        return
    with pytest.raises(ExportError, match=r"text_conditions was compiled, and the file does not compute what the model computes"):
        prove(request, folder, made, calls, role="text_conditions")


def test_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.metadata.version
    for name in ("coreai-core", "coreai-torch"):
        monkeypatch.setattr(importlib.metadata, "version", lambda asked, name=name: "9.9" if asked == name else found(asked))
        with pytest.raises(ExportError, match=rf"^The target coreai needs {name} [\d.b]+, and 9\.9 is here\. pip install"):
            compiled("patch_conditions", tmp_path)

    def missing(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ExportError, match=r"needs coreai-core 1\.0\.0b3, which is not here\. pip install 'echoedge\[coreai\]'"):
        compiled("patch_conditions", tmp_path)


def test_what_the_converter_refuses_is_told(tmp_path: Path) -> None:
    from echoedge.targets.coreai.asset import Part, convert

    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.remainder(x, 2.0)

    with pytest.raises(ExportError, match=r"^p\.forward could not be compiled for Core AI: .*remainder"):
        convert("p.forward", Part(Spread(), {"x": torch.zeros(3)}, ["y"]), "fp32", tmp_path / "p.aimodel")


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="int8"):
        TARGET.options(precision="int8")
    with pytest.raises(ConfigError, match="device"):
        TARGET.options(device="ane")
