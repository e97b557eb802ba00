"""runtime/export on a checkpoint: it becomes a bundle that equals it; what computes something else is refused.

Jobs run in this process here; that they run in processes of their own is test_jobs.py's to show.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle import CONDITION_PROGRAMS, Bundle, Figures, Hearing, shaped_name
from echoedge.core.bundle.agreement import falls_short, figures
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import CheckpointError, ConfigError, EngineError, ExportError, OutputError, ResourceError
from echoedge.core.files import file_sha256, folder_bytes
from echoedge.core.plan import WindowRule
from echoedge.core.plan.samplers import NEGATIVE_PROMPT, PLAN_PRESETS, build_plan
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.source import CheckpointSource, unit
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.around import Around
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.export import pipeline
from echoedge.runtime.export import request as module
from echoedge.runtime.export.compile import Proof, compile_one, compile_together, prove
from echoedge.runtime.export.forecast import PROGRAM_BYTES, disk_needed, needs
from echoedge.runtime.export.jobs import Done, Job, JobRunner, record_path
from echoedge.runtime.export.pipeline import export_bundle, jobs_of, work_folder
from echoedge.runtime.export.record import fitting_of, record_decoders, record_encoders, record_step
from echoedge.runtime.export.request import ExportRequest
from echoedge.runtime.play.material import Material, demo_material
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.play.reference import Reference, Settings
from echoedge.runtime.verify.parity import NO_CLIP, read_golden, verify
from echoedge.targets.bars import WEIGHT_BARS, bar
from echoedge.targets.executorch.backends import BACKENDS
from echoedge.targets.executorch.blockwise import DenoiseOfParts, TransformerParts, quantised_step
from echoedge.targets.executorch.data_files import merge_data
from echoedge.targets.executorch.half_products import multiplies_bfloat16
from echoedge.targets.executorch.program_file import ProgramFile
from echoedge.targets.executorch.target import ExecuTorch

from ..core.tiny_checkpoint import playable_sizes
from ..inline import Inline, Kept

NAMES = {"audio_encoder", "image_encoder", "vae_encode", *CONDITION_PROGRAMS, "denoise", "tiny_decode"}
EVERY = {"text_conditions", "image_conditions"}  # of every shape
PROMPT = "a woman talks"
CLIP, OTHER = ClipSpec(32, 48, 9), ClipSpec(32, 32, 9)


def silent(*_: object) -> None:
    """No progress."""


def request_for(
    folder: Path, variant: Variant = "flash", recipe: WeightRecipe = PRESETS["int8"], options: Any = None, **changes: Any
) -> ExportRequest:
    sizes, generator = playable_sizes(variant), np.random.default_rng(0)
    clips = changes.get("clips", (CLIP,))
    given: dict[str, Any] = {
        "clips": clips, "text_rows": 8, "plan": build_plan(replace(PLAN_PRESETS[variant], steps=2)), "decoders": ("full", "tiny"),
        "prompts": {PROMPT: generator.standard_normal((5, sizes.transformer.text_dim), np.float32)},
        "materials": tuple(
            Material(
                generator.uniform(-1, 1, (3, clip.height, clip.width)).astype(np.float32),
                (0.1 * generator.standard_normal(clip.frames * clip.samples_per_frame)).astype(np.float32),
            )
            for clip in clips
        ),
    }  # fmt: skip
    given |= {"other": demo_material(given["clips"][0], whole=False, number=1)}
    chosen = ExecuTorch().options(**(options or {}))
    return ExportRequest(source=CheckpointSource(str(folder), variant, sizes), recipe=recipe, options=chosen, **given | changes)


Made = tuple[ExportRequest, Path, Bundle]


@pytest.fixture(scope="module")
def made(folders: dict[Variant, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A request of two shapes of preview, its work folder and its bundle, in full precision; without the full decoder, which takes
    half a minute to compile even at toy width."""
    folder, width = tmp_path_factory.mktemp("released"), playable_sizes("preview").transformer.text_dim
    options = replace(PLAN_PRESETS["preview"], steps=2, window=WindowRule(length=CLIP.latent_frames, overlap=1))
    generator = np.random.default_rng(4)
    prompts = {text: generator.standard_normal((5, width), np.float32) for text in (PROMPT, NEGATIVE_PROMPT)}
    changes = {"clips": (CLIP, OTHER), "plan": build_plan(options), "prompts": prompts, "decoders": ("tiny",)}
    request = request_for(folders["preview"], "preview", PRESETS["fp32"], **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "JobRunner", Kept)
        export_bundle(request, folder / "preview.echoedge")
    return request, folder / ".preview.echoedge.work", Bundle.open(folder / "preview.echoedge")


