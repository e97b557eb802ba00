"""runtime/bench/devices/cooling.py, with a clock of its own."""

from __future__ import annotations

import pytest

from echoedge.core.errors import ConfigError, DeviceError
from echoedge.runtime.bench.devices.cooling import EVERY, Cooling, Warmth


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def falling(clock: Clock) -> Warmth:
    """A degree less every ten seconds, from 60."""
    return Warmth(None, 60 - (clock.now - 100) / 10)


def test_it_waits_as_long_as_it_takes_and_no_longer() -> None:
    clock = Clock()
    waited = Cooling.of("45", "ssh", 900).wait(lambda: falling(clock), "a board", clock=clock, sleep=clock.sleep)
    assert waited == pytest.approx(150, abs=EVERY)
    clock = Clock()
    with pytest.raises(DeviceError, match=r"not cooled down in 2 min: it is at 48\.0 °C, and 45 °C was waited for") as caught:
        Cooling.of("45", "ssh", 120).wait(lambda: falling(clock), "a board", clock=clock, sleep=clock.sleep)
    assert (caught.value.fault, clock.now) == ("hot", 220)


@pytest.mark.parametrize(
    ("text", "means", "warmth", "reached"),
    [
        (None, "adb", Warmth("none"), True), (None, "adb", Warmth("light"), False), ("light", "adb", Warmth("light"), True),
        ("light", "adb", Warmth("moderate"), False), (None, "ssh", Warmth(None, 55.0), True),
        (None, "ssh", Warmth(None, 55.1), False), ("light", "ssh", Warmth(None, 99.0), None),
        ("40", "adb", Warmth("severe", None), None), (None, "host", Warmth(None, 99.0), True),
    ],
)  # fmt: skip
def test_what_is_cool_enough(text: str | None, means: str, warmth: Warmth, reached: bool | None) -> None:
    cooling = Cooling.of(text, means, 0.0)  # type: ignore[arg-type]
    assert cooling.reached(warmth) is reached
    if reached is False:
        with pytest.raises(DeviceError):
            cooling.wait(lambda: warmth, "it")
    else:
        assert cooling.wait(lambda: warmth, "it") in (
            (None,) if reached is None or not cooling.wanted else (pytest.approx(0, abs=5),)
        )


@pytest.mark.parametrize("text", ["", "cold", "19", "121", "-40", "40C", "٤٠", "shut down"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write off, a temperature from 20 to 120"):
        Cooling.of(text, "adb", 1.0)
