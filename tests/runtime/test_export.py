"""runtime/export: what an export writes, whichever the target, and what an interrupted one leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echoedge.core import memory
from echoedge.core.bundle import CONDITION_PROGRAMS, MANIFEST, Bundle, FolderArtifact, PteFile
from echoedge.core.bundle.golden import GOLDEN, GOLDEN_INDEX, Golden, compare
from echoedge.core.bundle.reactions import Reactions
from echoedge.core.errors import ConfigError, EngineError, ExportError, OutputError, ResourceError
from echoedge.core.plan.samplers import FeatureReuse
from echoedge.core.versions import LIBRARIES, OPTIONAL, library_versions
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.executorch import ExecuTorchEngine
from echoedge.runtime.export import pipeline
from echoedge.runtime.export.compile import Compiled, prove
from echoedge.runtime.export.pack import STEP_TABLES
from echoedge.runtime.export.pipeline import export_bundle, jobs_of
from echoedge.runtime.export.record import Recorded
from echoedge.runtime.export.request import nano_request
from echoedge.runtime.registry import OTHER_ENGINES, REGISTRY
from echoedge.runtime.verify.parity import read_golden, verify
from echoedge.targets.bars import WEIGHT_BARS

from ..bundles import CLIP, HOLLOW, OPTIONS, SOURCE, TOY, small_engine, small_model, small_plan, small_programs, small_request
from ..inline import Inline, Kept

PROGRAMS = ["audio_encoder", "image_encoder", "text_encoder", "vae_encode", *CONDITION_PROGRAMS, "denoise", "vae_decode"]


def silent(*_: Any) -> None:
    pass


# ---- what a bundle holds ---------------------------------------------------------------------------------------------------------


def test_every_file_is_listed_and_hashed(bundle: Bundle) -> None:
    assert bundle.extra_files() == ()
    assert set(bundle.manifest.files) == {"plan.json", STEP_TABLES, GOLDEN, GOLDEN_INDEX}
    entries = {**bundle.manifest.files, **{program.path: program.artifact for program in bundle.manifest.programs.values()}}
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
    assert (manifest.model.preset, manifest.model.source_sha256) == ("tiny", SOURCE)
    assert (manifest.target.name, manifest.target.backend, manifest.target.precision) == ("executorch", "xnnpack", "fp32")
    assert bundle.model == small_model().config
    assert bundle.clip == CLIP
    assert manifest.versions == library_versions()
    assert set(LIBRARIES) <= set(manifest.versions) <= {*LIBRARIES, *OPTIONAL}


def test_the_recipe_and_what_each_program_got(bundle: Bundle) -> None:
    assert bundle.manifest.weights.name == "int8"
    assert bundle.program("vae_encode").layers == {}
    assert bundle.program("vae_decode").layers == {}  # so small a one has no residual blocks
    assert bundle.program("denoise").layers["fp32"] == 2  # head and patches
    assert bundle.program("denoise").layers["int8"] > 10
    assert bundle.program("patch_conditions").layers == {"fp32": 1}


def test_thresholds_are_each_programs_own(bundle: Bundle) -> None:
    """Nothing of this autoencoder is quantised: it is asked for what full precision is."""
    demanded = bundle.manifest.demanded
    exact = {"vae_encode", "vae_decode", "patch_conditions"}
    assert {name: demanded[name] for name in PROGRAMS} == {
        name: WEIGHT_BARS["fp32" if name in exact else "int8"] for name in PROGRAMS
    }
    assert demanded["latents"] == WEIGHT_BARS["int8"]


def test_what_a_player_needs_is_on_record(bundle: Bundle) -> None:
    playing, config = bundle.manifest.playing, small_model().config
    assert (playing.latent_channels, playing.mask_channels, playing.encode_unknown) == (16, 4, config.encode_unknown)
    assert (playing.text_length, playing.text_rows, playing.text_dim) == (config.text_len, config.text_len, config.text_dim)
    assert (playing.temporal_stride, playing.spatial_stride, playing.patch, playing.text_ids) == (4, 8, 2, "utf-8 bytes")
    assert (playing.decoders, playing.hearing.neighbours) == ({"full": "vae_decode"}, 2)


def test_programs_say_which_shape_they_are_of(bundle: Bundle) -> None:
    every = {name for name, program in bundle.manifest.programs.items() if program.clip is None}
    assert every == {"text_encoder", "text_conditions", "image_conditions"}
    assert {program.clip for name, program in bundle.manifest.programs.items() if name not in every} == {str(CLIP)}
    assert all(name == program.role and isinstance(program.artifact, PteFile) for name, program in bundle.manifest.programs.items())


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


@pytest.mark.parametrize("name", ["denoise", *CONDITION_PROGRAMS, "audio_encoder", "image_encoder"])
def test_a_program_is_one_delegate_and_nothing_else(name: str, bundle: Bundle) -> None:
    taken = bundle.program(name).placement["forward"]
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
    taken = bundle.program("text_encoder").placement["forward"]
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
    golden = read_golden(bundle)
    assert all(program.measured is not None for program in bundle.manifest.programs.values())
    for name in ("audio_encoder", "denoise"):
        again, measured = compare(golden, ExecuTorchEngine(bundle).run, [name])[name], bundle.program(name).measured
        assert measured is not None
        assert again.psnr_db == pytest.approx(measured.psnr_db, abs=0.5)


def compiled_in(bundle: Bundle, name: str) -> Compiled:
    """A program of a bundle, as the job that compiled it would tell of it."""
    program = bundle.program(name)
    return Compiled(
        label=name, role=name, clip=program.clip, kind="pte", path=program.path, data=None, prefix="", placement=program.placement,
        layers=program.layers, methods=program.methods,
    )  # fmt: skip


def recorded_in(folder: Path, golden: Golden) -> Recorded:
    from safetensors.numpy import save_file

    save_file(golden.tensors, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(golden.index))
    return Recorded(golden=str(folder / "golden"))


def test_a_file_that_computes_something_else_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    request, golden, compiled = small_request(), read_golden(bundle), compiled_in(bundle, "audio_encoder")
    proof = prove(request, bundle.root, compiled, recorded_in(tmp_path, golden), role="audio_encoder")
    assert proof.figures == bundle.program("audio_encoder").measured
    other = Golden({key: value * np.float32(0.9) for key, value in golden.tensors.items()}, golden.index)
    with pytest.raises(ExportError, match=r"audio_encoder was compiled, and the file does not compute what the model computes"):
        prove(request, bundle.root, compiled, recorded_in(tmp_path, other), role="audio_encoder")
    swapped = compiled.model_copy(update={"path": bundle.program("image_encoder").path})
    with pytest.raises((ExportError, EngineError)):
        prove(request, bundle.root, swapped, recorded_in(tmp_path, golden), role="audio_encoder")
    with pytest.raises(ExportError, match=r"audio_encoder was not called in the full-precision run"):
        prove(request, bundle.root, compiled, recorded_in(tmp_path, golden.of("image_encoder")), role="audio_encoder")


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
    tensors = bundle.read_tensors(GOLDEN)
    reactions = Reactions.of(index, tensors)
    assert reactions is not None
    assert named | {*reactions.keys} == set(tensors)


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


# ---- another target: its folder, its engine, one line in the registry ------------------------------------------------------------


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small model as torch.export files, made by the stages of every export."""
    path = tmp_path_factory.mktemp("toy") / "toy.echoedge"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "toy", TOY)
        patch.setattr(pipeline, "JobRunner", Inline)
        export_bundle(small_request("fp32", "toy"), path)
    return Bundle.open(path)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "toy", TOY)