def records(request: ExportRequest, folder: Path) -> dict[str, Any]:
    """What the jobs have written down, by name."""
    runner = Inline(folder, "")
    return {job.name: done.result for job in jobs_of(request)[0] if (done := runner.finished(job)) is not None}


def proven(request: ExportRequest, folder: Path, role: str, shape: int = 0) -> Proof:
    """A unit's proof, from the records of the other jobs."""
    found, (jobs, _) = records(request, folder), jobs_of(request)
    job = next(job for job in jobs if job.name == f"proof of {request.label(role, shape)}")
    proof: Any = job.work(request, folder, *(found[before.name] for before in job.after))
    return proof


def test_the_bundle_has_every_program(made: Made) -> None:
    _, _, bundle = made
    names = NAMES | {shaped_name(name, OTHER) for name in NAMES - EVERY}
    assert set(bundle.manifest.programs) == names
    assert bundle.extra_files() == ()
    assert set(bundle.manifest.demanded) == names | {"latents", "frames"}
    for name, program in bundle.manifest.programs.items():
        assert program.measured is not None
        assert program.clip == (None if name in EVERY else str(OTHER if name.endswith(str(OTHER)) else CLIP))
        assert all(taken.flops_share == 1.0 for taken in program.placement.values())


def test_the_bundle_verifies_itself(made: Made) -> None:
    _, _, bundle = made
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed, verdict.to_dict()
    assert not verdict.complete
    assert {row.name for row in verdict.rows if row.unjudged == NO_CLIP} == {"latents", "frames"}
    assert {row.name for row in verdict.rows} - {"latents", "frames"} == set(bundle.manifest.programs)
    assert verdict.lipsync.unjudged == NO_CLIP
    assert all(each.passed for each in verdict.reactions), verdict.reactions


def test_it_plays(made: Made) -> None:
    request, _, bundle = made
    for shape, clip in enumerate(request.clips):
        player = Player(PlayerConfig.of(bundle, clip), open_engine(bundle, "auto", clip))
        assert player.decoder == "tiny_decode"
        material = request.materials[shape]
        frames = np.stack(list(player.frames_of(player.generate(material.portrait, material.speech, PROMPT, 0))))
        assert frames.shape == (clip.frames, clip.height, clip.width, 3)


