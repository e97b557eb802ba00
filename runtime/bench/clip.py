"""How fast a clip is played here: stage by stage, program by program, with the conditions it was measured under."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from ...core.bundle import DECODE_PROGRAMS, Bundle
from ...core.bundle.bench_record import BenchRecord, Spread, Workload, clip_rates, now
from ...core.bundle.engine_record import EngineRecord
from ...core.errors import EchoEdgeError, EngineError, ResourceError
from ...core.memory import peak_bytes
from ...core.versions import library_versions
from ..engines import open_engine
from ..engines.around import Call, Timed
from ..play.material import Material, demo_material
from ..play.player import STAGES, Player
from ..play.setting import Setting, Wanted
from .machine import device_name as device_name
from .machine import load_average, thermal, this_machine

Progress = Callable[[str, int, int], None]


@dataclass
class Played:
    """One clip: seconds, by stage too, and every call of the engine."""

    seconds: float
    cpu_seconds: float
    first_frame: float
    stages: dict[str, float]
    calls: list[Call]
    frames: int
    evaluations: int

    def of(self, program: str) -> float:
        return sum(call.seconds for call in self.calls if call.program == program)


@dataclass(frozen=True)
class Course:
    """How clips are played beside those that count: `warm_up` in front of them, then, where `sustained` seconds are asked for, one
    behind the other until they are over, then with `reload` one of a player that was opened again."""

    warm_up: int = 1
    sustained: float | None = None
    reload: bool = True


@dataclass(frozen=True)
class Times:
    """Clips that were played one after the other. `opening`: seconds until a player was there, of the first and of one opened again
    behind the last; `again`: the clip that that one played, None where there was none; `ends`: seconds from the first clip of a
    sustained run to the end of each."""

    first: Played
    runs: list[Played]
    opening: tuple[float, float]
    again: Played | None
    threads: int
    peak_bytes: int
    thermal: tuple[dict[str, float] | None, dict[str, float] | None]
    load: tuple[float | None, float | None]
    ends: list[float] = field(default_factory=list)

    def load_seconds(self, played: Played, opening: float) -> float:
        """Opening, and what the first call of each method took longer than the median of later ones."""
        usual: dict[tuple[str, str], list[float]] = {}
        for run in self.runs:
            for program, method, seconds in run.calls:
                usual.setdefault((program, method), []).append(seconds)
        firsts: dict[tuple[str, str], float] = {}
        for program, method, seconds in played.calls:
            firsts.setdefault((program, method), seconds)
        return opening + sum(max(0.0, seconds - statistics.median(usual[place])) for place, seconds in firsts.items())

    def record(self, **fields: Any) -> BenchRecord:
        """The record of these times; `fields`: whose they are."""
        runs, workload = self.runs, fields["workload"]
        stages = {stage: Spread.of([run.stages[stage] for run in runs]) for stage in STAGES}
        clip, frames = Spread.of([run.seconds for run in runs]), runs[0].frames
        programs = dict.fromkeys(call.program for call in runs[0].calls)
        second = None if self.again is None else self.load_seconds(self.again, self.opening[1])
        return BenchRecord(
            date=now(), versions=library_versions(), threads=self.threads, runs=len(runs), stages=stages,  # type: ignore[arg-type]
            programs={name: Spread.of([run.of(name) for run in runs]) for name in programs}, clip=clip,
            step=Spread.of([call.seconds for run in runs for call in run.calls if call.program == "denoise"]),
            first_frame=Spread.of([run.first_frame for run in runs]),
            cpu_ms=milliseconds(statistics.median(run.cpu_seconds for run in runs)),
            first_load_ms=milliseconds(self.load_seconds(self.first, self.opening[0])),
            second_load_ms=None if second is None else milliseconds(second), frames=frames,
            **clip_rates(frames, workload.fps, clip.median, stages["decode"].median),
            peak_rss_bytes=self.peak_bytes, thermal_before=self.thermal[0], thermal_after=self.thermal[1],
            load_average_before=self.load[0], load_average_after=self.load[1], **fields,
        )  # fmt: skip


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)


@dataclass
class Stopwatch:
    """Plays the same clip again and again. `opened` gives a player, with nothing loaded; `settle` waits for the device."""

    opened: Callable[[], Player]
    case: Material
    prompt: str
    settle: Callable[[], None] = lambda: None
    progress: Progress = lambda *_: None
    done: int = field(default=0, init=False)

    def times(self, runs: int, reload: bool = True, warm_up: int = 1, sustained: float | None = None) -> Times:
        """First clips, `runs` that count, then as `Course` says."""
        total, heat, load = runs + warm_up + reload, thermal(), load_average()
        opening, player, engine = self._open()
        first, *played = [self._played(player, engine, total) for _ in range(warm_up + runs)]
        played = played[warm_up - 1 :]
        ends = [] if sustained is None else self._sustained(player, engine, sustained)
        heat_after, load_after, peak, threads = thermal(), load_average(), peak_bytes(), engine.threads
        second, again = 0.0, None
        if reload:
            del player, engine
            gc.collect()
            second, player, engine = self._open()
            again = self._played(player, engine, total)
        return Times(first, played, (opening, second), again, threads, peak, (heat, heat_after), (load, load_after), ends)

    def _sustained(self, player: Player, engine: Timed, seconds: float) -> list[float]:
        """Clips until `seconds` are over, at least one; the clock runs on between them."""
        began, ends = time.perf_counter(), [0.0]
        while ends[-1] < seconds:
            self._play(player, engine)
            ends.append(time.perf_counter() - began)
            self.progress("sustained", min(round(ends[-1]), round(seconds)), round(seconds))
        return ends[1:]

    def _open(self) -> tuple[float, Player, Timed]:
        started = time.perf_counter()
        player = self.opened()
        engine = Timed(player.engine, self.settle)
        player.engine = engine
        return time.perf_counter() - started, player, engine

    def _played(self, player: Player, engine: Timed, total: int) -> Played:
        played = self._play(player, engine)
        self.done += 1
        self.progress("runs", self.done, total)
        return played

    def _play(self, player: Player, engine: Timed) -> Played:
        engine.calls = []
        started, cpu_started = time.perf_counter(), time.process_time()
        made = player.generate(self.case.portrait, self.case.speech, self.prompt, self.case.seed)
        frames, first_frame = 0, 0.0
        for _ in player.frames_of(made):
            first_frame = first_frame or time.perf_counter() - started
            frames += 1
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        return Played(seconds, cpu, first_frame, made.seconds, engine.calls, frames, made.evaluations)


def measure(bundle: Bundle, wanted: Wanted, runs: int = 5, progress: Progress = lambda *_: None) -> BenchRecord:
    """Plays a demo portrait and voice of the wanted shape once to warm up, then `runs` times, then once more with everything loaded
    again; with the portrait's prompt or, where the bundle reads no text, with the first that it knows.

    Raises:
        ConfigError, EngineError, InputError, ResourceError: as `Setting`.
    """
    return measure_course(bundle, wanted, runs, Course(), None, progress)[0]


def measure_course(
    bundle: Bundle, wanted: Wanted, runs: int, course: Course, case: Material | None = None, progress: Progress = lambda *_: None
) -> tuple[BenchRecord, list[float]]:
    """As `measure`, by a course of its own, and of other material than the demo's; beside the record `Times.ends`. Raises as it."""
    setting = Setting.of(bundle, wanted)
    clip = setting.clip
    case = case or demo_material(clip, whole=False)
    prompt = setting.prompt(wanted.prompt, case.prompt, any_of_several=True)
    engine = ""

    def opened() -> Player:
        nonlocal engine
        player = setting.player(clip.frames / clip.fps)
        engine = player.engine.name
        return player

    times = Stopwatch(opened, case, prompt, progress=progress).times(runs, course.reload, course.warm_up, course.sustained)
    own = engine == bundle.manifest.target.name
    record = times.record(
        workload=workload_of(setting, prompt), manifest_sha256=bundle.manifest_sha256, engine=EngineRecord.of(bundle, engine),
        mode="ahead-of-time" if own else "eager", savings=True, machine=this_machine(), peak_device_bytes=None,
        disk_bytes=bundle.bytes if own else None,
    )  # fmt: skip
    return record, times.ends


