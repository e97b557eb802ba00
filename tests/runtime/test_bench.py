"""runtime/bench/clip.py: figures that belong together, with their conditions; under --benchmark-only, benchmarks too."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from echoedge.core.bundle import CONDITION_PROGRAMS, MANIFEST, Bundle
from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.core.bundle.engine_record import EngineRecord
from echoedge.core.errors import EngineError, ResourceError
from echoedge.core.memory import peak_bytes
from echoedge.runtime.bench import clip as bench
from echoedge.runtime.bench.clip import measure, measure_apart
from echoedge.runtime.bench.machine import device_name, thermal, this_machine
from echoedge.runtime.engines.around import Call
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import STAGES
from echoedge.runtime.play.setting import Wanted
from echoedge.targets.executorch.program_file import set_threads
from echoedge.targets.executorch.program_file import threads as program_threads

from ..bundles import CLIP, small_engine, small_plan
from ..targets import stand_ins


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def speed(bundle_path: Path, told: list[tuple[str, int, int]]) -> BenchRecord:
    return measure(Bundle.open(bundle_path), Wanted(), 3, lambda *step: told.append(step))


# ---- measuring -------------------------------------------------------------------------------------------------------------------


def test_figures_follow_from_one_another(speed: BenchRecord) -> None:
    assert speed.frames == CLIP.frames
    assert speed.fps == pytest.approx(1000 * speed.frames / speed.clip.median)
    assert speed.realtime_factor == pytest.approx(speed.fps / CLIP.fps)
    assert speed.fps_without_decode > speed.fps


def test_stages_are_parts_of_the_whole(speed: BenchRecord) -> None:
    assert tuple(speed.stages) == STAGES
    assert all(spread.median > 0 for spread in speed.stages.values())
    # Medians are taken stage by stage, so that their sum may pass the median of the sums, but not by much.
    assert sum(spread.median for spread in speed.stages.values()) < 1.5 * speed.clip.median


def test_programs_are_parts_of_their_stages(speed: BenchRecord) -> None:
    plan = small_plan()
    assert set(speed.programs) == {
        "audio_encoder", "image_encoder", "text_encoder", "vae_encode", *CONDITION_PROGRAMS, "denoise", "vae_decode",
    }  # fmt: skip
    assert speed.programs["denoise"].p10 <= speed.stages["denoise"].p90
    assert speed.programs["vae_decode"].p10 <= speed.stages["decode"].p90
    assert speed.step.p10 <= speed.programs["denoise"].p90 / plan.evaluations
    assert speed.stages["listen"].p10 < speed.first_frame.p90 <= speed.clip.p90


def test_loading_is_what_first_calls_took_longer() -> None:
    def played(*seconds: float) -> bench.Played:
        calls = [Call("denoise", "forward", each) for each in seconds]
        return bench.Played(sum(seconds), 0.0, 0.1, {}, calls, 9, len(seconds))

    first, runs = played(1.5, 0.5), [played(0.5, 0.25), played(0.25, 0.5), played(0.5, 0.5)]
    times = bench.Times(first, runs, (2.0, 0.5), played(0.75, 9.0), 1, 1, (None, None), (None, None))
    assert times.load_seconds(first, 2.0) == pytest.approx(3.0)  # the usual call takes half a second
    assert times.load_seconds(played(0.75, 9.0), 0.5) == pytest.approx(0.75)  # what is slow later is not loading
    assert times.load_seconds(played(0.125, 0.5), 0.5) == pytest.approx(0.5)  # nor is a quick first call a gain


def test_loading_is_told_of_a_new_process_and_again(speed: BenchRecord) -> None:
    assert speed.first_load_ms is not None and speed.first_load_ms > 0
    assert speed.second_load_ms is not None and speed.second_load_ms > 0


def test_time_and_memory_are_those_of_a_process(speed: BenchRecord) -> None:
    assert speed.cpu_ms is not None and speed.cpu_ms > 0
    assert 50_000_000 < speed.peak_rss_bytes <= 1.01 * peak_bytes() < 1 << 40  # the system rounds its counts


def test_conditions_are_told(speed: BenchRecord, bundle: Bundle) -> None:
    workload, plan = speed.workload, small_plan()
    assert (speed.engine, speed.runs) == (EngineRecord.of(bundle, "executorch"), 3)
    assert (speed.manifest_sha256, speed.mode, speed.savings) == (bundle.manifest_sha256, "ahead-of-time", True)
    assert (workload.shape, workload.fps, workload.layers) == ("32x32x9", 25, 2)
    assert (workload.steps, workload.branches, workload.evaluations) == (plan.steps, len(plan.branches), plan.evaluations)
    assert (workload.decoder, workload.prompt) == ("full", demo_material(CLIP, whole=False).prompt)
    assert speed.threads >= 1
    assert speed.device == device_name()
    assert speed.disk_bytes == sum(path.stat().st_size for path in bundle.root.rglob("*") if path.is_file()) - len(
        (bundle.root / MANIFEST).read_bytes()
    )


def test_the_device_is_a_name_and_its_cores() -> None:
    name, cores = device_name().rsplit(", ", 1)
    assert name
    assert cores == f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def test_the_machine_is_what_the_system_tells() -> None:
    here = this_machine()
    assert (here.place, here.kind, here.os_build) == ("host", "cpu", platform.version())
    assert platform.system() in here.os
    assert here.memory_bytes == psutil.virtual_memory().total


def test_a_gpu_is_told_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="A card", multi_processor_count=132, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {"cuda:1": card}.__getitem__)
    there = this_machine("cuda:1")
    assert (there.kind, there.name, there.cores, there.memory_bytes) == ("cuda", "A card", 132, 80 << 30)


def test_temperatures_are_told_by_sensor(tmp_path: Path) -> None:
    assert thermal(tmp_path / "none") is None
    for number, kind, degrees in ((0, "cpu", "41500"), (1, "battery", "30000"), (2, "cpu", "-2000"), (10, "off", "n/a")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "type").write_text(f"{kind}\n")
        (zone / "temp").write_text(f"{degrees}\n")
    assert thermal(tmp_path) == {"cpu": 41.5, "battery": 30.0, "cpu 2": -2.0}


def test_progress_counts_the_first_clip_and_the_one_of_loading_again(speed: BenchRecord, told: list[tuple[str, int, int]]) -> None:
    del speed
    assert told == [("runs", i, 5) for i in range(1, 6)]


def test_an_unknown_engine_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'fast'"):
        measure(bundle, Wanted(engine="fast"), 1)


def test_another_prompt_is_played_and_told(bundle: Bundle) -> None:
    assert measure(bundle, Wanted(prompt="a man"), 1).workload.prompt == "a man"


@pytest.fixture
def threads() -> Iterator[None]:
    """What a test sets is set back."""
    before = program_threads(), torch.get_num_threads()
    yield
    set_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 3])
def test_threads_are_those_that_were_asked_for(count: int, bundle: Bundle) -> None:
    assert measure(bundle, Wanted(threads=count), 1).threads == program_threads() == count


@pytest.mark.usefixtures("threads")
def test_threads_of_torch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "for_bundle", lambda _: small_engine())  # whose weights do not ship
    for count in (1, 3):
        speed = measure(bundle, Wanted(engine="torch", threads=count), 1)
        assert speed.threads == torch.get_num_threads() == count
        assert (speed.engine.name, speed.engine.weights, speed.mode) == ("torch", "fp32", "eager")


@pytest.mark.usefixtures("threads")
def test_threads_that_an_engine_does_not_take_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echoedge.runtime.engines.executorch.set_threads", lambda _: None)  # a runtime that goes its own way
    wanted = program_threads() + 1
    with pytest.raises(EngineError, match=rf"--threads is {wanted}; executorch runs on {wanted - 1} here"):
        measure(bundle, Wanted(threads=wanted), 1)


# ---- in a process of its own -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ballast() -> np.ndarray[Any, Any]:
    """400 MB that this process holds, and that are no engine's."""
    return np.ones(50_000_000)


