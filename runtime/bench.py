"""How fast a bundle plays here: stage by stage, with the conditions it was measured under."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.bundle import BenchmarkRun, Bundle
from ..core.versions import library_versions
from ..targets import program_file
from .engines import open_engine
from .engines.base import Engine
from .parity import demo_case
from .player import STAGES, Player, Score

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conditions:
    """Where and how the figures were taken."""

    device: str
    threads: int
    load_average: float
    engine: str
    weights: str
    clip: str
    steps: int
    evaluations: int
    runs: int


@dataclass(frozen=True)
class Speed:
    """Medians over the runs. `first_seconds`: the first clip, with loading and weight packing. Realtime factor above 1 is
    faster than life."""

    conditions: Conditions
    stage_seconds: dict[str, float]
    total_seconds: float
    cpu_seconds: float
    first_seconds: float
    frames: int
    fps: float
    realtime_factor: float
    peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(bundle: Bundle, engine_name: str = "auto", runs: int = 5, progress: Progress = lambda *_: None) -> Speed:
    """Plays the demo clip once to warm up, then `runs` times."""
    engine = open_engine(bundle, engine_name)
    case = demo_case(bundle.clip, bundle.clip.frames)
    player = Player(Score.of(bundle), engine)
    seconds: list[float] = []
    cpu: list[float] = []
    stages: list[dict[str, float]] = []
    frames = evaluations = 0
    for run in range(runs + 1):
        started, cpu_started = time.perf_counter(), time.process_time()
        take = player.perform(case["portrait"], case["speech"], case["prompt"], case["seed"])
        frames = sum(1 for _ in player.frames_of(take))
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
        stages.append(take.seconds)
        evaluations = take.evaluations
        progress("runs", run + 1, runs + 1)
    total = statistics.median(seconds[1:])
    clip = bundle.clip
    return Speed(
        conditions=Conditions(
            device=device_name(), threads=_threads(engine), load_average=round(os.getloadavg()[0], 2), engine=engine.name,
            weights=bundle.manifest.weights.name if engine.name != "torch" else "fp32",
            clip=f"{clip.width}x{clip.height}, {frames} frames, {clip.fps} fps", steps=player.score.plan.steps,
            evaluations=evaluations, runs=runs,
        ),
        stage_seconds={stage: statistics.median(s[stage] for s in stages[1:]) for stage in STAGES},
        total_seconds=total, cpu_seconds=statistics.median(cpu[1:]), first_seconds=seconds[0], frames=frames,
        fps=frames / total, realtime_factor=frames / clip.fps / total, peak_bytes=peak_memory(),
    )  # fmt: skip


def as_run(speed: Speed) -> BenchmarkRun:
    """The figures as a record for the bundle's manifest."""
    rows: list[dict[str, str | int | float | bool | None]] = [
        {"stage": stage, "seconds": round(value, 6)} for stage, value in speed.stage_seconds.items()
    ]
    summary = {k: v for k, v in speed.to_dict().items() if isinstance(v, (int, float))}
    return BenchmarkRun(
        device=speed.conditions.device, threads=max(1, speed.conditions.threads), versions=library_versions(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        rows=(*rows, {"engine": speed.conditions.engine, "weights": speed.conditions.weights, **summary}),
    )  # fmt: skip


def device_name() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    import resource

    status = Path("/proc/self/status")
    if status.exists():  # on Linux `ru_maxrss` of a new process begins with its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)


def _threads(engine: Engine) -> int:
    if engine.name == "executorch":
        return program_file.threads()
    import torch

    return torch.get_num_threads()
