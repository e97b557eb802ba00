"""runtime/export/nano.py: what an export writes, and that an export which fails or is interrupted leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echoedge.core import files
from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.bundle.golden import compare
from echoedge.core.errors import EngineError, ExportError, OutputError, ResourceError
from echoedge.core.plan.samplers import FeatureReuse
from echoedge.core.versions import LIBRARIES, library_versions
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.engines.executorch import ExecuTorchEngine
from echoedge.runtime.export import nano as bundle_builder
from echoedge.runtime.export.nano import (
    GOLDEN,
    GOLDEN_INDEX,
    STEP_TABLES,
    Golden,
    export_bundle,
    step_tables,
)
from echoedge.runtime.verify.parity import read_golden
from echoedge.targets.bars import WEIGHT_BARS, thresholds_for
from echoedge.targets.executorch.lower import Compiled, compile_program

from ..bundles import CLIP, OPTIONS, SOURCE, record, small_engine, small_model, small_plan, small_programs, small_request
from ..targets import stand_ins

REPO = Path(__file__).resolve().parents[2]
PROGRAMS = ["audio_encoder", "image_encoder", "text_encoder", "vae_encode", "encode_conditions", "denoise", "vae_decode"]


def silent(*_: Any) -> None:
    pass


def no_record(*_: Any) -> Golden:
    golden = Golden()
    golden.add(np.zeros(1))
    return golden


# ---- what a bundle holds ---------------------------------------------------------------------------------------------------------


def test_every_file_is_listed_and_hashed(bundle: Bundle) -> None:
    assert bundle.extra_files() == ()
    assert set(bundle.manifest.files) == {"plan.json", STEP_TABLES, GOLDEN, GOLDEN_INDEX}
    entries = {**bundle.manifest.files, **{program.path: program for program in bundle.manifest.programs.values()}}
    for name, entry in entries.items():
        data = (bundle.root / name).read_bytes()
        assert (entry.sha256, entry.bytes) == (hashlib.sha256(data).hexdigest(), len(data)), name


def test_every_program_of_the_model_is_there(bundle: Bundle) -> None:
    assert list(bundle.manifest.programs) == PROGRAMS
    assert [program.path for program in bundle.manifest.programs.values()] == [f"programs/{name}.pte" for name in PROGRAMS]


def test_methods_are_recorded_in_the_order_of_the_call(bundle: Bundle) -> None:
    for name, program in small_programs().items():
        recorded = bundle.program(name).methods
        assert list(recorded) == list(program)
        for key, method in program.items():
            wanted = [(name, "int64" if name == "ids" else "float32", tuple(value.shape)) for name, value in method.inputs.items()]
            assert [(spec.name, spec.dtype, spec.shape) for spec in recorded[key].inputs] == wanted
            assert [spec.name for spec in recorded[key].outputs] == method.outputs


def test_the_plan_is_the_one_that_was_asked_for(bundle: Bundle) -> None:
    assert bundle.plan() == small_plan()


def test_step_tables_are_the_models_for_the_plans_steps(bundle: Bundle) -> None:
    tables = bundle.read_tensors(STEP_TABLES)
    with torch.no_grad():
        time_rows, modulation = small_model().dit.step_tables(torch.tensor(small_plan().timesteps))
    np.testing.assert_array_equal(tables["time"], time_rows.numpy())
    np.testing.assert_array_equal(tables["modulation"], modulation.numpy())
    assert np.abs(tables["time"][0] - tables["time"][1]).max() > 0.01


def test_provenance(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.model.preset, manifest.model.source_sha256, manifest.target) == ("tiny", SOURCE, "executorch")
    assert bundle.model == small_model().config
    assert bundle.clip == CLIP
    assert manifest.versions == library_versions()
    assert set(manifest.versions) == set(LIBRARIES)


def test_the_recipe_and_what_each_program_got(bundle: Bundle) -> None:
    weights = bundle.manifest.weights
    layers: Any = weights.settings["layers"]
    assert weights.name == "int8"
    assert layers["vae_decode"] == {}
    assert layers["denoise"]["fp32"] == 2  # head and patches
    assert layers["denoise"]["int8"] > 10


def test_thresholds_are_each_programs_own(bundle: Bundle) -> None:
    """The autoencoder has no linear layers: nothing of it is quantised, and it is asked for what full precision is."""
    thresholds = bundle.manifest.parity.thresholds
    quantised = {name for name in PROGRAMS if not name.startswith("vae")}
    assert {name: thresholds[name] for name in PROGRAMS} == {
        name: WEIGHT_BARS["int8" if name in quantised else "fp32"] for name in PROGRAMS
    }
    assert thresholds["latents"] == WEIGHT_BARS["int8"]
    assert bundle.manifest.precision == "fp32"


def test_memory_is_counted_from_the_shapes(bundle: Bundle) -> None:
    def states(program: str) -> int:
        specs = bundle.program(program).methods["next"].inputs
        return sum(4 * int(np.prod(spec.shape)) for spec in specs if spec.name.startswith("state_"))

    memory = bundle.manifest.memory
    assert memory["latents_bytes"] == 4 * 16 * CLIP.latent_frames * CLIP.latent_height * CLIP.latent_width
    assert [memory["vae_encode_state_bytes"], memory["vae_decode_state_bytes"]] == [states("vae_encode"), states("vae_decode")]
    assert states("vae_decode") > 0
    inputs = bundle.program("denoise").methods["forward"].inputs
    assert memory["conditions_bytes_per_branch"] == sum(4 * int(np.prod(spec.shape)) for spec in inputs[4:])


# ---- delegation ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["denoise", "encode_conditions", "audio_encoder", "image_encoder"])
def test_a_program_is_one_delegate_and_nothing_else(name: str, bundle: Bundle) -> None:
    taken = bundle.program(name).delegation["forward"]
    assert (taken.delegate_calls, taken.other_ops) == (1, {})


def test_the_denoise_file_itself_holds_one_call_of_one_delegate(bundle: Bundle) -> None:
    """Read from the file, not from what the exporter said."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(bundle.path("programs/denoise.pte").read_bytes()).program
    (plan,) = program.execution_plan
    assert [delegate.id for delegate in plan.delegates] == ["XnnpackBackend"]
    assert plan.operators == []
    instructions = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    assert [type(instruction).__name__ for instruction in instructions] == ["DelegateCall"]


