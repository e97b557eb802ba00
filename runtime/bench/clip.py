"""How fast a bundle plays here: stage by stage, with the conditions it was measured under."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...core.bundle import DECODE_PROGRAMS, Bundle
from ...core.bundle.records import EngineRecord
from ...core.errors import EchoEdgeError, EngineError, ResourceError
from ...core.memory import peak_bytes, usable_cores
from ..engines import open_engine
from ..play.material import demo_material
from ..play.player import STAGES
from ..play.setting import Setting, Wanted

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchConditions:
    """Where and how the figures were taken. `decoder`: full or tiny."""

    device: str
    threads: int
    load_average: float
    engine: str
    weights: str
    clip: str
    decoder: str
    prompt: str
    steps: int
    evaluations: int
    runs: int


@dataclass(frozen=True)
class Speed:
    """Medians over the runs. `first_seconds`: the first clip, with loading and weight packing. Realtime factor above 1 is
    faster than life. `peak_bytes`: of the process that measured."""

    conditions: BenchConditions
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

    def summary(self) -> str:
        """The figures in a line."""
        c = self.conditions
        return (
            f"{c.clip}, decoder {c.decoder}: {self.total_seconds:.2f} s, {self.fps:.1f} frames per second, realtime factor "
            f"{self.realtime_factor:.2f}, peak memory {self.peak_bytes / 1e6:.0f} MB; median of {c.runs}"
        )


def measure(bundle: Bundle, wanted: Wanted, runs: int = 5, progress: Progress = lambda *_: None) -> Speed:
    """Plays a demo portrait and voice of the wanted shape once to warm up, then `runs` times, with the portrait's prompt; where
    the bundle reads no text, with the first that it knows.

    Raises:
        ConfigError, EngineError, InputError, ResourceError: as `Setting`.
    """
    setting = Setting.of(bundle, wanted)
    clip = setting.clip
    case = demo_material(clip, whole=False)
    prompt = setting.prompt(wanted.prompt, case.prompt, any_of_several=True)
    player = setting.player(clip.frames / clip.fps)
    engine = player.engine
    seconds: list[float] = []
    cpu: list[float] = []
    stages: list[dict[str, float]] = []
    frames = evaluations = 0
    for run in range(runs + 1):
        started, cpu_started = time.perf_counter(), time.process_time()
        made = player.generate(case.portrait, case.speech, prompt, case.seed)
        frames = sum(1 for _ in player.frames_of(made))
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
        stages.append(made.seconds)
        evaluations = made.evaluations
        progress("runs", run + 1, runs + 1)
    total = statistics.median(seconds[1:])
    return Speed(
        conditions=BenchConditions(
            device=device_name(), threads=engine.threads, load_average=round(os.getloadavg()[0], 2), engine=engine.name,
            weights=EngineRecord.of(bundle, engine.name).weights, clip=f"{clip}, {clip.fps} fps",
            decoder=next(name for name, program in DECODE_PROGRAMS.items() if program == player.decoder), prompt=prompt,
            steps=player.config.plan.steps, evaluations=evaluations, runs=runs,
        ),
        stage_seconds={stage: statistics.median(s[stage] for s in stages[1:]) for stage in STAGES},
        total_seconds=total, cpu_seconds=statistics.median(cpu[1:]), first_seconds=seconds[0], frames=frames,
        fps=frames / total, realtime_factor=frames / clip.fps / total, peak_bytes=peak_bytes(),
    )  # fmt: skip


def measure_engines(
    bundle: Bundle, wanted: Wanted, engines: Sequence[str], runs: int = 5, progress: Progress = lambda *_: None
) -> tuple[Speed, ...]:
    """`measure` with each of `engines`; of several, each in a process of its own. One that cannot play is refused before any is
    measured. Raises as `measure`."""
    for name in engines if len(engines) > 1 else ():
        open_engine(bundle, name, Setting.of(bundle, wanted).clip)
    one = measure if len(engines) == 1 else measure_apart
    return tuple(one(bundle, replace(wanted, engine=name), runs, progress) for name in engines)


def measure_apart(bundle: Bundle, wanted: Wanted, runs: int = 5, progress: Progress = lambda *_: None) -> Speed:
    """`measure` in a process of its own, so that what other engines loaded counts neither as its memory nor as loaded already.

    Raises:
        ConfigError, EngineError, InputError, ResourceError: as `measure`; the last also where the process was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_send, args=(sender, bundle, wanted, runs))
    process.start()
    sender.close()
    try:
        while True:
            message = receiver.recv()
            if isinstance(message, Speed):
                return message
            if isinstance(message, EchoEdgeError):
                raise message
            progress(*message)
    except EOFError:
        process.join()
        if process.exitcode is not None and process.exitcode < 0:
            raise ResourceError(
                f"The process that measured {wanted.engine} was killed (signal {-process.exitcode}), most likely for memory. Close "
                "other programs, or play a smaller shape."
            ) from None
        raise EngineError(f"The process that measured {wanted.engine} failed; what it said stands above. Report it.") from None
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _measure_and_send(sender: Connection, bundle: Bundle, wanted: Wanted, runs: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this
    try:
        sender.send(measure(bundle, wanted, runs, lambda *step: sender.send(step)))
    except EchoEdgeError as error:
        sender.send(error)


def device_name() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {usable_cores()} cores"