@pytest.mark.parametrize("shape", [0, 1])
def test_a_file_that_computes_something_else_is_refused(shape: int, made: Made, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    request, work, _ = made
    folder = tmp_path / "work"
    shutil.copytree(work, folder)
    label = request.label("tiny_decode", shape)
    assert (proven(request, folder, "tiny_decode", shape).figures or Figures()).psnr_db > 80  # type: ignore[operator]
    path = folder / f"golden-decoders-{request.clips[shape]}.safetensors"
    save_file({key: value * np.float32(0.9) for key, value in load_file(path).items()}, path)
    with pytest.raises(ExportError, match=rf"{label} was compiled, and the file does not compute what the model computes: .* dB"):
        proven(request, folder, "tiny_decode", shape)


def test_proofs_run_the_data_file_that_ships(made: Made, tmp_path: Path) -> None:
    """Every shape's: weights that are damaged in the merged file alone are noticed, though each compiled one is whole."""
    request, work, bundle = made
    folder = tmp_path / "work"
    shutil.copytree(work, folder)
    merged = folder / records(request, folder)["data of image_encoder"].path
    assert file_sha256(merged) == file_sha256(bundle.path("programs/image_encoder.ptd"))
    for shape in range(2):
        assert (proven(request, folder, "image_encoder", shape).figures or Figures()).psnr_db > 40  # type: ignore[operator]
    data = bytearray(merged.read_bytes())
    data[len(data) // 2 :] = bytes(byte ^ 0x15 for byte in data[len(data) // 2 :])
    merged.write_bytes(data)
    for shape in range(2):
        with pytest.raises(ExportError, match="image_encoder.* was compiled, and the file does not compute"):
            proven(request, folder, "image_encoder", shape)


def test_no_goldens_are_another_shapes(made: Made) -> None:
    _, _, bundle = made
    index = read_golden(bundle).index["programs"]
    for name, methods in index.items():
        sources = [source for calls in methods.values() for call in calls for source in call["inputs"] if isinstance(source, dict)]
        made_for = {source["program"].endswith("-32x32x9") for source in sources if source["program"] not in EVERY}
        assert made_for <= {name.endswith("-32x32x9")}
    assert any(isinstance(source, dict) for source in index["denoise-32x32x9"]["forward"][0]["inputs"])


def test_a_kill_before_the_record_loses_no_weights(made: Made, tmp_path: Path) -> None:
    """The job has written program and data, and is killed before its record; also in the middle of writing."""
    request, work, _ = made
    folder = tmp_path / "work"
    shutil.copytree(work, folder)
    name = "tiny_decode-32x32x9"
    for half in (False, True):
        if half:
            for path in (folder / f"compiled-{name}").iterdir():
                path.write_bytes(path.read_bytes()[:100])
        for each in (f"compile {name}", "data of tiny_decode", f"proof of {name}"):
            record_path(folder, each).unlink()
        done = Inline(folder, "").run(jobs_of(request)[0], request, silent)
        record = done[f"compile {name}"].result
        assert Path(record.data).parent == Path(record.path).parent == Path(f"compiled-{name}")
        assert (folder / record.data).stat().st_size > 10_000
        assert done[f"proof of {name}"].result.figures.psnr_db > 80


def test_each_shape_is_looked_after_in_memory(folders: dict[Variant, Path]) -> None:
    request = request_for(folders["flash"], clips=(CLIP, OTHER), decoders=("tiny",))
    jobs = {job.name: job for job in jobs_of(request)[0]}
    for shape in range(2):
        need = needs(request, shape)
        for role in ("denoise", "vae_encode"):
            assert jobs[f"proof of {request.label(role, shape)}"].need == need[f"proof of {role}"]
        assert jobs[request.label("reference of the decoders", shape)].need == need["reference of the decoders"]
    assert jobs["proof of vae_encode"].need.total > jobs["proof of vae_encode-32x32x9"].need.total
    for job in jobs.values():
        role = job.name.removeprefix("proof of ").removesuffix("-32x32x9")
        if job.name.startswith("proof of ") and role not in EVERY:  # every shape is proven, after the merged data
            assert f"data of {role}" in [before.name for before in job.after]
    assert not any(name.startswith(("compile text_conditions-", "data of text_conditions")) for name in jobs)  # once for all


def test_the_disk_is_looked_at_before_anything_runs(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, work, bundle = made
    taken, forecast = folder_bytes(work) + folder_bytes(bundle.root), disk_needed(request)
    assert taken <= forecast < taken + 80 * PROGRAM_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=forecast - 1))
    with pytest.raises(ResourceError, match=r"of disk is needed for .*\.b\.echoedge\.work"):
        export_bundle(request, tmp_path / "b.echoedge")
    assert not list(tmp_path.iterdir())


def test_names_of_work_folders_are_distinct() -> None:
    names = ["flash.v1.echoedge", "flash.v2.echoedge", "flash.v1", "flash"]
    assert len({work_folder(Path(name)) for name in names}) == len(names)
    assert work_folder(Path("flash")).name == ".flash.work"


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
def test_bfloat16_products_meet_their_own_bar(folders: dict[Variant, Path], tmp_path: Path) -> None:
    """Weights in full precision: asked for what they allow, the program would fail for its products alone."""
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], decoders=("tiny",), options={"products": "bf16"})
    compiled, recorded = compile_one(request, tmp_path, role="image_encoder", shape=0), record_encoders(request, tmp_path)
    found = prove(request, tmp_path, compiled, recorded, role="image_encoder").figures
    assert found is not None
    assert falls_short(found, bar("image_encoder", compiled.layers, "fp32"))
    with pytest.raises(ExportError, match=r"90\.0 dB and 0\.999999 are demanded"):
        prove(replace(request, options=ExecuTorch().options()), tmp_path, compiled, recorded, role="image_encoder")