def test_a_program_with_operators_outside_names_them(bundle: Bundle) -> None:
    taken = bundle.program("text_encoder").delegation["forward"]
    assert taken.other_ops["aten.embedding.default"] == 1
    assert set(taken.other_seconds) == set(taken.other_ops)
    assert all(5e-6 <= seconds < 1e-3 for seconds in taken.other_seconds.values())
    length, width = bundle.program("text_encoder").methods["forward"].inputs[0].shape[1], bundle.model.text_dim
    assert taken.border_bytes == 4 * (
        length * width + length + 2 * width
    )  # rows that were looked up, their mask, a row at each end


# ---- proof -----------------------------------------------------------------------------------------------------------------------


def test_every_file_was_run_before_the_bundle_had_its_name(bundle_path: Path) -> None:
    """`export_small` does not verify: what is measured stands there from the export; an engine finds the same."""
    bundle = Bundle.open(bundle_path)
    measured = bundle.manifest.parity.measured
    assert list(measured) == PROGRAMS
    golden = read_golden(bundle)
    for name in ("audio_encoder", "denoise"):
        again = compare(golden, ExecuTorchEngine(bundle).run, [name])[name]
        assert again.psnr_db == pytest.approx(measured[name].psnr_db, abs=0.5)


def compiled_here(folder: Path) -> dict[str, Compiled]:
    names = ("audio_encoder", "image_encoder")
    return {name: compile_program(name, small_programs()[name], PRESETS["int8"], folder) for name in names}


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    compiled, golden = (
        compiled_here(tmp_path),
        record(small_model(), small_programs(), small_plan(), step_tables(small_model().dit, small_plan())),
    )
    demanded = thresholds_for({name: result.layers for name, result in compiled.items()}, "fp32")
    assert bundle_builder._prove_all(compiled, golden, demanded, 1, silent).keys() == compiled.keys()
    other = Golden({key: value * np.float32(0.9) for key, value in golden.tensors.items()}, golden.index)
    with pytest.raises(ExportError, match=r"audio_encoder was compiled, and the file does not compute what the model computes"):
        bundle_builder._prove_all(compiled, other, demanded, 1, silent)
    swapped = {"audio_encoder": compiled["image_encoder"]}
    with pytest.raises((ExportError, EngineError)):
        bundle_builder._prove_all(swapped, golden, demanded, 1, silent)
    with pytest.raises(ExportError, match=r"audio_encoder was not called in the full-precision run"):
        bundle_builder._prove_all(compiled, no_record(), demanded, 1, silent)