def workload_of(setting: Setting, prompt: str) -> Workload:
    """One window of the wanted shape."""
    clip, plan, model = setting.clip, setting.config.plan, setting.bundle.model
    program = setting.decoder or next(iter(setting.bundle.manifest.playing.decoders.values()))
    return Workload(
        model=model.name, layers=model.layers, height=clip.height, width=clip.width, frames=clip.frames, fps=clip.fps,
        steps=plan.steps, branches=len(plan.branches), evaluations=plan.evaluations,
        decoder=next(name for name, role in DECODE_PROGRAMS.items() if role == program), prompt=prompt,  # type: ignore[arg-type]
    )  # fmt: skip


def measure_engines(
    bundle: Bundle, wanted: Wanted, engines: Sequence[str], runs: int = 5, progress: Progress = lambda *_: None
) -> tuple[BenchRecord, ...]:
    """`measure` with each of `engines`; of several, each in a process of its own. One that cannot play is refused before any is
    measured. Raises as `measure`."""
    for name in engines if len(engines) > 1 else ():
        open_engine(bundle, name, Setting.of(bundle, wanted).clip)
    one = measure if len(engines) == 1 else measure_apart
    return tuple(one(bundle, replace(wanted, engine=name), runs, progress) for name in engines)


def measure_apart(bundle: Bundle, wanted: Wanted, runs: int = 5, progress: Progress = lambda *_: None) -> BenchRecord:
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
            if isinstance(message, BenchRecord):
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
