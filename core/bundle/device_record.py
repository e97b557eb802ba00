"""What a benchmark on a device tells beside its times: how warm it was, its battery and clocks, and its speed over many minutes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field

from .fields import Count, Name, Record

Means = Literal["host", "adb", "ios", "ssh"]
ThermalStatus = Literal["none", "light", "moderate", "severe", "critical", "emergency", "shutdown"]
THERMAL_STATUSES: tuple[ThermalStatus, ...] = get_args(ThermalStatus)  # in Android's order: 0 to 6

BEGINNING, WINDOW = 0.1, 0.05  # shares of a sustained run: what it is measured by, and what is measured
THROTTLED = 0.9  # of the beginning's frames per second: below, the device is throttled
_AGREE = 0.01  # share by which what follows from times may differ from them: both are rounded

Seconds = Annotated[float, Field(ge=0)]


class DeviceState(Record):
    """A device before or after its clips; None: not told. thermal_status: the system's word (iOS: nominal is none, fair light,
    serious severe). governors, clocks_mhz: of a group of cores that are clocked together, such as policy4."""

    thermal_status: ThermalStatus | None = None
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    battery_celsius: float | None = None
    charging: bool | None = None
    governors: dict[str, str] | None = None
    clocks_mhz: dict[str, float] | None = None


class Window(Record):
    """A part of a sustained run: the median frames per second of the clips that were finished in it."""

    start_s: Seconds
    clips: Annotated[int, Field(ge=1)]
    fps: Annotated[float, Field(gt=0)]


class Sustained(Record):
    """Clips one behind the other until `seconds` were over. ends_s: when each was finished, in seconds since the first began, so
    that the differences are what each took.

    first_fps: the median of the clips that were finished in the first tenth of the time, of the first clip where none was. windows:
    twentieths of the time in which a clip was finished. throttled_at_s: where the first window behind that tenth begins whose
    median is below nine tenths of first_fps; None: nowhere.
    """

    seconds: Annotated[float, Field(gt=0)]
    ends_s: Annotated[list[Seconds], Field(min_length=1)]
    first_fps: Annotated[float, Field(gt=0)]
    windows: Annotated[list[Window], Field(min_length=1)]
    throttled_at_s: Seconds | None

    @classmethod
    def of(cls, seconds: float, ends: Sequence[float], frames: int) -> Self:
        """Of clips of `frames` frames.

        Raises:
            ValueError: a clip was finished before the one in front of it, or none was.
        """
        told = [round(end, 4) for end in ends]  # first of all: rounded later, one could lie in another window than it is counted in
        took = [end - begin for begin, end in zip((0.0, *told), told, strict=False)]
        if not took or min(took) <= 0:
            raise ValueError(f"ends_s are not the growing times of clips: {told[:5]}")
        rates = [frames / each for each in took]
        beginning, length = seconds * BEGINNING, seconds * WINDOW
        first = statistics.median([rate for rate, end in zip(rates, told, strict=True) if end <= beginning] or rates[:1])
        found: dict[int, list[float]] = {}
        for rate, end in zip(rates, told, strict=True):
            found.setdefault(int(end / length), []).append(rate)
        windows = [
            Window(start_s=round(place * length, 3), clips=len(some), fps=round(statistics.median(some), 4))
            for place, some in sorted(found.items())
        ]
        slow = (each.start_s for each in windows if each.start_s >= beginning and each.fps < THROTTLED * first)
        return cls(seconds=seconds, ends_s=told, first_fps=round(first, 4), windows=windows, throttled_at_s=next(slow, None))

    def disagrees(self, frames: int) -> str | None:
        """What does not follow from the times; None: all does."""
        own = Sustained.of(self.seconds, self.ends_s, frames)
        if abs(own.first_fps - self.first_fps) > _AGREE * own.first_fps:
            return f"first_fps is {self.first_fps:g}, but the clips' times make it {own.first_fps:g}"
        if [(each.start_s, each.clips) for each in own.windows] != [(each.start_s, each.clips) for each in self.windows]:
            return "windows are not those of the clips' times"
        for mine, told in zip(own.windows, self.windows, strict=True):
            if abs(mine.fps - told.fps) > _AGREE * mine.fps:
                return f"fps of the window at {told.start_s:g} s is {told.fps:g}, but the clips' times make it {mine.fps:g}"
        if own.throttled_at_s != self.throttled_at_s:
            return f"throttled_at_s is {self.throttled_at_s}, but the clips' times make it {own.throttled_at_s}"
        return None


class DeviceRun(Record):
    """How a device was benchmarked. via: how it was reached. serial: only where it was asked for. app: what played and its version.
    warm_up: clips in front of those that count. cool: what was waited for, such as "status none" or "below 55 °C", None: nothing;
    cooled_s: how long. pushed_bytes: what was new to the device. peak_pss_bytes: Android's share of memory that others use, too."""

    via: Means
    serial: Name | None
    app: Name
    warm_up: Annotated[int, Field(ge=1)]
    cool: Name | None
    cooled_s: Seconds
    pushed_bytes: Count
    before: DeviceState
    after: DeviceState
    peak_pss_bytes: Count | None
    sustained: Sustained | None
