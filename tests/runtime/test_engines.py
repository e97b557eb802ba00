"""runtime/engines: every engine computes the recorded calls, and refuses in a sentence what it cannot run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, ModelRecord, TargetRecord
from echoedge.core.config import NANO
from echoedge.core.errors import EngineError
from echoedge.core.metrics.psnr import psnr
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.engines.executorch import ExecuTorchEngine
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.registry import OTHER_ENGINES, REGISTRY

from ..bundles import changed_bundle, small_engine, small_programs

METHODS = [(program, method) for program, methods in small_programs().items() for method in methods]


@pytest.fixture(params=["torch", "executorch"])
def engine(request: pytest.FixtureRequest, bundle_path: Path) -> Engine:
    return small_engine() if request.param == "torch" else open_engine(Bundle.open(bundle_path))


def example(program: str, method: str = "forward") -> list[Array]:
    return [tensor.numpy().copy() for tensor in small_programs()[program][method].inputs.values()]


# ---- what they compute -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "method"), METHODS)
def test_a_compiled_method_computes_what_torch_computes(program: str, method: str, bundle: Bundle) -> None:
    wanted = small_engine().run(program, method, example(program, method))
    found = open_engine(bundle).run(program, method, example(program, method))
    assert [output.shape for output in found] == [output.shape for output in wanted]
    names = small_programs()[program][method].outputs
    least = {name: psnr(a, b, float(np.ptp(a)) or 1.0) for name, a, b in zip(names, wanted, found, strict=True)}
    assert min(least.values()) > 40, least  # measured: 50 dB or more; other weights 15 or less


def test_other_weights_compute_something_else(bundle: Bundle) -> None:
    found = open_engine(bundle).run("denoise", "forward", example("denoise"))[0]
    assert psnr(small_engine(seed=1).run("denoise", "forward", example("denoise"))[0], found) < 20


def test_outputs_are_the_callers_own(engine: Engine) -> None:
    """A runtime that hands out its buffers would change the first result in the second call."""
    first = engine.run("image_encoder", "forward", example("image_encoder"))[0]
    kept = first.copy()
    engine.run("image_encoder", "forward", [-example("image_encoder")[0]])
    np.testing.assert_array_equal(first, kept)


def test_inputs_are_never_changed(engine: Engine) -> None:
    inputs = example("vae_decode", "next")
    engine.run("vae_decode", "next", inputs)
    for given, original in zip(inputs, example("vae_decode", "next"), strict=True):
        np.testing.assert_array_equal(given, original)


def test_inputs_need_not_be_contiguous(engine: Engine) -> None:
    (portrait,) = example("image_encoder")
    strided = np.asfortranarray(portrait)
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(
        engine.run("image_encoder", "forward", [strided])[0], engine.run("image_encoder", "forward", [portrait])[0]
    )


def test_the_same_call_gives_the_same_result(engine: Engine) -> None:
    results = [engine.run("denoise", "forward", example("denoise"))[0] for _ in range(2)]
    np.testing.assert_array_equal(*results)


def test_what_an_engine_has(engine: Engine) -> None:
    assert all(engine.has(program) for program in small_programs())
    assert not engine.has("denoise_reusing")


# ---- what they refuse ------------------------------------------------------------------------------------------------------------


def test_a_wrong_shape_is_refused_by_name(engine: Engine) -> None:
    inputs = example("denoise")
    inputs[1] = inputs[1][:, :-1]
    with pytest.raises(EngineError, match=r"denoise\.forward takes time as float32 \[1, 32\], not float32 \[1, 31\]\."):
        engine.run("denoise", "forward", inputs)


def test_a_wrong_type_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"text_encoder\.forward takes ids as int64 \[1, 12\], not int32 \[1, 12\]\."):
        engine.run("text_encoder", "forward", [example("text_encoder")[0].astype(np.int32)])


@pytest.mark.parametrize("count", [0, 3])
def test_a_wrong_number_of_inputs_is_refused(count: int, engine: Engine) -> None:
    with pytest.raises(EngineError, match=rf"audio_conditions\.forward takes 1 inputs \(audio\), not {count}\."):
        engine.run("audio_conditions", "forward", example("audio_conditions") * count)


def test_an_unknown_program_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="no program .*denoize"):
        engine.run("denoize", "forward", example("denoise"))


def test_an_unknown_method_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="next"):
        engine.run("denoise", "next", example("denoise"))


# ---- opening ---------------------------------------------------------------------------------------------------------------------


def test_auto_is_what_the_bundle_was_compiled_for(bundle: Bundle) -> None:
    assert open_engine(bundle).name == open_engine(bundle, "executorch").name == "executorch"


def test_an_unknown_engine_gets_the_list(bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match=rf"no engine 'cuda' here\. Choose from: auto, {', '.join((*REGISTRY, *OTHER_ENGINES, 'torch'))}\."
    ):
        open_engine(bundle, "cuda")


def of_model(bundle: Bundle, record: ModelRecord) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"model": record}))


def test_torch_plays_only_models_whose_weights_ship(bundle: Bundle) -> None:
    with pytest.raises(
        EngineError, match=r"compiled from tiny, whose weights do not ship with EchoEdge\. Use --engine executorch\."
    ):
        open_engine(bundle, "torch")


def test_torch_plays_only_the_very_weights(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"other weights of nano \(SHA-256 000000000000…\).*Export it again"):
        TorchEngine.for_bundle(of_model(bundle, ModelRecord.of(NANO, "0" * 64)))


def test_executorch_plays_only_its_own_target(bundle: Bundle) -> None:
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"target": TargetRecord(name="coreml")}))
    with pytest.raises(EngineError, match="compiled for coreml; the executorch engine cannot play it"):
        ExecuTorchEngine(other)


# ---- damaged programs ------------------------------------------------------------------------------------------------------------

# A process of its own: a runtime that trusts the file may end the process.
RUN = """
import sys
from echoedge.core.bundle import Bundle, TargetRecord
from echoedge.core.errors import EngineError
from echoedge.runtime.engines import open_engine
from pathlib import Path
import numpy as np
for path in sys.argv[1:]:
    bundle = Bundle.open(path)
    specs = bundle.program("denoise").methods["forward"].inputs
    try:
        open_engine(bundle).run("denoise", "forward", [np.zeros(spec.shape, spec.dtype) for spec in specs])
        print("played", flush=True)
    except EngineError as error:
        print("EngineError", error, flush=True)
"""


def test_a_damaged_program_under_an_honest_manifest_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    data = (bundle_path / "programs" / "denoise.pte").read_bytes()
    other, foreign = ((bundle_path / "programs" / f"{name}.pte").read_bytes() for name in ("vae_decode", "text_encoder"))
    damaged = {
        "empty": b"", "header": data[:32], "third": data[: len(data) // 3], "all-but-the-end": data[: -len(data) // 10],
        "zeroes": bytes(len(data)), "text": b"version https://git-lfs.github.com/spec/v1\n", "other": other,
        "foreign": foreign,
    }  # fmt: skip
    paths = [changed_bundle(bundle_path, tmp_path / name, "programs/denoise.pte", bytes_) for name, bytes_ in damaged.items()]
    result = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, paths), str(bundle_path)], capture_output=True, text=True, timeout=120, check=False
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr[-2000:]
    told = dict(zip([*damaged, "sound"], lines, strict=True))
    assert told.pop("sound") == "played"
    for name, line in told.items():
        assert line.startswith("EngineError"), (name, line)
        assert "denoise" in line, (name, line)
        assert "Export the bundle again." in line or name == "foreign", (name, line)
