"""Waiting until a device is cool: by the system's word for its warmth, or by its hottest sensor."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ....core.bundle.device_record import THERMAL_STATUSES, Means, ThermalStatus
from ....core.errors import ConfigError
from .faults import fault

EVERY = 5.0  # seconds between two looks
_DEGREES = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,2})?")
COLDEST, HOTTEST = 20.0, 120.0
USUAL = {"host": "off", "adb": "none", "ios": "none", "ssh": "55"}


@dataclass(frozen=True)
class Warmth:
    """What a device tells: the system's word, and degrees Celsius of the hottest sensor that counts. None: not told."""

    status: ThermalStatus | None = None
    celsius: float | None = None

    def __str__(self) -> str:
        told = [] if self.status is None else [f"status {self.status}"]
        return " and ".join(told + ([] if self.celsius is None else [f"{self.celsius:.1f} °C"])) or "an unknown temperature"


@dataclass(frozen=True)
class Cooling:
    """What is waited for: a status that is at most this one, or degrees Celsius; neither: nothing."""

    status: ThermalStatus | None
    celsius: float | None
    timeout: float

    @classmethod
    def of(cls, text: str | None, means: Means, timeout: float) -> Cooling:
        """ "light" or "55" or "off" -> what is waited for; None: what is usual for such a device.

        Raises:
            ConfigError: it is none of these.
        """
        given = (USUAL[means] if text is None else text).strip().lower()
        if given == "off":
            return cls(None, None, timeout)
        if given in THERMAL_STATUSES:
            return cls(THERMAL_STATUSES[THERMAL_STATUSES.index(given)], None, timeout)
        if _DEGREES.fullmatch(given) and COLDEST <= float(given) <= HOTTEST:
            return cls(None, float(given), timeout)
        raise ConfigError(
            f"--cool is {text!r}; write off, a temperature from {COLDEST:g} to {HOTTEST:g} °C such as 45, or a word of Android's: "
            f"{', '.join(THERMAL_STATUSES[:-1])}."
        )

    @property
    def wanted(self) -> bool:
        return self.status is not None or self.celsius is not None

    def __str__(self) -> str:
        return f"status {self.status}" if self.status is not None else f"{self.celsius:g} °C" if self.celsius is not None else ""

    def reached(self, warmth: Warmth) -> bool | None:
        """None: the device does not tell."""
        if self.status is not None:
            return None if warmth.status is None else _rank(warmth.status) <= _rank(self.status)
        if self.celsius is not None:
            return None if warmth.celsius is None else warmth.celsius <= self.celsius
        return True

    def wait(
        self,
        warmth: Callable[[], Warmth],
        device: str,
        progress: Callable[[str, int, int], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> float | None:
        """Seconds that were waited; None where nothing was waited for, or the device does not tell how warm it is.

        Raises:
            DeviceError: it has not cooled down in time.
        """
        if not self.wanted:
            return None
        began = clock()
        while True:
            now = warmth()
            reached, waited = self.reached(now), clock() - began
            if reached is None:
                return None
            if reached:
                return waited
            if waited >= self.timeout:
                raise fault("hot", device=device, waited=in_words(self.timeout), now=now, limit=self)
            progress("cooling", round(waited), round(self.timeout))
            sleep(min(EVERY, max(0.05, self.timeout - waited)))


def in_words(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


def _rank(status: ThermalStatus) -> int:
    return THERMAL_STATUSES.index(status)
