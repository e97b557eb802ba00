"""runtime/engines/onnx.py: graphs of a bundle, run where they are for; what programs alone read again stays there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, BundleWriter, TargetRecord
from echoedge.core.config import ClipSpec
from echoedge.core.errors import BundleError, ConfigError, EngineError
from echoedge.core.metrics.psnr import psnr
from echoedge.core.weights.source import HeldSource, Making, unit
from echoedge.quantize.recipes import WeightRecipe
from echoedge.runtime.engines import open_engine
from echoedge.targets.base import Fitting
from echoedge.targets.onnx.target import TARGET

from ..bundles import CLIP, SOURCE, export_small, small_model, small_programs
from ..commands import Run
from ..core.tiny_bundle import FIXED

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

ROLES = ("text_conditions", "denoise_reusing")


def write(root: Path, folder: Path, target: TargetRecord) -> Bundle:
    """A bundle of two programs of the small model, one of which clips' shapes change."""
    chosen, source = TARGET.options(), HeldSource(small_model(), SOURCE)
    with BundleWriter(root, force=False) as writer:
        for role in ROLES:
            made = unit(source, role, CLIP, Making(12, reuse=True))
            if not (folder / role).exists():
                TARGET.write([TARGET.lower(made, role, WeightRecipe(name="fp32"), chosen, None, Fitting())], folder, role, chosen)
            writer.add_program(role, folder / role, role=role, clip=None, methods=TARGET.methods(made), kind="folder")
        writer.finish(**FIXED | {"target": target})
    return Bundle.open(root)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def bundle(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundle") / "two.echoedge"
    return write(root, graphs, TargetRecord(name="onnx", backend="cpu", precision="fp32"))


def example(role: str) -> list[np.ndarray]:
    return [x.numpy() for x in small_programs(reuse=True)[role]["forward"].drawn(5).values()]


@pytest.mark.parametrize("role", ROLES)
def test_it_computes_what_torch_computes(bundle: Bundle, role: str) -> None:
    engine = open_engine(bundle, threads=1)
    assert engine.name == "onnx" and engine.threads == 1
    entry = small_programs(reuse=True)[role]["forward"]
    wanted = entry.run(*entry.drawn(5).values())
    found = engine.run(role, "forward", example(role))
    for a, b in zip(wanted, found, strict=True):
        assert psnr(a.numpy(), np.asarray(b), float(np.ptp(a.numpy()))) > 100


def test_what_programs_alone_read_stays_where_it_is(bundle: Bundle) -> None:
    from echoedge.runtime.engines.onnx import OnDevice

    engine = open_engine(bundle)
    keys, values = engine.run("text_conditions", "forward", example("text_conditions"))
    assert isinstance(keys, OnDevice) and keys.shape == (2, 1, 12, 32) and keys.dtype == np.float32
    kept = np.array(keys)
    engine.run("text_conditions", "forward", [-example("text_conditions")[0]])
    np.testing.assert_array_equal(np.asarray(keys), kept)  # not a buffer that is used again
    latents, time, residual, bias = example("denoise_reusing")
    (plain,) = engine.run("denoise_reusing", "forward", [latents, time, residual, bias])
    assert isinstance(plain, np.ndarray)
    from echoedge.targets.onnx.session import library

    lying = OnDevice(library().OrtValue.ortvalue_from_numpy(residual, "cpu", 0))
    (bound,) = engine.run("denoise_reusing", "forward", [latents, time, lying, bias])  # type: ignore[list-item]
    np.testing.assert_array_equal(bound, plain)


def test_one_file_runs_another_shape(bundle: Bundle) -> None:
    engine, generator = open_engine(bundle), np.random.default_rng(0)
    latents = generator.normal(size=(1, 16, 5, 6, 10)).astype(np.float32)
    time, rows = (generator.normal(size=shape).astype(np.float32) for shape in ((1, 32), (1, 75, 32)))
    (found,) = engine.run("denoise_reusing", "forward", [latents, time, rows, rows])
    assert found.shape == latents.shape
    with pytest.raises(EngineError, match=r"takes patch_bias as float32 \[1, tokens=75, 32\], not float32 \[1, 74, 32\]"):
        engine.run("denoise_reusing", "forward", [latents, time, rows, rows[:, 1:]])
    with pytest.raises(EngineError, match=r"denoise_reusing\.forward failed in ONNX Runtime"):
        engine.run("denoise_reusing", "forward", [latents, time, rows[:, 1:], rows[:, 1:]])


def test_shapes_that_are_not_listed_are_played_where_every_program_serves_every_shape(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="image_encoder"):  # this bundle has none that could say which portraits it takes
        bundle.plays(ClipSpec(48, 32, 5))
    assert bundle.plays(bundle.clip)


def test_a_size_that_a_call_no_longer_chooses_is_named(bundle: Bundle, graphs: Path, tmp_path: Path) -> None:
    """The graph was made for one height: it loads, and every other clip would fail within it."""
    import onnx

    folder = tmp_path / "graphs"
    shutil.copytree(graphs, folder)
    path = folder / "denoise_reusing" / "forward.onnx"
    model = onnx.load(str(path), load_external_data=False)
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4
    path.write_bytes(model.SerializeToString())
    stale = write(tmp_path / "stale.echoedge", folder, bundle.manifest.target)
    said = r"latents is \[1, 16, frames, 4, width\] in the graph and \[1, 16, frames, height, width\] in the manifest"
    with pytest.raises(EngineError, match=f"has a stale dimension: {said}"):
        open_engine(stale).run("denoise_reusing", "forward", example("denoise_reusing"))


def test_what_ran_where_is_told(bundle: Bundle, graphs: Path, tmp_path: Path) -> None:
    from echoedge.runtime.bench.placement import placements

    text, reusing = placements(bundle)
    assert (text.program, text.method, set(text.operators)) == ("text_conditions", "forward", {"CPUExecutionProvider"})
    width, rows, dim = 20, 12, 32  # of a prompt's embeddings, the prompt, the model
    embedding, keys_values = 2 * rows * (width * dim + dim * dim), 2 * rows * dim * dim * 4  # of two blocks
    assert text.flops == {"CPUExecutionProvider": embedding + keys_values}
    assert sum(reusing.operators.values()) > 5 and 0 < sum(reusing.slowest.values()) <= 1.001
    other = write(tmp_path / "other.echoedge", graphs, TargetRecord(name="executorch", backend="xnnpack", precision="fp32"))
    with pytest.raises(ConfigError, match="compiled for executorch, whose programs are placed when they are exported"):
        placements(other)


def test_memory_is_given_back(bundle: Bundle) -> None:
    from echoedge.runtime.engines.onnx import OnnxEngine

    engine = OnnxEngine(bundle, CLIP, keep_bytes=1)
    for role in ROLES:
        engine.run(role, "forward", example(role))
        assert engine.loaded == (f"programs/{role}/forward",)
    engine.release()
    assert engine.loaded == ()
    roomy = OnnxEngine(bundle, CLIP)
    for role in ROLES:
        roomy.run(role, "forward", example(role))
    assert len(roomy.loaded) == 2


def test_what_it_cannot_play_it_refuses(bundle: Bundle, graphs: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.echoedge", graphs, TargetRecord(name="executorch", backend="xnnpack", precision="fp32"))
    with pytest.raises(EngineError, match="was compiled for executorch"):
        open_engine(other, "onnx")
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider; it has"):
        open_engine(write(tmp_path / "cuda.echoedge", graphs, TargetRecord(name="onnx", backend="cuda", precision="fp16")))
    with pytest.raises(EngineError, match="has no method 'backward'"):
        open_engine(bundle).run("text_conditions", "backward", [])


def test_flash_attention_is_read_off_the_log() -> None:
    from echoedge.targets.onnx.session import require_flash

    require_flash("denoise", "[V] ONNX Attention: using Flash Attention\n[V] ONNX Attention: using Memory Efficient Attention\n")
    with pytest.raises(EngineError, match="it used Memory Efficient Attention ×1"):
        require_flash("denoise", "[V] ONNX Attention: using Memory Efficient Attention\n")
    with pytest.raises(EngineError, match="nothing that the log names"):
        require_flash("denoise", "")


@pytest.mark.slow
def test_a_whole_bundle_plays_and_is_proven(tmp_path: Path, bundle_path: Path, run: Run) -> None:
    """Compiled, verified and played at two shapes, and held against what ExecuTorch's bundle recorded; minutes."""
    from echoedge.core.bundle.agreement import falls_short
    from echoedge.core.bundle.golden import compare
    from echoedge.runtime.play.player import Player, PlayerConfig
    from echoedge.runtime.verify.parity import read_golden, verify

    path = tmp_path / "small.echoedge"
    export_small(path, "int8", target="onnx")
    bundle = Bundle.open(path)
    assert all(program.clip is None for program in bundle.manifest.programs.values())
    assert bundle.manifest.weights.settings["accuracy_level"] == 4
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed and not verdict.failed
    told = json.loads(run("inspect", path, "--placement", "--json").out)["placement"]
    assert {each["program"] for each in told} == set(bundle.manifest.programs)
    assert all(set(each["flops"]) == {"CPUExecutionProvider"} for each in told)
    assert "What ran where" in run("inspect", path, "--placement").out
    theirs = read_golden(Bundle.open(bundle_path))
    assert theirs.index["programs"] == read_golden(bundle).index["programs"]  # arrays are named by their content
    engine = open_engine(bundle)
    for name, found in compare(theirs, engine.run).items():
        demanded = bundle.manifest.programs[name].demanded
        assert demanded is not None and not falls_short(found, demanded), name
    clip = ClipSpec(CLIP.height, CLIP.width, 17)
    assert bundle.plays(clip) and not bundle.plays(ClipSpec(64, 64, 9))
    player = Player(PlayerConfig.of(bundle, clip), open_engine(bundle, clip=clip))
    made = player.generate(np.zeros((3, 32, 32), np.float32), 0.1 * np.ones(16 * 640, np.float32), "a man")
    assert len(list(player.frames_of(made))) == 16