def test_only_one_program_is_loaded_where_memory_is_short(made: Made) -> None:
    from echoedge.runtime.engines.executorch import ExecuTorchEngine

    _, _, bundle = made
    names = ["image_encoder", "audio_encoder"]
    for keep, loaded in ((0, 1), (1 << 40, 2)):
        engine = ExecuTorchEngine(bundle, keep_bytes=keep)
        for name in names:
            specs = bundle.program(name).methods["forward"].inputs
            engine.run(name, "forward", [np.zeros(spec.shape, spec.dtype) for spec in specs])
        assert len(engine.loaded) == loaded


def test_shapes_share_weights(made: Made, tmp_path: Path) -> None:
    request, work, _ = made
    found = records(request, work)
    one, other, stranger = (found[f"compile {name}"] for name in ("tiny_decode", "tiny_decode-32x32x9", "image_encoder"))
    files = [work / record.data for record in (one, other)]
    merged = tmp_path / "tiny_decode.ptd"
    merge_data(files, merged)
    assert merged.stat().st_size < 1.1 * files[0].stat().st_size
    for record, own in zip((one, other), files, strict=True):
        inputs = [np.random.default_rng(3).standard_normal(spec.shape, np.float32) for spec in record.methods["first"].inputs]
        alone = ProgramFile(work / record.path, own).run("first", inputs)[0]
        np.testing.assert_array_equal(ProgramFile(work / record.path, merged).run("first", inputs)[0], alone)
    with pytest.raises(EngineError):  # other weights: their names are not found
        ProgramFile(work / one.path, work / stranger.data).run("first", inputs)