@pytest.mark.usefixtures("registered")
def test_a_second_target_needs_a_folder_an_engine_and_a_line(toy_bundle: Bundle) -> None:
    manifest = toy_bundle.manifest
    assert manifest.target.name == "toy"
    assert list(manifest.programs) == PROGRAMS
    assert all(isinstance(program.artifact, FolderArtifact) for program in manifest.programs.values())
    assert toy_bundle.path("programs/vae_decode").is_dir()
    verdict = verify(toy_bundle, open_engine(toy_bundle))
    assert verdict.passed
    assert verdict.complete
    assert open_engine(toy_bundle).name == "toy"


def test_without_its_line_nothing_plays_it(toy_bundle: Bundle) -> None:
    listed = ", ".join((*REGISTRY, *OTHER_ENGINES, "torch"))
    with pytest.raises(EngineError, match=rf"There is no engine 'toy' here\. Choose from: auto, {listed}\."):
        open_engine(toy_bundle)
    with pytest.raises(ConfigError, match=r"target is 'toy'\. Choose from: executorch"):
        small_request("fp32", "toy")


@pytest.mark.usefixtures("registered")
def test_what_a_target_refuses_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match=r"The toy target takes fp32 weights, not int8\."):
        small_request("int8", "toy")
    for name in ("pal6", "pal4"):
        with pytest.raises(ConfigError, match=rf"The backend XNNPACK takes fp32 and int8 and int4 weights, not {name}\."):
            nano_request(name)
        with pytest.raises(ConfigError, match=rf"ONNX Runtime multiplies with integers, not .* as {name}\. Choose int8 or int4\."):
            nano_request(name, target="onnx")
    with pytest.raises(ConfigError, match=r"The toy target has no option 'layout'\."):
        nano_request("fp32", target="toy", options={"layout": "one"})
    with pytest.raises(ConfigError, match=r"an option of ExecuTorch is 'colour'\. Choose from: backend, layout, way, products"):
        nano_request("fp32", options={"colour": "red"})