def test_memory_is_the_engines_alone_in_a_process_of_its_own(bundle: Bundle, ballast: np.ndarray[Any, Any]) -> None:
    told: list[tuple[str, int, int]] = []
    apart = measure_apart(bundle, Wanted(prompt="a man"), 1, lambda *step: told.append(step))
    here = measure(bundle, Wanted(), 1)
    assert told == [("runs", i, 3) for i in (1, 2, 3)]
    assert (apart.engine.name, apart.workload.prompt, apart.frames) == ("executorch", "a man", CLIP.frames)
    assert (
        50_000_000 < apart.peak_rss_bytes < here.peak_rss_bytes - ballast.nbytes / 2
    )  # in one process the ballast counts as the engine's


def test_a_refusal_comes_back_from_the_other_process(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'fast'"):
        measure_apart(bundle, Wanted(engine="fast"), 1)


def test_a_process_that_was_killed_is_a_sentence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_measure_and_send", stand_ins.killed)
    with pytest.raises(ResourceError, match=r"measured auto was killed \(signal 9\), most likely for memory"):
        measure_apart(bundle, Wanted(), 1)
    monkeypatch.setattr(bench, "_measure_and_send", stand_ins.ends)
    with pytest.raises(EngineError, match="measured auto failed; what it said stands above"):
        measure_apart(bundle, Wanted(), 1)


# ---- for scripts and for people --------------------------------------------------------------------------------------------------


def test_figures_as_json(speed: BenchRecord) -> None:
    assert BenchRecord.model_validate_json(json.dumps(speed.to_dict(), allow_nan=False), strict=True) == speed


def test_figures_in_a_line(speed: BenchRecord) -> None:
    assert re.fullmatch(r"32x32x9, 25 fps, decoder full: .* s, .* frames per second, .* MB; median of 3", speed.summary)
