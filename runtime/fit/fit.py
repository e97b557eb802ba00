"""Whether a workload fits a device, and the cheapest change that would make it fit, found by trying.

What a change costs the picture decides its place: the small decoder, fewer frames in a window, coarser weights, fewer steps, a
smaller picture. The first one alone that fits is told; where none does, they are taken together, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ...core.config import SIZE_MULTIPLE, ClipSpec
from ...core.memory import Need
from ...core.plan import check_number
from ...quantize.recipes import PRESETS
from .devices import Device
from .estimate import Rates, Seconds, disk_bytes, flops_by_type, memory, seconds
from .workload import Workload, changed, fewer_steps

COARSER = {"fp32": ("int8", "int4"), "int8": ("mixed", "int4"), "mixed": ("int4",)}
FRAMES = (13, 9, 5)  # of a window, tried below what is asked
SMALLER = ((3, 4), (2, 3), (1, 2))  # of a picture's sides, each of the size before: three quarters, half, a quarter
LEAST_SIDE = 64
SLOWEST = 1e6  # seconds per second of video that somebody may ask for


@dataclass(frozen=True)
class Forecast:
    """What a workload takes of a device. `allowed`: bytes that the device leaves an app; `together`: programs stay loaded;
    `within`: seconds per second of video that are wanted, None for any."""

    work: Workload
    need: Need
    allowed: int
    together: bool
    disk: int
    seconds: Seconds
    within: float | None = None

    @property
    def per_second(self) -> float:
        """Seconds that a second of video takes, loading aside."""
        return self.seconds.total / self.work.video_seconds

    @property
    def holds(self) -> bool:
        """Whether memory is enough."""
        return self.need.total <= self.allowed

    @property
    def fits(self) -> bool:
        return self.holds and (self.within is None or self.per_second <= self.within)

    @property
    def dominant(self) -> str:
        """What takes most of what is short: of memory where that is, else of the time."""
        return f"memory for {self.need.largest}" if not self.holds else self.slowest

    @property
    def slowest(self) -> str:
        stage = max(self.seconds.stages, key=lambda name: self.seconds.stages[name])
        kind = max(self.seconds.kinds, key=lambda name: self.seconds.kinds[name])
        return f"time for {stage}, mostly {kind}" if self.seconds.total else "nothing"

    def to_dict(self) -> dict[str, Any]:
        work = self.work
        return {
            "model": work.sizes.transformer.name, "weights": work.recipe.name, "clip": str(work.clip), "fps": work.clip.fps,
            "steps": work.plan.steps, "branches": len(work.plan.branches), "windows": work.windows, "decoder": work.decoder,
            "video_seconds": work.video_seconds, "fits": self.fits, "memory_bytes": self.need.total, "allowed_bytes": self.allowed,
            "memory_terms": dict(self.need.terms), "programs_stay_loaded": self.together, "disk_bytes": self.disk,
            "load_seconds": self.seconds.load, "seconds": self.seconds.total, "seconds_per_second": self.per_second,
            "stage_seconds": dict(self.seconds.stages), "kind_seconds": dict(self.seconds.kinds), "flops": flops_by_type(work),
            "dominant": self.dominant, "within": self.within,
        }  # fmt: skip


@dataclass(frozen=True)
class Change:
    """Options that make it fit, and what they come to."""

    options: tuple[str, ...]
    forecast: Forecast

    def to_dict(self) -> dict[str, Any]:
        return {"options": list(self.options), "forecast": self.forecast.to_dict()}


@dataclass(frozen=True)
class Fit:
    """The answer. `change`: None where it fits, or where nothing that was tried does; `tried`: how many other workloads were."""

    device: Device
    forecast: Forecast
    change: Change | None
    tried: int

    @property
    def fits(self) -> bool:
        return self.forecast.fits

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "echoedge.fit/1", "device": self.device.to_dict(), "forecast": self.forecast.to_dict(),
            "change": None if self.change is None else self.change.to_dict(), "tried": self.tried,
        }  # fmt: skip


def fit(
    work: Workload,
    device: Device,
    rates: Rates,
    *,
    within: float | None = None,
    stays: Callable[[Workload], bool] = lambda _: False,
) -> Fit:
    """`stays`: whether programs of a workload stay loaded together; on a phone each is freed before the next.

    Raises:
        ConfigError: `within` is out of range.
    """
    if within is not None:
        check_number("within", within, 0.001, SLOWEST)

    def forecast(given: Workload) -> Forecast:
        together = stays(given)
        need = memory(given, int(device.process_bytes.value), together)
        return Forecast(given, need, int(device.app_bytes.value), together, disk_bytes(given), seconds(given, rates), within)

    first = forecast(work)
    if first.fits:
        return Fit(device, first, None, 0)
    tried = 0
    for options, other in alternatives(work):
        tried += 1
        found = forecast(other)
        if found.fits:
            return Fit(device, first, Change(options, found), tried)
    return Fit(device, first, None, tried)


Alternative = tuple[tuple[str, ...], Workload]


def alternatives(work: Workload) -> Iterator[Alternative]:
    """Cheaper workloads, the one first that costs the picture least."""
    kinds = (_decoder, _frames, _weights, _steps, _size)
    for kind in kinds:
        for option, other in kind(work):
            yield (option,), other
    options: tuple[str, ...] = ()
    for kind in kinds:
        strongest = list(kind(work))[-1:]
        for option, work in strongest:
            options = (*options, option)
            if len(options) > 1:
                yield options, work


def _decoder(work: Workload) -> Iterator[tuple[str, Workload]]:
    if work.decoder == "full" and not work.built_in:
        yield "--decoder tiny", changed(work, decoder="tiny")


def _frames(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Shorter windows of the same film."""
    film = work.seconds if work.seconds is not None else work.video_seconds
    for frames in FRAMES:
        if frames < work.clip.frames:
            clip = ClipSpec(work.clip.height, work.clip.width, frames, work.clip.fps, work.clip.sample_rate)
            yield f"--frames {frames}", changed(work, clip=clip, seconds=film)


def _weights(work: Workload) -> Iterator[tuple[str, Workload]]:
    for name in COARSER.get(work.recipe.name, ()):
        yield f"--weights {name}", changed(work, recipe=PRESETS[name])


def _steps(work: Workload) -> Iterator[tuple[str, Workload]]:
    while (plan := fewer_steps(work)) is not None:
        work = changed(work, plan=plan)
        yield f"--steps {plan.steps}", work


def _size(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Smaller pictures of the same shape, where the model reads other sizes."""
    if work.built_in:
        return
    sides = (work.clip.height, work.clip.width)
    for part, whole in SMALLER:
        height, width = (max(min(LEAST_SIDE, side), side * part // whole // SIZE_MULTIPLE * SIZE_MULTIPLE) for side in sides)
        if height * width < sides[0] * sides[1]:
            sides = (height, width)
            clip = ClipSpec(height, width, work.clip.frames, work.clip.fps, work.clip.sample_rate)
            yield f"--size {height}x{width}", changed(work, clip=clip)