def test_convolutions_of_8_bits_go_where_a_target_has_them(tmp_path: Path) -> None:
    assert nano_request("int8").recipe == PRESETS["int8"]
    assert nano_request("int8").recipe.rounds_convolutions
    for target in ("onnx", "coreml", "coreai"):
        assert nano_request("int8", target=target).recipe == PRESETS["int8"].without_convolutions()  # presets are for every target
    path = tmp_path / "mine.json"
    rules = (Rule(layers="convolution", programs="vae_decode", weights="int8"),)
    path.write_text(WeightRecipe(name="mine", rules=rules).model_dump_json())
    assert nano_request(str(path)).recipe.rules == rules
    for target in ("onnx", "coreml", "coreai"):
        with pytest.raises(
            ConfigError,
            match=rf"^Target {target} rounds linear layers alone; convolutions stay in float\. "
            r"Take the rules for convolutions out of the recipe 'mine'\.$",
        ):
            nano_request(str(path), target=target)


# ---- other requests (the compiler stands aside) ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "JobRunner", Inline)
    monkeypatch.setitem(REGISTRY, "hollow", HOLLOW)


def hollow_request(**changes: Any) -> Any:
    return replace(small_request("int8", "hollow"), **changes)


@pytest.mark.usefixtures("quick")
def test_a_plan_that_reuses_features_gets_the_program_for_it(tmp_path: Path) -> None:
    plan = small_plan(replace(OPTIONS, steps=4, reuse=FeatureReuse(threshold=1e9, skip_first=1, max_distance=1e9)))
    manifest = export_bundle(hollow_request(plan=plan), tmp_path / "a.echoedge")
    assert "denoise_reusing" in manifest.programs
    assert [spec.name for spec in manifest.programs["denoise"].methods["forward"].outputs] == ["velocity", "residual"]


@pytest.mark.usefixtures("quick")
def test_what_was_not_executed_is_said_to_be_so(tmp_path: Path) -> None:
    manifest = export_bundle(hollow_request(), tmp_path / "a.echoedge")
    assert {program.measured for program in manifest.programs.values()} == {None}
    assert all(program.demanded is not None for program in manifest.programs.values())


