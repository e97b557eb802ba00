"""runtime/bench.py: figures that belong together, with their conditions; under --benchmark-only, benchmarks too."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle import BenchmarkRun, Bundle, record_benchmark
from echoedge.core.errors import EngineError
from echoedge.core.versions import library_versions
from echoedge.runtime.bench import Speed, as_run, device_name, measure, peak_memory
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.player import STAGES

from ..bundles import CLIP, small_engine, small_plan, small_programs


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def speed(bundle_path: Path, told: list[tuple[str, int, int]]) -> Speed:
    return measure(Bundle.open(bundle_path), "auto", 3, lambda *step: told.append(step))


# ---- measuring -------------------------------------------------------------------------------------------------------------------


def test_figures_follow_from_one_another(speed: Speed) -> None:
    assert speed.frames == CLIP.frames
    assert speed.fps == pytest.approx(speed.frames / speed.total_seconds)
    assert speed.realtime_factor == pytest.approx(speed.fps / CLIP.fps)


def test_stages_are_parts_of_the_whole(speed: Speed) -> None:
    assert tuple(speed.stage_seconds) == STAGES
    assert all(seconds > 0 for seconds in speed.stage_seconds.values())
    # Medians are taken stage by stage, so that their sum may pass the median of the sums, but not by much.
    assert sum(speed.stage_seconds.values()) < 1.5 * speed.total_seconds


def test_the_first_clip_is_slower_for_it_loads(speed: Speed) -> None:
    assert speed.first_seconds > speed.total_seconds


def test_time_and_memory_are_those_of_a_process(speed: Speed) -> None:
    assert speed.cpu_seconds > 0
    assert 50_000_000 < speed.peak_bytes <= 1.01 * peak_memory() < 1 << 40  # the system rounds its counts


def test_conditions_are_told(speed: Speed) -> None:
    conditions, plan = speed.conditions, small_plan()
    assert (conditions.engine, conditions.weights, conditions.runs) == ("executorch", "int8", 3)
    assert conditions.clip == "32x32, 9 frames, 25 fps"
    assert (conditions.steps, conditions.evaluations) == (plan.steps, plan.evaluations)
    assert conditions.threads >= 1
    assert conditions.load_average >= 0
    assert conditions.device == device_name()


def test_the_device_is_a_name_and_its_cores() -> None:
    name, cores = device_name().rsplit(", ", 1)
    assert name
    assert cores == f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def test_progress_counts_the_warm_up_too(speed: Speed, told: list[tuple[str, int, int]]) -> None:
    del speed
    assert told == [("runs", i, 4) for i in range(1, 5)]


def test_an_unknown_engine_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'fast'"):
        measure(bundle, "fast", 1)


# ---- for scripts and for the manifest --------------------------------------------------------------------------------------------


def test_figures_as_json(speed: Speed) -> None:
    figures: dict[str, Any] = json.loads(json.dumps(speed.to_dict(), allow_nan=False))
    assert figures["conditions"]["weights"] == "int8"
    assert figures["stage_seconds"] == speed.stage_seconds


def test_a_record_names_device_and_versions(speed: Speed) -> None:
    run = as_run(speed)
    assert (run.device, run.threads, run.versions) == (speed.conditions.device, speed.conditions.threads, library_versions())
    assert [row.get("stage") for row in run.rows] == [*STAGES, None]
    assert run.rows[-1]["engine"] == "executorch"
    assert run.rows[-1]["fps"] == speed.fps


def test_a_record_survives_json(speed: Speed) -> None:
    run = as_run(speed)
    assert BenchmarkRun.model_validate_json(run.model_dump_json()) == run


def test_records_are_added_to_the_bundle(speed: Speed, bundle_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.echoedge"
    shutil.copytree(bundle_path, path)
    for count in (1, 2):
        manifest = record_benchmark(path, as_run(speed))
        opened = Bundle.open(path).manifest
        assert opened == manifest
        assert len(opened.benchmarks) == count
    assert opened.benchmarks[0].rows == as_run(speed).rows
    assert opened.programs == Bundle.open(bundle_path).manifest.programs


# ---- benchmarks: pytest --benchmark-only -----------------------------------------------------------------------------------------


@pytest.fixture(params=["torch-fp32", "executorch-int8"])
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Engine:
    return small_engine() if request.param == "torch-fp32" else open_engine(bundle)


def example(program: str, method: str) -> list[Array]:
    return [tensor.numpy() for tensor in small_programs()[program][method].inputs.values()]


@pytest.mark.benchmark(group="denoise once, 12 tokens of width 32")
def test_denoise(benchmark: Any, engine: Engine) -> None:
    (velocity,) = benchmark(engine.run, "denoise", "forward", example("denoise", "forward"))
    assert velocity.shape == (1, 16, CLIP.latent_frames, CLIP.latent_height, CLIP.latent_width)


@pytest.mark.benchmark(group="decode 4 frames of 32x32")
def test_decode(benchmark: Any, engine: Engine) -> None:
    video = benchmark(engine.run, "vae_decode", "next", example("vae_decode", "next"))[0]
    assert video.shape == (1, 4, 3, CLIP.height, CLIP.width)
