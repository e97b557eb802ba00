"""runtime/export/released.py: a checkpoint becomes a bundle that equals it; what computes something else is refused.

Tasks run in this process here (`inline`); that they run in processes of their own is test_jobs.py's to show.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from echoedge.core.bundle import Bundle, Figures, Hearing, shaped_name
from echoedge.core.config import ClipSpec, Variant
from echoedge.core.errors import CheckpointError, ConfigError, EngineError, ExportError, OutputError, ResourceError
from echoedge.core.files import file_sha256, folder_bytes
from echoedge.core.metrics.agreement import falls_short, figures
from echoedge.core.plan import WindowRule
from echoedge.core.plan.samplers import NEGATIVE_PROMPT, PLAN_PRESETS, build_plan
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.streamed import stream_transformer
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.export import released
from echoedge.runtime.export.forecast import PROGRAM_BYTES, needs
from echoedge.runtime.export.jobs import Done, Task, Workshop, record_path
from echoedge.runtime.export.released import ReleasedExport, export_released, merge_data, prove, tasks_of
from echoedge.runtime.play.player import Player, PlayerConfig
from echoedge.runtime.play.reference import Reference, Settings
from echoedge.runtime.verify.parity import NO_CLIP, read_golden, verify
from echoedge.targets.bars import WEIGHT_BARS, bar
from echoedge.targets.executorch.backends import BACKENDS
from echoedge.targets.executorch.blockwise import Request as BlockwiseRequest
from echoedge.targets.executorch.blockwise import Step, quantised_step
from echoedge.targets.executorch.half_products import multiplies_bfloat16
from echoedge.targets.executorch.program_file import ProgramFile

from ..core.tiny_checkpoint import playable_sizes

NAMES = {"audio_encoder", "image_encoder", "vae_encode", "encode_conditions", "denoise", "tiny_decode"}
PROMPT = "a woman talks"
CLIP, OTHER = ClipSpec(32, 48, 9), ClipSpec(32, 32, 9)


def silent(*_: object) -> None:
    """No progress."""


class Inline(Workshop):
    """Tasks one after the other in this process; records pass through JSON all the same."""

    def run(self, tasks: Sequence[Task], request: Any, progress: Any) -> dict[str, Done]:
        results: dict[str, Done] = {}
        while len(results) < len(tasks):
            task = next(t for t in tasks if t.name not in results and all(name in results for name in t.after))
            done = self.finished(task)
            if done is None:
                record = {"result": task.work(request, self.folder), "seconds": 0.0, "cpu_seconds": 0.0, "peak_bytes": 0}
                record_path(self.folder, task.name).write_text(json.dumps(record))
                done = self.finished(task)
            assert done is not None
            results[task.name] = done
        return results


def request_for(folder: Path, variant: Variant = "flash", recipe: WeightRecipe = PRESETS["int8"], **changes: Any) -> ReleasedExport:
    sizes, generator = playable_sizes(variant), np.random.default_rng(0)
    clips = changes.get("clips", (CLIP,))
    options: dict[str, Any] = {
        "clips": clips, "text_rows": 8, "plan": build_plan(replace(PLAN_PRESETS[variant], steps=2)),
        "prompts": {PROMPT: generator.standard_normal((5, sizes.transformer.text_dim), np.float32)},
        "portraits": tuple(generator.uniform(-1, 1, (3, clip.height, clip.width)).astype(np.float32) for clip in clips),
        "speeches": tuple(
            (0.1 * generator.standard_normal(clip.frames * clip.samples_per_frame)).astype(np.float32) for clip in clips
        ),
    }  # fmt: skip
    return ReleasedExport(checkpoint=str(folder), model=variant, sizes=sizes, recipe=recipe, **options | changes)


@pytest.fixture(scope="module")
def made(folders: dict[Variant, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[ReleasedExport, Path, Bundle]:
    """A request of two shapes of preview, its workshop and its bundle, in full precision; without the full decoder, which takes
    half a minute to compile even at toy width."""
    folder, width = tmp_path_factory.mktemp("released"), playable_sizes("preview").transformer.text_dim
    options = replace(PLAN_PRESETS["preview"], steps=2, window=WindowRule(length=CLIP.latent_frames, overlap=1))
    generator = np.random.default_rng(4)
    prompts = {text: generator.standard_normal((5, width), np.float32) for text in (PROMPT, NEGATIVE_PROMPT)}
    changes = {"clips": (CLIP, OTHER), "plan": build_plan(options), "prompts": prompts, "decoders": ("tiny",)}
    request = request_for(folders["preview"], "preview", PRESETS["fp32"], **changes)
    patch = pytest.MonkeyPatch()
    patch.setattr(released, "Workshop", Inline)
    patch.setattr(Inline, "remove", lambda _: None, raising=False)
    export_released(request, folder / "preview.echoedge", silent)
    patch.undo()
    return request, folder / ".preview.echoedge.work", Bundle.open(folder / "preview.echoedge")


def test_the_bundle_has_every_program(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    _, _, bundle = made
    names = NAMES | {shaped_name(name, OTHER) for name in NAMES}
    assert set(bundle.manifest.programs) == names
    assert bundle.extra_files() == ()
    assert set(bundle.manifest.parity.measured) == names
    assert set(bundle.manifest.parity.thresholds) == names | {"latents", "frames"}
    for program in bundle.manifest.programs.values():
        assert all(taken.flops_share == 1.0 for taken in program.delegation.values())


def test_the_bundle_verifies_itself(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    _, _, bundle = made
    verdict = verify(bundle, open_engine(bundle))
    assert verdict.passed, verdict.to_dict()
    assert not verdict.complete
    assert {row.name for row in verdict.rows if row.unjudged == NO_CLIP} == {"latents", "frames"}
    assert {row.name for row in verdict.rows} - {"latents", "frames"} == set(bundle.manifest.programs)
    assert verdict.lipsync.unjudged == NO_CLIP


def test_it_plays(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    request, _, bundle = made
    for shape, clip in enumerate(request.clips):
        player = Player(PlayerConfig.of(bundle, clip), open_engine(bundle, "auto", clip))
        assert player.decoder == "tiny_decode"
        take = player.generate(request.portraits[shape], request.speeches[shape], PROMPT, 0)
        frames = np.stack(list(player.frames_of(take)))
        assert frames.shape == (clip.frames, clip.height, clip.width, 3)


@pytest.mark.parametrize("shape", [0, 1])
def test_a_file_that_computes_something_else_is_refused(
    shape: int, made: tuple[ReleasedExport, Path, Bundle], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    request, workshop, _ = made
    folder = tmp_path / "work"
    shutil.copytree(workshop, folder)
    clip, label = request.clips[shape], shaped_name("tiny_decode", OTHER) if shape else "tiny_decode"
    assert prove(request, folder, "tiny_decode", shape)["figures"]["psnr_db"] > 80
    path = folder / f"{clip.height}x{clip.width}x{clip.frames}" / "golden-decoders.safetensors"
    save_file({key: value * np.float32(0.9) for key, value in load_file(path).items()}, path)
    with pytest.raises(ExportError, match=rf"{label} was compiled, and the file does not compute what the model computes: .* dB"):
        prove(request, folder, "tiny_decode", shape)


def test_proofs_run_the_data_file_that_ships(made: tuple[ReleasedExport, Path, Bundle], tmp_path: Path) -> None:
    """Every shape's: weights that are damaged in the merged file alone are noticed, though each compiled one is whole."""
    request, workshop, bundle = made
    folder = tmp_path / "work"
    shutil.copytree(workshop, folder)
    merged = folder / "image_encoder.ptd"
    record = json.loads(record_path(folder, "data of image_encoder").read_text())
    assert file_sha256(record["result"]["path"]) == file_sha256(bundle.path("programs/image_encoder.ptd"))
    record["result"]["path"] = str(merged)
    record_path(folder, "data of image_encoder").write_text(json.dumps(record))
    for shape in range(2):
        assert prove(request, folder, "image_encoder", shape)["figures"]["psnr_db"] > 40
    data = bytearray(merged.read_bytes())
    data[len(data) // 2 :] = bytes(byte ^ 0x15 for byte in data[len(data) // 2 :])
    merged.write_bytes(data)
    for shape in range(2):
        with pytest.raises(ExportError, match="image_encoder.* was compiled, and the file does not compute"):
            prove(request, folder, "image_encoder", shape)


def test_no_goldens_are_another_shapes(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    _, _, bundle = made
    index = read_golden(bundle).index["programs"]
    for name, methods in index.items():
        sources = [source for calls in methods.values() for call in calls for source in call["inputs"] if isinstance(source, dict)]
        assert all(source["program"].endswith("-32x32x9") == name.endswith("-32x32x9") for source in sources)
    assert any(isinstance(source, dict) for source in index["denoise-32x32x9"]["forward"][0]["inputs"])


def test_a_kill_before_the_record_loses_no_weights(made: tuple[ReleasedExport, Path, Bundle], tmp_path: Path) -> None:
    """The task has written program and data, and is killed before its record; also in the middle of writing."""
    request, workshop, _ = made
    folder = tmp_path / "work"
    shutil.copytree(workshop, folder)
    task = next(task for task in tasks_of(request) if task.name == "compile tiny_decode-32x32x9")
    again = [task, *(other for other in tasks_of(request) if other.name in ("data of tiny_decode", "proof of tiny_decode-32x32x9"))]
    for half in (False, True):
        if half:
            for path in (folder / "compiled-tiny_decode-32x32x9").iterdir():
                path.write_bytes(path.read_bytes()[:100])
        for each in again:
            record_path(folder, each.name).unlink()
        done = Inline(folder, "").run(tasks_of(request), request, silent)
        record = done[task.name].result
        assert Path(record["data"]).parent == Path(record["path"]).parent == folder / "compiled-tiny_decode-32x32x9"
        assert Path(record["data"]).stat().st_size > 10_000
        assert done["proof of tiny_decode-32x32x9"].result["figures"]["psnr_db"] > 80


def test_each_shape_is_looked_after_in_memory(folders: dict[Variant, Path]) -> None:
    request = request_for(folders["flash"], clips=(CLIP, OTHER), decoders=("tiny",))
    tasks = {task.name: task for task in tasks_of(request)}
    for shape, clip in enumerate(request.clips):
        need = needs(request.sizes, clip, request.recipe, request.text_rows, ["tiny_decode"])
        for name in ("proof of denoise", "proof of vae_encode", "reference of the decoders"):
            assert tasks[request.label(name, shape)].need == need[name]
    assert tasks["proof of vae_encode"].need.total > tasks["proof of vae_encode-32x32x9"].need.total
    for task in tasks.values():
        if task.name.startswith("proof of "):  # every shape is proven, after the merged data
            assert f"data of {task.name.removeprefix('proof of ').removesuffix('-32x32x9')}" in task.after


def test_the_disk_is_looked_at_before_anything_runs(
    made: tuple[ReleasedExport, Path, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, workshop, bundle = made
    taken, forecast = folder_bytes(workshop) + folder_bytes(bundle.root), released.disk_needed(request)
    assert taken <= forecast < taken + 50 * PROGRAM_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=forecast - 1))
    with pytest.raises(ResourceError, match=r"of disk is needed for .*\.b\.echoedge\.work"):
        export_released(request, tmp_path / "b.echoedge", silent)
    assert not list(tmp_path.iterdir())


def test_names_of_workshops_are_distinct() -> None:
    names = ["flash.v1.echoedge", "flash.v2.echoedge", "flash.v1", "flash"]
    assert len({released.workshop_folder(Path(name)) for name in names}) == len(names)
    assert released.workshop_folder(Path("flash")).name == ".flash.work"


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this processor does not multiply bfloat16")
def test_bfloat16_products_meet_their_own_bar(folders: dict[Variant, Path], tmp_path: Path) -> None:
    """Weights in full precision: asked for what they allow, the program would fail for its products alone."""
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], decoders=("tiny",), products="bf16")
    record = released.compile_one(request, tmp_path, "image_encoder", 0)
    (tmp_path / "compile-image_encoder.done.json").write_text(json.dumps({"result": record}))
    released.record_encoders(request, tmp_path)
    found = Figures.model_validate(prove(request, tmp_path, "image_encoder")["figures"])
    assert falls_short(found, bar("image_encoder", record["layers"], "fp32"))
    with pytest.raises(ExportError, match=r"90\.0 dB and 0\.999999 are demanded"):
        prove(replace(request, products="fp32"), tmp_path, "image_encoder")


