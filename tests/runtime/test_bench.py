"""runtime/bench/clip.py: figures that belong together, with their conditions; under --benchmark-only, benchmarks too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from echoedge.core.bundle import Bundle
from echoedge.core.errors import EngineError, ResourceError
from echoedge.core.memory import peak_bytes
from echoedge.runtime.bench import clip as bench
from echoedge.runtime.bench.clip import Speed, device_name, measure, measure_apart
from echoedge.runtime.engines import open_engine
from echoedge.runtime.engines.base import Array, Engine
from echoedge.runtime.engines.torch import TorchEngine
from echoedge.runtime.play.material import demo_material
from echoedge.runtime.play.player import STAGES
from echoedge.runtime.play.setting import Wanted
from echoedge.targets.executorch.program_file import set_threads
from echoedge.targets.executorch.program_file import threads as program_threads

from ..bundles import CLIP, small_engine, small_plan, small_programs
from ..targets import stand_ins


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def speed(bundle_path: Path, told: list[tuple[str, int, int]]) -> Speed:
    return measure(Bundle.open(bundle_path), Wanted(), 3, lambda *step: told.append(step))


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
    assert 50_000_000 < speed.peak_bytes <= 1.01 * peak_bytes() < 1 << 40  # the system rounds its counts


def test_conditions_are_told(speed: Speed) -> None:
    conditions, plan = speed.conditions, small_plan()
    assert (conditions.engine, conditions.weights, conditions.runs) == ("executorch", "int8", 3)
    assert conditions.clip == "32x32x9, 25 fps"
    assert (conditions.steps, conditions.evaluations) == (plan.steps, plan.evaluations)
    assert conditions.threads >= 1
    assert conditions.load_average >= 0
    assert conditions.device == device_name()
    assert (conditions.decoder, conditions.prompt) == ("full", demo_material(CLIP, whole=False).prompt)


def test_the_device_is_a_name_and_its_cores() -> None:
    name, cores = device_name().rsplit(", ", 1)
    assert name
    assert cores == f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def test_progress_counts_the_warm_up_too(speed: Speed, told: list[tuple[str, int, int]]) -> None:
    del speed
    assert told == [("runs", i, 4) for i in range(1, 5)]


def test_an_unknown_engine_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'fast'"):
        measure(bundle, Wanted(engine="fast"), 1)


def test_another_prompt_is_played_and_told(bundle: Bundle) -> None:
    assert measure(bundle, Wanted(prompt="a man"), 1).conditions.prompt == "a man"


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
    assert measure(bundle, Wanted(threads=count), 1).conditions.threads == program_threads() == count


@pytest.mark.usefixtures("threads")
def test_threads_of_torch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "for_bundle", lambda _: small_engine())  # whose weights do not ship
    for count in (1, 3):
        speed = measure(bundle, Wanted(engine="torch", threads=count), 1)
        assert speed.conditions.threads == torch.get_num_threads() == count
        assert (speed.conditions.engine, speed.conditions.weights) == ("torch", "fp32")


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
    assert told == [("runs", 1, 2), ("runs", 2, 2)]
    assert (apart.conditions.engine, apart.conditions.prompt, apart.frames) == ("executorch", "a man", CLIP.frames)
    assert 50_000_000 < apart.peak_bytes < here.peak_bytes - ballast.nbytes / 2  # in one process the ballast counts as the engine's


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


def test_figures_as_json(speed: Speed) -> None:
    figures: dict[str, Any] = json.loads(json.dumps(speed.to_dict(), allow_nan=False))
    assert figures["conditions"]["weights"] == "int8"
    assert figures["stage_seconds"] == speed.stage_seconds


def test_figures_in_a_line(speed: Speed) -> None:
    assert re.fullmatch(r"32x32x9, 25 fps, decoder full: .* s, .* frames per second, .* MB; median of 3", speed.summary())


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