@pytest.mark.usefixtures("quick")
def test_progress_is_told_stage_by_stage(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    export_bundle(hollow_request(), tmp_path / "a.echoedge", progress=lambda *step: told.append(step))
    assert told[:3] == [("reference", 0, 1), ("programs", 0, 10), ("proof", 0, 10)]
    assert told[-3:] == [("reference", 1, 1), ("programs", 10, 10), ("proof", 10, 10)]
    done = [step for step in told if step[0] == "proof"]
    assert done == sorted(done)


def test_stages_wait_for_what_they_read() -> None:
    jobs, parts = jobs_of(small_request())
    by_name = {job.name: job for job in jobs}
    assert [job.name for job in by_name["proof of denoise"].after] == ["compile denoise", "reference"]
    assert by_name["compile denoise"].after == ()
    fitted, _ = jobs_of(replace(small_request(), recipe=PRESETS["mixed"]))
    waiting = {job.name for job in fitted if any(before.name == "calibration" for before in job.after)}
    assert waiting == {"compile denoise", *(f"compile {name}" for name in CONDITION_PROGRAMS)}
    assert set(parts.compiled) == set(parts.proofs) == set(PROGRAMS)


# ---- an existing output ----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("quick")
def test_an_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    out.mkdir()
    worked: list[Any] = []
    with pytest.raises(OutputError, match=r"a\.echoedge exists\. Give another name or --force\."):
        export_bundle(hollow_request(), out, progress=lambda *step: worked.append(step))
    assert worked == []
    assert contents(out) == []


@pytest.mark.usefixtures("quick")
def test_force_replaces_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    export_bundle(hollow_request(), out)
    (out / "leftover").write_text("of the first one")
    export_bundle(hollow_request(recipe=PRESETS["fp32"]), out, force=True)
    assert Bundle.open(out).manifest.weights.name == "fp32"
    assert not (out / "leftover").exists()
    assert contents(tmp_path) == ["a.echoedge"]


@pytest.mark.usefixtures("quick")
def test_force_does_not_replace_another_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    with pytest.raises(OutputError, match=f"no {MANIFEST}"):
        export_bundle(hollow_request(), tmp_path / "photos", force=True)
    assert contents(tmp_path / "photos") == ["a.jpg"]


# ---- interruptions and failures: how processes end is tests/runtime/test_jobs.py's to show ---------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("moment", [("reference", 0, 1), ("reference", 1, 1), ("programs", 10, 10), ("proof", 10, 10)])
def test_an_interrupted_export_goes_on_where_it_was(
    moment: tuple[str, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ran = tmp_path / "a.echoedge", []  # type: ignore[var-annotated]

    def interrupt(*step: Any) -> None:
        if step == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(hollow_request(), out, progress=interrupt)
    assert contents(tmp_path) == [".a.echoedge.work"]  # no bundle; `echoedge doctor --clean` deletes the work
    done = {path.name for path in (tmp_path / ".a.echoedge.work").glob("*.done.json")}

    class Telling(Inline):
        def run(self, jobs: Sequence[Any], request: Any, progress: Any) -> dict[str, Any]:
            ran.extend(job.name for job in jobs if self.finished(job) is None)
            return super().run(jobs, request, progress)

    monkeypatch.setattr(pipeline, "JobRunner", Telling)
    export_bundle(hollow_request(), out)
    assert len(ran) == len(jobs_of(hollow_request())[0]) - len(done)
    assert contents(tmp_path) == ["a.echoedge"]
    Bundle.open(out)


@pytest.mark.usefixtures("quick")
def test_another_request_does_not_go_on_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "JobRunner", Kept)
    out = tmp_path / "a.echoedge"
    export_bundle(hollow_request(), out)
    before = (tmp_path / ".a.echoedge.work" / "request").read_text()
    export_bundle(hollow_request(recipe=PRESETS["fp32"]), out, force=True)
    assert (tmp_path / ".a.echoedge.work" / "request").read_text() != before


@pytest.mark.usefixtures("quick")
def test_an_interruption_with_force_keeps_the_old_bundle(tmp_path: Path) -> None:
    out = tmp_path / "a.echoedge"
    export_bundle(hollow_request(), out)
    before = (out / MANIFEST).read_bytes()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(hollow_request(recipe=PRESETS["fp32"]), out, force=True, progress=interrupt)
    assert (out / MANIFEST).read_bytes() == before
    Bundle.open(out)


def test_too_little_memory_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda *_: 100_000_000)
    with pytest.raises(ResourceError, match=r"55. MB of memory is needed for reference, and 100 MB is available"):
        export_bundle(small_request(), tmp_path / "a.echoedge")
    assert not (tmp_path / "a.echoedge").exists()