# ---- goldens ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads(bundle.path(GOLDEN_INDEX).read_text()))


def test_every_method_has_a_recorded_call(index: dict[str, Any]) -> None:
    recorded = {(program, method) for program, methods in index["programs"].items() for method in methods}
    assert recorded == {(program, method) for program, methods in small_programs().items() for method in methods}


def test_the_index_names_every_golden_array_and_no_other(index: dict[str, Any], bundle: Bundle) -> None:
    calls = [call for methods in index["programs"].values() for calls in methods.values() for call in calls]
    named = {key for call in calls for key in (*call["inputs"], *call["outputs"])} | set(index["clip"].values())
    assert named == set(bundle.read_tensors(GOLDEN))


def test_recorded_outputs_are_the_models(index: dict[str, Any], bundle: Bundle) -> None:
    tensors, engine = bundle.read_tensors(GOLDEN), small_engine()
    for program, methods in index["programs"].items():
        for method, calls in methods.items():
            for call in calls:
                outputs = engine.run(program, method, [tensors[key] for key in call["inputs"]])
                for key, output in zip(call["outputs"], outputs, strict=True):
                    np.testing.assert_allclose(output, tensors[key], rtol=0, atol=1e-4)


def test_the_recorded_clip_is_two_windows_long(index: dict[str, Any], bundle: Bundle) -> None:
    clip = {name: bundle.read_tensors(GOLDEN)[key] for name, key in index["clip"].items()}
    frames = 2 * CLIP.frames - 1
    assert clip["frames"].shape == (frames, CLIP.height, CLIP.width, 3)
    assert clip["latents"].shape == (16, 5, CLIP.latent_height, CLIP.latent_width)
    assert clip["speech"].shape == (frames * CLIP.samples_per_frame,)
    assert clip["portrait"].shape == (3, CLIP.height, CLIP.width)
    assert set(index["settings"]) == {"prompt", "seed", "mouth_box"}


def test_equal_arrays_are_kept_once() -> None:
    golden = Golden()
    keys = [golden.add(array) for array in (np.zeros(4), np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32))]
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(golden.tensors) == 3


# ---- other requests (the compiler stands aside) ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_builder, "_compile_all", stand_ins.compile_all_at_once)
    monkeypatch.setattr(bundle_builder, "_prove_all", stand_ins.believed)


@pytest.mark.usefixtures("quick")
def test_a_plan_that_reuses_features_gets_the_program_for_it(tmp_path: Path) -> None:
    plan = small_plan(replace(OPTIONS, steps=4, reuse=FeatureReuse(threshold=1e9, skip_first=1, max_distance=1e9)))
    manifest = export_bundle(replace(small_request(), plan=plan), tmp_path / "a.echoedge", no_record, silent)
    assert "denoise_reusing" in manifest.programs
    assert [spec.name for spec in manifest.programs["denoise"].methods["forward"].outputs] == ["velocity", "residual"]


