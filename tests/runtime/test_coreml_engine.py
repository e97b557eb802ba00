"""The engines mil and mil-fp32, and what they tell of half precision: a bundle of Core ML packages, played where there is no Core
ML."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, Figures
from echoedge.core.errors import ConfigError, EngineError
from echoedge.runtime.bench.headroom import headrooms
from echoedge.runtime.bench.neural_engine import neural_engine
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.mil import Package, compare
from echoedge.runtime.engines.mil.engine import as_in_file
from echoedge.runtime.verify.parity import Verdict, verify
from echoedge.targets.coreml.names import LARGEST

from ..bundles import small_model
from ..commands import Run

ct = pytest.importorskip("coremltools", reason="the extra coreml is not installed")


def test_the_whole_bundle_is_proven_and_played_as_in_full_precision(apple: Path) -> None:
    bundle = Bundle.open(apple)
    target = bundle.manifest.target
    assert (target.name, target.backend, target.precision) == ("coreml", "all", "fp16")
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed and all(row.operator is None for row in verdict.rows)
    assert {row.name for row in verdict.rows} >= {"latents", "frames", "denoise", "vae_decode"}
    latents = found_of(verdict, "latents")
    assert latents.psnr_db is not None and latents.psnr_db > 45  # measured: 58.9


def found_of(verdict: Verdict, name: str) -> Figures:
    return next(row.measured for row in verdict.rows if row.name == name)


def test_auto_is_the_interpreter_here(apple: Path) -> None:
    bundle = Bundle.open(apple)
    names = {asked: open_engine(bundle, asked).name for asked in ("auto", "coreml", "mil", "mil-fp32")}
    assert names == {"auto": "mil", "coreml": "mil", "mil": "mil", "mil-fp32": "mil-fp32"}
    engine = open_engine(bundle, threads=1)
    assert engine.threads == 1


def test_single_precision_is_nearer_to_the_reference(apple: Path) -> None:
    bundle = Bundle.open(apple)
    decoded = [found_of(verify(bundle, open_engine(bundle, name)), "vae_decode").psnr_db for name in ("mil-fp32", "mil")]
    assert decoded[0] > decoded[1] + 1  # weights are half precision in both; measured: 69.1 and 66.6 dB


def test_a_bundle_of_another_target_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="was compiled for executorch; the engine mil plays Core ML packages"):
        open_engine(bundle, "mil")
    with pytest.raises(ConfigError, match="was compiled for executorch; headroom is asked of half precision"):
        headrooms(bundle)


def test_a_package_with_an_operator_changed_fails_and_is_named(apple: Path, tmp_path: Path) -> None:
    shutil.copytree(apple, tmp_path / "changed.echoedge")
    bundle = Bundle.open(apple)
    program = bundle.manifest.programs["denoise"]
    right = Package.open(bundle.path(program.path) / "forward.mlpackage").function()
    wrong = Package.open(changed_norm(tmp_path / "changed.echoedge" / program.path / "forward.mlpackage")).function()
    generator = np.random.default_rng(0)
    feed = {
        spec.name: as_in_file(generator.standard_normal(spec.shape).astype(np.float32))
        for spec in program.methods["forward"].inputs
    }
    assert compare(right, right, feed, 1e-6).first is None
    first = compare(wrong, right, feed, 1e-6).first
    assert first is not None and first.type == "layer_norm"


def changed_norm(package: Path) -> Path:
    """A package whose first layer norm has another epsilon."""
    from echoedge.runtime.engines.mil.protos import generated

    path = package / "Data/com.apple.CoreML/model.mlmodel"
    model = generated("Model_pb2").Model()
    model.ParseFromString(path.read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    target = next(op for op in block.operations if op.type == "layer_norm")
    epsilon = next(op for op in block.operations if op.outputs and op.outputs[0].name == target.inputs["epsilon"].arguments[0].name)
    value = epsilon.attributes["val"].immediateValue.tensor
    value.bytes.values = np.float16(0.5).tobytes()
    path.write_bytes(model.SerializeToString())
    return package


def test_numbers_on_their_way_into_a_package() -> None:
    given = as_in_file(np.array([1.5, -1e9, np.inf, 65504.0], np.float32))
    assert given.dtype == np.float16 and given.tolist() == [1.5, -LARGEST, LARGEST, 65504.0]
    assert as_in_file(np.array([3], np.int64)).dtype == np.int32


# ---- half precision -------------------------------------------------------------------------------------------------------------


def test_headroom_is_told_and_stress_finds_its_end(apple: Path, run: Run) -> None:
    bundle = Bundle.open(apple)
    calm = {(each.program, each.method): each for each in headrooms(bundle)}
    assert set(calm) >= {("denoise", "forward"), ("vae_decode", "next"), ("audio_encoder", "forward")}
    assert all(each.overflows is None and each.times > 1 and each.operators > 0 for each in calm.values())
    stressed = {(each.program, each.method): each for each in headrooms(bundle, stress=5000.0)}
    place = ("patch_conditions", "forward")  # a product, and a sum with what is not given
    assert stressed[place].largest == pytest.approx(5000 * calm[place].largest, rel=0.1)
    lost = [each for each in stressed.values() if each.overflows]
    assert lost and all(" at [" in str(each.overflows) for each in lost)
    told = json.loads(run("inspect", apple, "--headroom", "--json").out)
    assert {row["program"] for row in told["headroom"]} == {program for program, _ in calm}
    shown = run("inspect", apple, "--headroom").out
    assert "max |activation|" in shown.replace("\n", " ") or "|activation|" in shown
    assert "Nothing overflows" in shown
    assert "not a number" in run("inspect", apple, "--headroom", "--stress", "5000").out.replace("\n", " ")


def test_stress_alone_would_do_nothing(apple: Path, run: Run) -> None:
    ended = run("inspect", apple, "--stress", "8")
    assert ended.status == 2 and "--stress 8 goes with --headroom" in ended.err


def test_stress_out_of_range(apple: Path) -> None:
    with pytest.raises(ConfigError, match="stress"):
        headrooms(Bundle.open(apple), stress=0.0)


# ---- the Neural Engine ----------------------------------------------------------------------------------------------------------


def test_what_the_neural_engine_does_not_run_is_read_off(apple: Path, run: Run) -> None:
    looked = {(each.program, each.method): each for each in neural_engine(Bundle.open(apple))}
    step = looked["denoise", "forward"]
    layers = small_model().config.layers
    assert step.counts["fused attention"] >= 3 * layers  # this layout is for the GPU
    assert not {"rank", "fp32 literal", "mask", "too new"} & {rule for each in looked.values() for rule in each.counts}
    assert {each.program for each in looked.values() if "not half" in each.counts} <= {"text_encoder"}  # it reads whole numbers
    assert set(step.load.flops) >= {"linear", "scaled_dot_product_attention"} and step.load.peak_bytes > 0
    told = json.loads(run("inspect", apple, "--lint", "--json").out)
    assert {(row["program"], row["method"]) for row in told["neural_engine"]} == set(looked)
    shown = run("inspect", apple, "--lint").out
    assert "fused attention" in shown and "Nothing here was measured on a device" in shown.replace("\n", " ")


def test_other_targets_are_not_looked_through(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="was compiled for executorch; --lint looks through Core ML packages"):
        neural_engine(bundle)
