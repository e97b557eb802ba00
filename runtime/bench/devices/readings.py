"""What a device tells of its warmth, battery and clocks: one script for any Linux, Android's dumpsys, and who reads their words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ....core.bundle.device_record import THERMAL_STATUSES, DeviceState, ThermalStatus
from .cooling import Warmth

# A line for each sensor, group of cores and battery; what may not be read is left out. /sys is Linux's, Android's too.
LINUX = """
for z in /sys/class/thermal/thermal_zone*; do
  t=$(cat "$z/temp" 2>/dev/null) && echo "sensor ${z##*zone} $t $(cat "$z/type" 2>/dev/null)"
done
for p in /sys/devices/system/cpu/cpufreq/policy*; do
  g=$(cat "$p/scaling_governor" 2>/dev/null) && echo "cores ${p##*/} $g $(cat "$p/scaling_cur_freq" 2>/dev/null)"
done
for b in /sys/class/power_supply/*; do
  [ "$(cat "$b/type" 2>/dev/null)" = Battery ] || continue
  echo "battery $(cat "$b/capacity" 2>/dev/null || echo -) $(cat "$b/temp" 2>/dev/null || echo -) $(cat "$b/status" 2>/dev/null)"
done
echo "load $(cat /proc/loadavg 2>/dev/null)"
"""
# The same of a phone, behind it what its system tells: temperatures by name, the word for its warmth, the battery.
ANDROID = f"""{LINUX}
echo "== thermalservice"; dumpsys thermalservice 2>/dev/null
echo "== battery"; dumpsys battery 2>/dev/null
"""
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+), mName=([^,}]+), mStatus=(\d+)\}")
_SKIN, _BATTERY = 3, 2  # kinds of Android's sensors; processors are hot for seconds, what one holds in the hand counts
_LIKELY = (1.0, 150.0)  # degrees Celsius of a sensor that is there: others tell 0, -99.9 or -273


@dataclass(frozen=True)
class Reading:
    """temperatures: degrees Celsius by sensor, None where none is told; warmth: what is waited for."""

    state: DeviceState = field(default_factory=DeviceState)
    temperatures: dict[str, float] | None = None
    load: float | None = None
    warmth: Warmth = field(default_factory=Warmth)


def read_linux(text: str) -> Reading:
    """What LINUX printed."""
    temperatures: dict[str, float] = {}
    governors: dict[str, str] = {}
    clocks: dict[str, float] = {}
    battery: dict[str, object] = {}
    load = None
    for line in text.splitlines():
        kind, *words = line.split(maxsplit=3)
        if kind == "sensor" and len(words) >= 2 and (degrees := _number(words[1], 1000)) is not None:
            name = words[2] if len(words) > 2 else words[0]
            temperatures[f"{name} {words[0]}" if name in temperatures else name] = degrees
        elif kind == "cores" and len(words) >= 2:
            governors[words[0]] = words[1]
            if len(words) > 2 and (megahertz := _number(words[2], 1000)) is not None:
                clocks[words[0]] = megahertz
        elif kind == "battery" and len(words) == 3:
            battery = {
                "battery_percent": _number(words[0]), "battery_celsius": _number(words[1], 10), "charging": words[2] == "Charging",
            }  # fmt: skip
        elif kind == "load" and words:
            load = _number(words[0])
    state = DeviceState(governors=governors or None, clocks_mhz=clocks or None, **battery)  # type: ignore[arg-type]
    hottest = max((each for each in temperatures.values() if _LIKELY[0] < each < _LIKELY[1]), default=None)
    return Reading(state, temperatures or None, load, Warmth(None, hottest))


def read_android(text: str) -> Reading:
    """What ANDROID printed."""
    plain, _, rest = text.partition("== thermalservice")
    thermal, _, battery = rest.partition("== battery")
    linux = read_linux(plain)
    live = thermal.partition("Current temperatures from HAL")[2].partition("Current cooling")[0]  # above are those of some time ago
    found = [(float(value), int(kind), name) for value, kind, name, _ in _TEMPERATURE.findall(live)]
    likely = {name: (value, kind) for value, kind, name in found if _LIKELY[0] < value < _LIKELY[1]}
    told = _android_battery(battery)
    status = _status(thermal)
    state = linux.state.model_copy(update=told | {"thermal_status": status})
    held = [value for value, kind in likely.values() if kind == _SKIN] or [v for v, kind in likely.values() if kind == _BATTERY]
    celsius = max(held) if held else told.get("battery_celsius")
    temperatures = {name: value for name, (value, _) in likely.items()} or linux.temperatures
    return Reading(state, temperatures, linux.load, Warmth(status, celsius))  # type: ignore[arg-type]


def _android_battery(text: str) -> dict[str, object]:
    fields = dict(re.findall(r"^\s*([\w ]+): *(\S+)\s*$", text, re.MULTILINE))
    level, scale, tenths = (_number(fields.get(name, "")) for name in ("level", "scale", "temperature"))
    percent = None if level is None else min(100.0, 100 * level / (scale or 100))
    return {
        "battery_percent": percent, "battery_celsius": None if tenths is None else tenths / 10,
        "charging": None if "status" not in fields else fields["status"] == "2",
    }  # fmt: skip


def _status(text: str) -> ThermalStatus | None:
    told = re.search(r"Thermal Status: (\d+)", text)
    return THERMAL_STATUSES[int(told[1])] if told and int(told[1]) < len(THERMAL_STATUSES) else None


def _number(text: str, divisor: float = 1.0) -> float | None:
    try:
        return round(float(text) / divisor, 3)
    except ValueError:
        return None


def pss_bytes(text: str) -> int | None:
    """Of what `dumpsys meminfo -s PACKAGE` prints: "TOTAL PSS:" in kilobytes, "TOTAL:" before Android 11."""
    told = re.search(r"TOTAL(?: PSS)?:\s+(\d+)", text)
    return int(told[1]) * 1024 if told else None


def last_exit(text: str, pid: str) -> tuple[int, str, str] | None:
    """Of what `dumpsys activity exit-info PACKAGE` prints: reason, its word and description of the process `pid`; None: it is not
    there (Android 10 and before keep none)."""
    for entry in re.split(r"ApplicationExitInfo #\d+:", text)[1:]:
        number = re.search(r"\bpid=(\d+)", entry)
        reason = re.search(r"(?<!sub)reason=(\d+)(?: \((.*?)\) (?=subreason|status|\s))?", entry)
        if number and number[1] == pid and reason:
            about = re.search(r"description=(.*?)(?: state=|\n|$)", entry)
            return int(reason[1]), reason[2] or "", about[1] if about else ""
    return None