def test_one_file_holds_several_programs(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, for the time that compiling takes; of preview, whose audio tokens are cut another way."""
    monkeypatch.setattr(module, "roles_of", lambda *_: ("audio_conditions", "tiny_decode"))
    request = request_for(folders["preview"], "preview", options={"layout": "one"}, decoders=("tiny",))
    encoders, together = record_encoders(request, tmp_path), compile_together(request, tmp_path)
    assert {unit.path for unit in together.units.values()} == {"model.pte"}
    assert [unit.prefix for unit in together.units.values()] == ["audio_conditions.", "tiny_decode."]
    monkeypatch.undo()
    monkeypatch.setattr(module, "roles_of", lambda *_: request.roles)
    recorded = {"audio_conditions": record_step(request, tmp_path, encoders), "tiny_decode": record_decoders(request, tmp_path)}
    for role, record in recorded.items():
        found = prove(request, tmp_path, together, record, role=role).figures
        assert found is not None and found.psnr_db is not None and found.psnr_db > 40


def test_fitted_roundings_get_what_the_blocks_get(folders: dict[Variant, Path], tmp_path: Path) -> None:
    recipe = WeightRecipe(name="fitted", rules=(Rule(programs="denoise", modules="*blocks*", weights="int8", rounding="gptq"),))
    request = request_for(folders["flash"], recipe=recipe)
    waits = next(job for job in jobs_of(request)[0] if job.name == "compile denoise").after
    assert [job.name for job in waits] == ["reference of the step"]
    recorded = record_step(request, tmp_path, record_encoders(request, tmp_path))
    made = unit(request.source, "denoise", CLIP, request.making)

    def step(samples: Any) -> DenoiseOfParts:
        return quantised_step(TransformerParts(made, recipe, BACKENDS["xnnpack"], samples=samples))

    calls = fitting_of(request, tmp_path, recorded, "denoise").of_block
    assert [len(calls(index)) for index in range(2)] == [2, 2]
    assert len(step(calls).blocks) == 2
    with pytest.raises(ConfigError, match="calibration samples"):
        step(lambda _: ())


def test_other_backends_are_lowered_and_looked_at(folders: dict[Variant, Path], tmp_path: Path) -> None:
    options = {"backend": "vulkan"}
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], options=options, decoders=("tiny",))
    compiled = compile_one(request, tmp_path, role="image_encoder", shape=0)
    proof = prove(request, tmp_path, compiled, record_encoders(request, tmp_path), role="image_encoder")
    assert (proof.figures, proof.pieces) == (None, 1)
    target = ExecuTorch()
    with pytest.raises(ExportError, match="has delegates of VulkanBackend, not of XnnpackBackend alone"):
        target.check(compiled.built(tmp_path), target.options())


@pytest.mark.parametrize("name", ["coreml", "mps"])
def test_norms_and_attention_go_whole_to_apples_backends(name: str, folders: dict[Variant, Path], tmp_path: Path) -> None:
    if name == "coreml":
        pytest.importorskip("coremltools")
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], options={"backend": name}, decoders=("tiny",))
    compiled = compile_one(request, tmp_path, role="image_conditions", shape=0)
    assert not compiled.placement["forward"].other_ops
    assert request.compiler.check(compiled.built(tmp_path), request.options) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoders": ("big",)}, "decoder is 'big'. Choose from: full, tiny"),
        ({"options": {"layout": "both"}}, "layout is 'both'"),
        ({"clips": (CLIP, CLIP)}, "every decoder and clip shape once"),
        ({"decoders": ("full", "full")}, "every decoder and clip shape once"),
        ({"options": {"layout": "one"}, "clips": (CLIP, OTHER)}, "One file holds the programs of one clip shape"),
        ({"options": {"backend": "vulkan"}}, "Vulkan takes fp32 weights, not int8"),
        ({"materials": ()}, "There are 0 materials for 1 clip shapes"),
        ({"materials": (Material(np.zeros((3, 32, 32), np.float32), np.zeros(5760, np.float32)),)}, r"A portrait is \(3, 32, 32\)"),
        ({"context_seconds": 31.0}, "context_seconds is 31.0"),
        ({"recipe": PRESETS["mixed"], "options": {"backend": "vulkan"}}, "Vulkan takes fp32 weights"),
        ({"options": {"backend": "webgpu"}}, "backend is 'webgpu'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, folders: dict[Variant, Path]) -> None:
    with pytest.raises(ConfigError, match=message):
        request_for(folders["flash"], **changes)


def test_a_missing_component_is_refused_first(folders: dict[Variant, Path], tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    shutil.copytree(folders["flash"], folder)
    next(folder.rglob("taew2_1.*")).unlink()
    with pytest.raises(CheckpointError, match="no tiny_vae"):
        export_bundle(request_for(folder), tmp_path / "b.echoedge")
    assert not (tmp_path / "b.echoedge").exists()


def test_what_a_kill_leaves_is_the_work_folder(
    folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    class Watched(JobRunner):
        def run(self, jobs: Sequence[Job], request: Any, progress: Any) -> dict[str, Done]:
            seen.append(sorted(path.name for path in tmp_path.iterdir()))
            raise ExportError("stopped")

    monkeypatch.setattr(pipeline, "JobRunner", Watched)
    request, out = request_for(folders["flash"]), tmp_path / "b.echoedge"
    with pytest.raises(ExportError, match="stopped"):
        export_bundle(request, out)
    assert set(seen.pop()) <= {".b.echoedge.work"}
    out.mkdir()
    (out / "letter").touch()  # what a bundle may not replace is refused before anything runs
    for force, message in ((False, "exists"), (True, "has no manifest.json")):
        with pytest.raises(OutputError, match=message):
            export_bundle(request, out, force=force)
    assert not seen


# ---- over several windows --------------------------------------------------------------------------------------------------------

FRAMES = 25  # three windows of nine frames that share a latent frame
FP32_DB = WEIGHT_BARS["fp32"].psnr_db or 0.0


class Altered(Around):
    """An engine whose `program` is given changed inputs."""

    def __init__(self, engine: Engine, program: str, change: Callable[[list[Array]], list[Array]]) -> None:
        super().__init__(engine)
        self.program, self.change = program, change

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return self.engine.run(program, method, self.change([*inputs]) if program == self.program else inputs)


def voice(frames: int = FRAMES) -> np.ndarray:
    count = np.arange(frames * CLIP.samples_per_frame)
    return (0.2 * np.random.default_rng(2).standard_normal(len(count)) * np.abs(np.sin(count / 900))).astype(np.float32)


def played(wanted: ExportRequest, bundle: Bundle, engine: Engine, config: PlayerConfig | None = None) -> np.ndarray:
    return Player(config or PlayerConfig.of(bundle), engine).generate(wanted.materials[0].portrait, voice(), PROMPT, 3).latents


def test_three_windows_are_those_of_the_reference(made: Made, folders: dict[Variant, Path]) -> None:
    wanted, _, bundle = made
    clip = replace(CLIP, frames=FRAMES)
    settings = Settings(steps=2, window=CLIP.frames, overlap=1, seed=3)
    sizes = playable_sizes("preview")
    reference = Reference(Checkpoint.open(folders["preview"]), clip, settings, sizes, dict(wanted.prompts))
    expected = reference.player.generate(wanted.materials[0].portrait, voice(), PROMPT, 3).latents
    assert expected.shape[1] == 7
    latents = played(wanted, bundle, open_engine(bundle))
    found = figures(expected, latents)
    assert found.psnr_db is not None and found.psnr_db > FP32_DB, found  # measured: 138 dB

    def deaf(inputs: list[Array]) -> list[Array]:
        """The first layer's statistics are another voice's."""
        return [inputs[0], 0.5 * inputs[1], inputs[2]]

    def cut(inputs: list[Array]) -> list[Array]:
        """No window hears beyond its last frame."""
        return [inputs[0], np.where(np.arange(inputs[1].shape[1]) < 2 * CLIP.frames, inputs[1], 0)]

    for program, change in (("audio_encoder", deaf), ("audio_conditions", cut)):
        altered = Altered(open_engine(bundle), program, change)
        assert figures(expected, played(wanted, bundle, altered)).psnr_db < FP32_DB  # type: ignore[operator]


def test_frames_come_of_every_window(made: Made) -> None:
    wanted, _, bundle = made
    player = Player(PlayerConfig.of(bundle), open_engine(bundle))
    frames = np.stack(list(player.frames_of(player.generate(wanted.materials[0].portrait, voice(), PROMPT, 3))))
    assert frames.shape == (FRAMES, CLIP.height, CLIP.width, 3)
    assert frames.std() > 1


def test_the_bundle_says_how_it_hears_and_what_it_stays_away_from(made: Made) -> None:
    _, _, bundle = made
    hearing, plan = bundle.manifest.playing.hearing, bundle.plan()
    assert hearing.window == (10, 5)
    assert (hearing.rows_per_frame, hearing.beyond_frames, hearing.tail_frames) == (2, 3, 1)
    assert plan.texts == {"negative": NEGATIVE_PROMPT}


def test_a_program_that_wants_the_whole_voice_is_not_given_less(made: Made) -> None:
    wanted, _, bundle = made
    config = PlayerConfig.of(bundle)
    plain = replace(config, playing=config.playing.model_copy(update={"hearing": Hearing()}))
    with pytest.raises(EngineError, match="audio_encoder.forward takes 3 inputs"):
        played(wanted, bundle, open_engine(bundle), plain)
