"""runtime/bench/baseline.py, runtime/verify/baseline.py: what full precision gave is judged anywhere; what is not it, fails."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import echoedge
from echoedge import api
from echoedge.core.bundle import CONDITION_PROGRAMS, Bundle, ClipRecord
from echoedge.core.bundle.baseline import Baseline, noise_sha256, read_baseline, write_baseline
from echoedge.core.config import ClipSpec
from echoedge.core.errors import ConfigError, EngineError, InputError, OutputError
from echoedge.core.model.programs import Model
from echoedge.core.plan import noise
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.core.weights.nano import STUDENT_STEPS, load_nano, nano_digest, student_path
from echoedge.core.weights.random_checkpoint import write_random_checkpoint
from echoedge.runtime.bench.baseline import kept_frames, record, ways
from echoedge.runtime.bench.presets import PRESETS, PUBLISHED, Preset, find_preset
from echoedge.runtime.bench.subjects import (
    SEEDED_PROMPT,
    Playing,
    Subject,
    device_peak,
    find_subject,
    folder_subject,
    model_subject,
    seeded_subject,
    settle,
)
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Engine
from echoedge.runtime.engines.reference import ReferenceEngine
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import Player
from echoedge.runtime.studies.nano_study import player_of
from echoedge.runtime.verify.baseline import NAMES, BaselineVerdict, verify_baseline

from ..bundles import CLIP, OPTIONS, small_engine, small_model, small_plan, small_player_config
from ..commands import Run, complaint
from ..core.tiny_checkpoint import playable_sizes

SMALL = Preset("small", "tiny", CLIP, OPTIONS.steps, 2)
TOY = Preset("toy", "flash", ClipSpec(32, 48, 9), 2, 2)


def subject_of(model: Model, kind: str = "built-in") -> Subject:
    return model_subject(model, OPTIONS, kind, None, None)


def recorded(path: Path, subject: Subject, playing: Playing = Playing(), preset: Preset = SMALL, **options: Any) -> Path:  # noqa: B008
    record(path, preset, subject, playing, **{"savings": "on", "runs": 1, "reload": False} | options)
    return path


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("baseline") / "small.json", subject_of(small_model()), savings="both")


def judged(path: Path, bundle: Bundle, engine: Engine | None = None) -> BaselineVerdict:
    return verify_baseline(bundle, engine or open_engine(bundle), path)


# ---- what is recorded ------------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_what_the_programs_give(baseline: Path) -> None:
    """By the engine that bundles are compared with: programs of fixed shape, prompts with their padding collapsed."""
    told, arrays = read_baseline(baseline)
    case = demo_material(CLIP, whole=False)
    player = Player(small_player_config(), small_engine())
    made = player.generate(case.portrait, case.speech, case.prompt, case.seed)
    assert np.abs(arrays["latents"] - made.latents).max() < 1e-4 * np.ptp(made.latents)  # measured: 1e-6
    frames = np.stack(list(player.frames_of(made)))
    assert told.frames_kept == tuple(range(CLIP.frames))
    assert np.abs(arrays["frames"].astype(int) - frames).max() <= 1
    assert np.array_equal(arrays["portrait"], case.portrait)
    assert np.array_equal(arrays["speech"], case.speech)


def test_what_was_played_is_told(baseline: Path) -> None:
    told, arrays = read_baseline(baseline)
    assert (told.preset, told.model, told.precision, told.decoder) == ("small", "tiny", "fp32", "full")
    assert told.sampling_plan() == small_plan()
    assert told.noise_sha256 == noise_sha256(0, arrays["latents"].shape)  # type: ignore[arg-type]
    hoisted, naive = told.measured
    assert (hoisted.savings, naive.savings) == (True, False)
    assert {one.mode for one in told.measured} == {"eager"}
    assert hoisted.workload.evaluations == naive.workload.evaluations == 4
    assert hoisted.second_load_ms is None


class Counting(ReferenceEngine):
    """Counts what it runs."""

    counts: dict[str, int]

    def run(self, program: str, method: str, inputs: Any) -> list[Any]:
        self.counts[program] = self.counts.get(program, 0) + 1
        return super().run(program, method, inputs)


def test_without_savings_a_step_makes_its_conditions_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.runtime.bench.subjects.ReferenceEngine", Counting)
    case, subject = demo_material(CLIP, whole=False), subject_of(small_model())
    seen, counts = [], []
    for savings in (True, False):
        Counting.counts = {}
        player = subject.open(SMALL, Playing(savings=savings))
        player.generate(case.portrait, case.speech, case.prompt, 3)
        seen.append(player.seen)
        counts.append(Counting.counts)
    assert counts[1] == counts[0] | dict.fromkeys(CONDITION_PROGRAMS, 4)
    assert counts[0]["text_conditions"] == counts[0]["patch_conditions"] == 1
    assert np.abs(seen[0]["latents"] - seen[1]["latents"]).max() < 1e-5  # measured: 5e-7; the timestep's MLP, a row or all at once


def test_the_ways_that_are_measured() -> None:
    told = [(way.savings, way.compiled) for way in ways(Playing(compiled=True), "both")]
    assert told == [(True, False), (False, False), (True, True), (False, True)]
    assert [(way.savings, way.compiled) for way in ways(Playing(), "off")] == [(False, False)]


def test_long_clips_keep_frames_from_the_first_to_the_last() -> None:
    kept = kept_frames(np.empty((81, 512, 512, 3), np.uint8))
    assert (kept[0], kept[-1]) == (0, 80)
    assert len(kept) == len(set(kept)) == 21  # 16 MiB of 768 KiB each
    assert kept_frames(np.empty((25, 64, 64, 3), np.uint8)) == tuple(range(25))


# ---- what passes -----------------------------------------------------------------------------------------------------------------


def test_a_bundle_equals_the_baseline_of_its_model(baseline: Path, bundle: Bundle) -> None:
    verdict = judged(baseline, bundle)
    assert verdict.passed and verdict.complete
    assert [row.name for row in verdict.rows] == list(NAMES.values())
    assert verdict.sentence() == "Equal to the baseline small.json within the thresholds of its weights and types."
    assert all(row.demanded.psnr_db is not None and row.demanded.psnr_db >= 35 for row in verdict.rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_reference_equals_it_on_any_number_of_threads(threads: int, baseline: Path, bundle: Bundle) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        verdict = judged(baseline, bundle, small_engine())
    finally:
        torch.set_num_threads(before)
    assert verdict.passed
    assert [row.demanded.psnr_db for row in verdict.rows] == [90, 90, 90, 90, 90, 80]


def test_a_baseline_in_bfloat16_asks_for_what_bfloat16_has(bundle: Bundle, tmp_path: Path) -> None:
    path = recorded(tmp_path / "bf16.json", subject_of(small_model(), "seed"), Playing(precision="bf16"))
    verdict = judged(path, bundle, small_engine())
    assert verdict.passed and not verdict.complete  # of random weights no mouth is judged
    print([(row.name, row.measured.psnr_db, row.measured.cosine) for row in verdict.rows])
    velocity = next(row for row in verdict.rows if row.name == NAMES["velocity"])
    assert velocity.measured.psnr_db is not None and velocity.measured.psnr_db < 80  # it is not float32 by another name
    told, _ = read_baseline(path)
    assert (told.measured[0].engine.precision, told.measured[0].engine.weights) == ("bf16", "bf16")


# ---- what fails ------------------------------------------------------------------------------------------------------------------


def perturbed(factor: float) -> Model:
    """The small model with the weights of one layer multiplied."""
    model = copy.deepcopy(small_model())
    model.dit.blocks[1].ffn[0].weight.data.mul_(factor)  # type: ignore[union-attr, index]
    return model


ANOTHER: dict[str, tuple[Callable[[], Model], str, bool]] = {  # the model, where it first differs, in full precision alone
    "weights of another seed": (lambda: small_model(1), "features", False),
    "one layer negated": (lambda: perturbed(-1.0), "velocity", False),
    "one layer changed by a hundredth": (lambda: perturbed(1.01), "velocity", True),  # which int8 rounds away
}


@pytest.mark.parametrize("name", ANOTHER)
def test_another_model_fails_where_it_first_differs(name: str, bundle: Bundle, tmp_path: Path) -> None:
    model, stage, exact = ANOTHER[name]
    path = recorded(tmp_path / "other.json", subject_of(model()))
    for engine in (small_engine(), *([] if exact else [open_engine(bundle)])):
        verdict = judged(path, bundle, engine)
        assert verdict.failed and not verdict.passed
        said = f"This is not the clip of the baseline other.json: the first to differ are the {NAMES[stage]}, "
        assert verdict.sentence().startswith(said)


def rewritten(baseline: Path, path: Path, arrays: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A copy of a baseline with fields or arrays changed, whole by its hashes."""
    told, found = read_baseline(baseline)
    fields = {name: getattr(told, name) for name in Baseline.model_fields if name not in ("format", "arrays")}
    write_baseline(path, found | (arrays or {}), True, **fields | changes)
    return path