@pytest.mark.usefixtures("quick")
def test_progress_is_told_stage_by_stage(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_bundle(small_request(), tmp_path / "a.echoedge", no_record, lambda *step: told.append(step))
    assert told == [
        ("plan", 0, 1), ("plan", 1, 1), ("reference", 0, 1), ("reference", 1, 1), ("programs", 0, 7), ("programs", 7, 7),
        ("proof", 7, 7),
    ]  # fmt: skip


# ---- an existing output ----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("quick")
def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    out.mkdir()
    worked: list[Any] = []
    with pytest.raises(OutputError, match=r"a\.echoedge exists\. Give another name or --force\."):
        export_bundle(small_request(), out, no_record, lambda *step: worked.append(step))
    assert worked == []
    assert contents(out) == []


@pytest.mark.usefixtures("quick")
def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    export_bundle(small_request(), out, no_record, silent)
    (out / "leftover").write_text("of the first one")
    export_bundle(small_request("fp32"), out, no_record, silent, force=True)
    assert Bundle.open(out).manifest.weights.name == "fp32"
    assert not (out / "leftover").exists()
    assert contents(tmp_path) == ["a.echoedge"]


@pytest.mark.usefixtures("quick")
def test_force_does_not_replace_another_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    with pytest.raises(OutputError, match=f"no {MANIFEST}"):
        export_bundle(small_request(), tmp_path / "photos", no_record, silent, force=True)
    assert contents(tmp_path / "photos") == ["a.jpg"]


# ---- interruptions and failures --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("moment", [("plan", 0, 1), ("reference", 0, 1), ("reference", 1, 1), ("programs", 7, 7), ("proof", 7, 7)])
def test_an_interruption_leaves_nothing(moment: tuple[str, int, int], tmp_path: Path) -> None:
    def interrupt(*step: Any) -> None:
        if step == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(small_request(), tmp_path / "a.echoedge", no_record, interrupt)
    assert contents(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_an_interruption_with_force_keeps_the_old_bundle(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    export_bundle(small_request(), out, no_record, silent)
    before = (out / MANIFEST).read_bytes()

    def fails(*_: Any) -> Golden:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(small_request("fp32"), out, fails, silent, force=True)
    assert contents(tmp_path) == ["a.echoedge"]
    assert (out / MANIFEST).read_bytes() == before
    Bundle.open(out)


def compiling_with(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real compiler processes, each of which runs `stand_in`."""
    monkeypatch.setattr(bundle_builder, "_compile", stand_in)
    monkeypatch.setattr(sys, "path", [*sys.path, str(REPO)])  # where a process finds the module of the stand-ins


def test_an_interruption_between_programs_ends_the_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling_with(stand_ins.compiled_at_once, monkeypatch)

    def interrupt(*step: Any) -> None:
        if step[:2] == ("programs", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(small_request(jobs=1), tmp_path / "a.echoedge", no_record, interrupt)
    assert contents(tmp_path) == []


def test_a_killed_compiler_is_a_sentence_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling_with(stand_ins.killed, monkeypatch)
    with pytest.raises(ExportError, match=r"compiler process was killed \(SIGKILL\), perhaps for memory\. .*--jobs 1"):
        export_bundle(small_request(jobs=1), tmp_path / "a.echoedge", no_record, silent)
    assert contents(tmp_path) == []


def test_a_compiler_that_crashes_is_not_taken_for_want_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling_with(stand_ins.crashes, monkeypatch)
    with pytest.raises(ExportError, match=r"compiler process crashed \(SIGSEGV\)") as found:
        export_bundle(small_request(jobs=2), tmp_path / "a.echoedge", no_record, silent)
    assert "memory" not in str(found.value)
    assert contents(tmp_path) == []


INTERRUPTED = """
import pickle, sys
sys.path.append(sys.argv[1])
from echoedge.runtime.export import nano as bundle_builder
from tests.targets import stand_ins
bundle_builder._compile = stand_ins.endless
if __name__ == "__main__":
    request = pickle.load(open(sys.argv[2], "rb"))
    golden = bundle_builder.Golden()
    golden.add(__import__("numpy").zeros(1))
    try:
        bundle_builder.export_bundle(request, sys.argv[3], lambda *_: golden, lambda *step: print(*step, flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_compiling_leaves_nothing_and_nobody(number: int, tmp_path: Path) -> None:
    """SIGINT goes to the whole group, as a terminal sends it; the others to the process alone, as a system sends them."""
    script, request, out = tmp_path / "script.py", tmp_path / "request", tmp_path / "out"
    script.write_text(INTERRUPTED)
    request.write_bytes(pickle.dumps(small_request(jobs=1)))
    command = [sys.executable, str(script), str(REPO), str(request), str(out / "a.echoedge")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("programs 0"):
            break
    time.sleep(1.0)
    assert contents(out)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number, complaint
    assert contents(out) == []
    assert left_alone(process.pid)


def left_alone(group: int, seconds: float = 10.0) -> bool:
    """Whether a process group is empty, at the latest after a while: Python's own resource tracker goes last."""
    for _ in range(round(seconds / 0.05)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_too_little_memory_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory", lambda *_: 100_000_000)
    with pytest.raises(ResourceError, match=r"GB of memory is needed for compiling, and 100 MB is available"):
        export_bundle(small_request(), tmp_path / "a.echoedge", record, silent)
    assert contents(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_reference_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails(*_: Any) -> Golden:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        export_bundle(small_request(), tmp_path / "a.echoedge", fails, silent)
    assert contents(tmp_path) == []