def test_only_one_program_is_loaded_where_memory_is_short(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    from echoedge.runtime.engines.executorch import ExecuTorchEngine

    _, _, bundle = made
    names = ["image_encoder", "audio_encoder"]
    for keep, loaded in ((0, 1), (1 << 40, 2)):
        engine = ExecuTorchEngine(bundle, keep_bytes=keep)
        for name in names:
            specs = bundle.program(name).methods["forward"].inputs
            engine.run(name, "forward", [np.zeros(spec.shape, spec.dtype) for spec in specs])
        assert len(engine.loaded) == loaded


def test_shapes_share_weights(made: tuple[ReleasedExport, Path, Bundle], tmp_path: Path) -> None:
    _, workshop, _ = made
    names = ("compile tiny_decode", "compile tiny_decode-32x32x9", "compile image_encoder")
    *records, stranger = (json.loads(record_path(workshop, name).read_text())["result"] for name in names)
    files = [Path(record["data"]) for record in records]
    merged = tmp_path / "tiny_decode.ptd"
    merge_data(files, merged)
    assert merged.stat().st_size < 1.1 * files[0].stat().st_size
    for record, own in zip(records, files, strict=True):
        specs = record["methods"]["first"]["inputs"]
        inputs = [np.random.default_rng(3).standard_normal(spec["shape"], np.float32) for spec in specs]
        alone = ProgramFile(Path(record["path"]), own).run("first", inputs)[0]
        np.testing.assert_array_equal(ProgramFile(Path(record["path"]), merged).run("first", inputs)[0], alone)
    with pytest.raises(EngineError):  # other weights: their names are not found
        ProgramFile(Path(records[0]["path"]), Path(stranger["data"])).run("first", inputs)


def test_one_file_holds_several_programs(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, for the time that compiling takes; of preview, whose audio tokens are cut another way."""
    monkeypatch.setattr(released, "program_names", lambda _: ("encode_conditions", "tiny_decode"))
    request = request_for(folders["preview"], "preview", layout="one", decoders=("tiny",))
    work = {task.name: task for task in tasks_of(request)}
    for name in ("reference of the encoders", "reference of the step", "reference of the decoders"):
        work[name].work(request, tmp_path)
    records = work["programs"].work(request, tmp_path)
    assert {record["path"] for record in records.values()} == {str(tmp_path / "model.pte")}
    assert [record["prefix"] for record in records.values()] == ["encode_conditions.", "tiny_decode."]
    (tmp_path / "programs.done.json").write_text(json.dumps({"result": records}))
    for name in records:
        assert prove(request, tmp_path, name)["figures"]["psnr_db"] > 40


def test_fitted_roundings_get_what_the_blocks_get(folders: dict[Variant, Path], tmp_path: Path) -> None:
    recipe = WeightRecipe(name="fitted", rules=(Rule(programs="denoise", modules="*blocks*", weights="int8", rounding="gptq"),))
    request = request_for(folders["flash"], recipe=recipe)
    work = {task.name: task for task in tasks_of(request)}
    assert "reference of the step" in work["compile denoise"].after
    for name in ("reference of the encoders", "reference of the step"):
        work[name].work(request, tmp_path)
    dit = stream_transformer(request.opened(), request.sizes.transformer)

    def step(samples: Any) -> Step:
        return quantised_step(BlockwiseRequest(dit, CLIP, 8, recipe, BACKENDS["xnnpack"], samples=samples))

    calls = released.recorded_calls(request, tmp_path, dit)
    assert [len(calls(index)) for index in range(3)] == [2, 2, 0]
    assert len(step(calls).blocks) == 2
    with pytest.raises(ConfigError, match="calibration samples"):
        step(lambda _: ())


def test_other_backends_are_lowered_and_looked_at(folders: dict[Variant, Path], tmp_path: Path) -> None:
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], backend="vulkan", decoders=("tiny",))
    record = released.compile_one(request, tmp_path, "image_encoder", 0)
    (tmp_path / "compile-image_encoder.done.json").write_text(json.dumps({"result": record}))
    released.record_encoders(request, tmp_path)
    assert prove(request, tmp_path, "image_encoder") == {"figures": None, "delegates": 1}
    with pytest.raises(ExportError, match="has delegates of VulkanBackend, not of XnnpackBackend alone"):
        released.check_structure(Path(record["path"]), "XnnpackBackend")


@pytest.mark.parametrize("name", ["coreml", "mps"])
def test_norms_and_attention_go_whole_to_apples_backends(name: str, folders: dict[Variant, Path], tmp_path: Path) -> None:
    if name == "coreml":
        pytest.importorskip("coremltools")
    request = request_for(folders["flash"], recipe=PRESETS["fp32"], backend=name, decoders=("tiny",))
    record = released.compile_one(request, tmp_path, "encode_conditions", 0)
    assert not record["delegation"]["forward"]["other_ops"]
    assert released.check_structure(Path(record["path"]), BACKENDS[name].identifier) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoders": ("big",)}, "no decoder 'big'. Choose from: full, tiny"),
        ({"layout": "both"}, "layout is 'both'"),
        ({"clips": (CLIP, CLIP)}, "every decoder and clip shape once"),
        ({"decoders": ("full", "full")}, "every decoder and clip shape once"),
        ({"layout": "one", "clips": (CLIP, OTHER)}, "One file holds the programs of one clip shape"),
        ({"backend": "vulkan"}, "Vulkan takes fp32 weights, not int8"),
        ({"portraits": (np.zeros((3, 32, 32)),)}, r"Portraits are \[\(3, 32, 32\)\]; every clip shape needs one of its own size"),
        ({"speeches": ()}, r"Speeches are \[\]; every clip shape needs one of its own length"),
        ({"backend": "webgpu"}, "backend is 'webgpu'"),
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
        export_released(request_for(folder), tmp_path / "b.echoedge", silent)
    assert not (tmp_path / "b.echoedge").exists()


def test_what_a_kill_leaves_is_the_workshop(folders: dict[Variant, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Watched(Workshop):
        def run(self, tasks: Sequence[Task], request: Any, progress: Any) -> dict[str, Done]:
            seen.append(sorted(path.name for path in tmp_path.iterdir()))
            raise ExportError("stopped")

    monkeypatch.setattr(released, "Workshop", Watched)
    request, out = request_for(folders["flash"]), tmp_path / "b.echoedge"
    with pytest.raises(ExportError, match="stopped"):
        export_released(request, out, silent)
    assert set(seen.pop()) <= {".b.echoedge.work"}
    out.mkdir()
    (out / "letter").touch()  # what a bundle may not replace is refused before anything runs
    for force, message in ((False, "exists"), (True, "has no manifest.json")):
        with pytest.raises(OutputError, match=message):
            export_released(request, out, silent, force)
    assert not seen


# ---- over several windows --------------------------------------------------------------------------------------------------------

FRAMES = 25  # three windows of nine frames that share a latent frame
FP32_DB = WEIGHT_BARS["fp32"].psnr_db or 0.0


class Altered:
    """An engine whose `program` is given changed inputs."""

    name = "altered"

    def __init__(self, engine: Engine, program: str, change: Callable[[list[Array]], list[Array]]) -> None:
        self.engine, self.program, self.change = engine, program, change

    def has(self, program: str) -> bool:
        return self.engine.has(program)

    def run(self, program: str, method: str, inputs: Sequence[Array]) -> list[Array]:
        return self.engine.run(program, method, self.change([*inputs]) if program == self.program else inputs)


def voice(frames: int = FRAMES) -> np.ndarray:
    count = np.arange(frames * CLIP.samples_per_frame)
    return (0.2 * np.random.default_rng(2).standard_normal(len(count)) * np.abs(np.sin(count / 900))).astype(np.float32)


def played(wanted: ReleasedExport, bundle: Bundle, engine: Engine, score: PlayerConfig | None = None) -> np.ndarray:
    return Player(score or PlayerConfig.of(bundle), engine).generate(wanted.portraits[0], voice(), PROMPT, 3).latents


def test_three_windows_are_those_of_the_reference(made: tuple[ReleasedExport, Path, Bundle], folders: dict[Variant, Path]) -> None:
    wanted, _, bundle = made
    clip = replace(CLIP, frames=FRAMES)
    settings = Settings(steps=2, window=CLIP.frames, overlap=1, seed=3)
    sizes = playable_sizes("preview")
    reference = Reference(Checkpoint.open(folders["preview"]), clip, settings, sizes, dict(wanted.prompts))
    expected = reference.player.generate(wanted.portraits[0], voice(), PROMPT, 3).latents
    assert expected.shape[1] == 7
    latents = played(wanted, bundle, open_engine(bundle))
    found = figures(expected, latents)
    assert found.psnr_db is not None and found.psnr_db > FP32_DB, found  # measured: 138 dB

    def deaf(inputs: list[Array]) -> list[Array]:
        """The first layer's statistics are another voice's."""
        return [inputs[0], 0.5 * inputs[1], inputs[2]]

    def cut(inputs: list[Array]) -> list[Array]:
        """No window hears beyond its last frame."""
        return [*inputs[:4], np.where(np.arange(inputs[4].shape[1]) < 2 * CLIP.frames, inputs[4], 0)]

    for program, change in (("audio_encoder", deaf), ("encode_conditions", cut)):
        altered = Altered(open_engine(bundle), program, change)
        assert figures(expected, played(wanted, bundle, altered)).psnr_db < FP32_DB  # type: ignore[operator]


def test_frames_come_of_every_window(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    wanted, _, bundle = made
    player = Player(PlayerConfig.of(bundle), open_engine(bundle))
    frames = np.stack(list(player.frames_of(player.generate(wanted.portraits[0], voice(), PROMPT, 3))))
    assert frames.shape == (FRAMES, CLIP.height, CLIP.width, 3)
    assert frames.std() > 1


def test_the_bundle_says_how_it_hears_and_what_it_stays_away_from(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    _, _, bundle = made
    hearing, plan = bundle.manifest.hearing, bundle.plan()
    assert hearing is not None
    assert hearing.window == (10, 5)
    assert (hearing.rows_per_frame, hearing.beyond_frames, hearing.tail_frames) == (2, 3, 1)
    assert plan.texts == {"negative": NEGATIVE_PROMPT}


def test_a_program_that_wants_the_whole_voice_is_not_given_less(made: tuple[ReleasedExport, Path, Bundle]) -> None:
    wanted, _, bundle = made
    plain = replace(PlayerConfig.of(bundle), hears=Hearing())
    with pytest.raises(EngineError, match="audio_encoder.forward takes 3 inputs"):
        played(wanted, bundle, open_engine(bundle), plain)