def test_another_seed_of_the_noise_fails_from_the_first_step(baseline: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = recorded(tmp_path / "seed.json", subject_of(small_model()), seed=1)
    _, arrays = read_baseline(other)
    assert judged(other, bundle).passed
    path = rewritten(baseline, tmp_path / "mixed.json", {name: arrays[name] for name in ("velocity", "latents", "frames")})
    assert f"the first to differ are the {NAMES['velocity']}" in judged(path, bundle).sentence()
    wrong = rewritten(baseline, tmp_path / "wrong.json", seed=1)
    with pytest.raises(EngineError, match=r"The noise of seed 1 is not the one of .*wrong\.json"):
        judged(wrong, bundle)


def test_a_stage_of_another_shape_fails(baseline: Path, bundle: Bundle, tmp_path: Path) -> None:
    _, arrays = read_baseline(baseline)
    path = rewritten(baseline, tmp_path / "a.json", {"image": arrays["image"][:, :1]})
    assert f"the first to differ are the {NAMES['image']}" in judged(path, bundle).sentence()


# ---- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "flash"}, "model is flash there and tiny in the bundle"), ({"layers": 30}, "layers is 30 there and 2 in"),
        ({"decoder": "tiny"}, "the decoder is tiny there and full in"),
        ({"clip": ClipRecord.of(ClipSpec(64, 64, 9))}, "the shape is 64x64x9, 25 fps there and 32x32x9"),
    ],
)  # fmt: skip
def test_what_is_not_alike_is_named(changes: dict[str, Any], words: str, baseline: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        judged(rewritten(baseline, tmp_path / "a.json", **changes), bundle)


def test_other_weights_and_other_plans_are_named(baseline: Path, bundle: Bundle, tmp_path: Path) -> None:
    told, _ = read_baseline(baseline)
    weights = told.weights.model_copy(update={"source_sha256": "1" * 64})
    with pytest.raises(InputError, match=r"the weights' SHA-256 is 111111111111… there and 000000000000… in the bundle"):
        judged(rewritten(baseline, tmp_path / "a.json", weights=weights), bundle)
    scaled = [[1.25, -0.25] for _ in told.plan["guidance"]]
    for name, value, words in (
        ("guidance", scaled, "guidance is"),
        ("solver_name", "euler", "the solver is euler there and unipc"),
    ):
        with pytest.raises(InputError, match=words):
            judged(rewritten(baseline, tmp_path / "a.json", plan=told.plan | {name: value}), bundle)
    fewer = recorded(tmp_path / "b.json", subject_of(small_model()), preset=replace(SMALL, steps=1))
    with pytest.raises(InputError, match="the number of steps is 1 there and 2 in the bundle"):
        judged(fewer, bundle)


def test_damaged_files_are_a_sentence(baseline: Path, tmp_path: Path) -> None:
    path, beside = tmp_path / "small.json", tmp_path / "small.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        read_baseline(path)
    shutil.copy(baseline, path)
    with pytest.raises(InputError, match=r"small\.safetensors, the arrays of small\.json, is missing"):
        read_baseline(path)
    whole = baseline.with_suffix(".safetensors").read_bytes()
    beside.write_bytes(whole[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(InputError, match=r"small\.safetensors is not the file of small\.json"):
        read_baseline(path)
    for text, words in (("{}", "is no baseline"), ("[", "is no baseline"), ("[" * 100_000, "is no baseline")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_baseline(path)
    told = json.loads(baseline.read_text())
    path.write_text(json.dumps(told | {"arrays": told["arrays"] | {"name": "../small.safetensors"}}))
    with pytest.raises(InputError, match="which is not beside it"):
        read_baseline(path)


def test_a_name_that_is_taken_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(OutputError, match=r"a\.safetensors exists"):
        api.record_baseline(tmp_path / "a.json")
    with pytest.raises(OutputError, match=r"a baseline is NAME\.json"):
        api.record_baseline(tmp_path / "a.safetensors")


# ---- seeds and folders -----------------------------------------------------------------------------------------------------------


def test_a_seed_plays_what_its_folder_plays(tmp_path: Path) -> None:
    sizes = playable_sizes("flash")
    write_random_checkpoint(tmp_path / "flash", "flash", ("transformer", "vae", "clip", "wav2vec2"), seed=5, architecture=sizes)
    seeded = seeded_subject(sizes, 5)
    folder = folder_subject(Checkpoint.open(tmp_path / "flash"), sizes, "full", seeded.prompts)
    assert seeded.origin.components == folder.origin.components
    assert (seeded.origin.source_sha256, seeded.bytes) == (None, None)
    assert folder.bytes is not None and folder.bytes > 0
    found = {}
    for name, subject in (("seed", seeded), ("folder", folder), ("other", seeded_subject(sizes, 6))):
        found[name] = read_baseline(recorded(tmp_path / f"{name}.json", subject, preset=TOY))
    arrays = {name: given for name, (_, given) in found.items()}
    assert np.array_equal(arrays["seed"]["latents"], arrays["folder"]["latents"])
    assert not np.array_equal(arrays["seed"]["latents"], arrays["other"]["latents"])
    told = found["seed"][0]
    assert (told.prompt, told.weights.kind, told.weights.seed) == (SEEDED_PROMPT, "seed", 5)
    assert np.array_equal(arrays["seed"]["prompt"], noise(5, (1, 1, 11, sizes.transformer.text_dim))[0, 0])
    assert [branch["name"] for branch in told.plan["branches"]] == ["prompt", "prompt/no-audio"]


def test_presets_are_the_plans_that_they_promise() -> None:
    toy, small = seeded_subject(playable_sizes("flash"), 0), subject_of(small_model())
    assert {str(preset.clip) for preset in PRESETS.values()} == {
        "64x64x25", "256x256x25", "384x384x49", "512x512x81", "512x512x17",
    }  # fmt: skip
    for preset in PRESETS.values():
        plan = (small if preset.model == "nano" else toy).plan(preset)
        assert (plan.steps, len(plan.branches), plan.evaluations) == (preset.steps, preset.branches, preset.evaluations)
    assert find_preset(PUBLISHED.preset).evaluations == 16
    assert sum(PUBLISHED.stage_seconds.values()) == pytest.approx(PUBLISHED.total_seconds[0], abs=1.5)  # loading and the MP4 apart


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "nanno"}, "There is no preset 'nanno'.*Did you mean 'nano'"),
        ({"weights": "random:0"}, "the preset nano plays the built-in model"),
        ({"preset": "flash-256x256x25"}, "needs --weights: a folder of flash's, or random:SEED"),
        ({"layers": 2}, "--layers is 2; only weights of a seed"), ({"decoder": "tiny"}, "nano has the full one alone"),
        ({"preset": "flash-256x256x25", "weights": "random:0", "layers": 31}, "layers"),
        ({"savings": "some"}, "savings"), ({"dtype": "int8"}, "dtype"), ({"runs": 0}, "runs"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        api.record_baseline(tmp_path / "a.json", **options)
    assert not list(tmp_path.iterdir())


# ---- the device ------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="PyTorch cannot compute on 'cuda' here"):
        api.record_baseline(tmp_path / "a.json", device="cuda", preset="flash-256x256x25", weights="random:0")


def test_a_gpus_memory_is_its_own_and_its_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(max_memory_allocated={"cuda:1": 7}.get, synchronize=waited.append))
    assert (device_peak("cuda:1"), device_peak("cpu")) == (7, None)
    settle("cpu")()
    settle("cuda:1")()
    assert waited == ["cuda:1"]


# ---- the commands ----------------------------------------------------------------------------------------------------------------


def test_bench_sets_a_bundle_beside_the_baseline(baseline: Path, bundle_path: Path, tmp_path: Path, run: Run) -> None:
    told = json.loads(run("bench", bundle_path, "--runs", 1, "--baseline", baseline, "--json").out)
    assert [one["from"] for one in told["records"]] == ["small.json (1)", "small.json (2)", "here"]
    assert told["records"][2]["record"]["engine"]["name"] == "executorch"
    shorter = [
        one.model_copy(update={"workload": one.workload.model_copy(update={"steps": 4})})
        for one in read_baseline(baseline)[0].measured
    ]
    other = rewritten(baseline, tmp_path / "b.json", measured=tuple(shorter))
    assert "do not compare: steps is 4 in the one and 2 in the other" in complaint(
        run("bench", bundle_path, "--baseline", other, "--json")
    )


def test_verify_takes_the_baseline(baseline: Path, bundle_path: Path, tmp_path: Path, run: Run) -> None:
    ended = run("verify", bundle_path, "--baseline", baseline)
    assert ended.status == 0
    assert "Equal to the baseline small.json" in ended.out
    assert echoedge.verify(bundle_path, baseline=baseline).passed
    path = recorded(tmp_path / "other.json", subject_of(perturbed(-1.0)))
    ended = run("verify", bundle_path, "--baseline", path)
    assert ended.status == 1
    assert "This is not the clip of the baseline other.json" in " ".join(ended.out.split())


def test_nano_is_recorded_by_the_command(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "nano.json"
    ended = run("baseline", "record", "--preset", "nano-4x1", "--runs", 1, "--no-reload", "--savings", "on", "--out", path)
    assert ended.status == 0, ended.err
    assert "echoedge verify BUNDLE --baseline nano.json" in ended.out
    told, arrays = read_baseline(path)
    assert (told.preset, told.weights.kind, told.measured[0].workload.evaluations) == ("nano-4x1", "built-in", 4)
    assert arrays["frames"].shape == (25, 64, 64, 3)
    assert path.stat().st_size < 20_000 and path.with_suffix(".safetensors").stat().st_size < 1_000_000
    listed = run("baseline", "presets").out
    assert all(name in listed for name in PRESETS)


def test_nanos_student_is_recorded_as_its_programs_play_it(tmp_path: Path) -> None:
    """Savings or none: a step is told how far it goes. The teacher's clip is another one."""
    preset = PRESETS["nano-student"]
    subject, case = find_subject(preset, None, None, "full", {}), demo_material(preset.clip, whole=False)
    told, arrays = read_baseline(recorded(tmp_path / "student.json", subject, preset=preset, savings="both"))
    assert told.weights.source_sha256 == nano_digest(student_path()) and told.measured[0].workload.evaluations == STUDENT_STEPS
    taught = find_subject(PRESETS["nano"], None, None, "full", {})
    players = [
        player_of(load_nano(path=student_path()), subject.plan(preset)),
        *(subject.open(preset, way) for way in ways(Playing(), "both")),
        taught.open(PRESETS["nano"], Playing()),
    ]
    made = [player.generate(case.portrait, case.speech, case.prompt, 0).latents for player in players]
    *ours, teachers = (float(np.abs(each - arrays["latents"]).max()) for each in made)
    assert max(ours) < 1e-3 and teachers > 0.05


@pytest.mark.slow
def test_compiled_is_eager_in_other_time(tmp_path: Path) -> None:
    path = recorded(tmp_path / "small.json", subject_of(small_model()), Playing(compiled=True))
    eager, compiled = read_baseline(path)[0].measured
    assert (eager.mode, compiled.mode) == ("eager", "compiled")
    case, seen = demo_material(CLIP, whole=False), []
    for way in ways(Playing(compiled=True), "on"):
        player = subject_of(small_model()).open(SMALL, way)
        player.generate(case.portrait, case.speech, case.prompt, 0)
        seen.append(player.seen["latents"])
    assert 0 < np.abs(seen[0] - seen[1]).max() < 1e-3
