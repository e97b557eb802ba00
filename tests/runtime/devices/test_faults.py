"""Every fault of the table, brought about: the error is its own, says what to do, and nothing of ours is left on the device."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from echoedge.core.bundle.device_record import DeviceState
from echoedge.core.errors import DeviceError
from echoedge.docs import schema
from echoedge.runtime.bench.devices import adb, faults, ios, measure, ssh
from echoedge.runtime.bench.devices.cooling import Warmth
from echoedge.runtime.bench.devices.faults import FAULTS, recognise, table
from echoedge.runtime.bench.devices.readings import Reading

from .lab import EXIT, IPHONE, THERMAL, Lab

Case = tuple[str, dict[str, Any]]  # --device, and what is changed: of the device's state, or by a function of the laboratory
TWO = {"devices": [["SERIAL1", "device", "Pixel_9"], ["SERIAL2", "device", "Pixel_8"]], "phones": [IPHONE, IPHONE]}
BOARD = "ssh:board"


def row(state: str) -> dict[str, Any]:
    return {"devices": [["SERIAL1", state, "Pixel_9"]]}


def phone(part: str, **changes: str) -> dict[str, Any]:
    return {"phones": [IPHONE | {part: {**IPHONE[part], **changes}}]}  # type: ignore[dict-item]


def ended(reason: str, about: str = "null") -> dict[str, Any]:
    return {"exit-info": EXIT.format(reason=reason, about=about)}


def no_tools(lab: Lab) -> None:
    lab.patch.setenv("PATH", str(lab.home / "nowhere"))


def impatient(lab: Lab) -> None:
    for module in (adb, ios, ssh):
        for name in ("ANSWER_S", "SILENT_S"):
            lab.patch.setattr(module, name, 1.5 if name == "ANSWER_S" else 2.0)


def busy(lab: Lab) -> None:
    for folder in ("data/local/tmp", "home/pi/.cache"):
        (lab.root / folder).mkdir(parents=True, exist_ok=True)
        (lab.root / folder / "echoedge-bench.pid").write_text(str(os.getpid()))


def warm_board(lab: Lab) -> None:
    zone = lab.root / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("81500\n")
    (zone / "type").write_text("cpu-thermal\n")


def warm_host(lab: Lab) -> None:
    warm = Reading(DeviceState(), {"cpu": 91.0}, None, Warmth(None, 91.0))
    lab.patch.setattr(measure, "host_reading", lambda: warm)


CASES: dict[str, list[Case]] = {
    "no tool": [(way, {"before": no_tools}) for way in ("adb", "ios", BOARD)],
    "no device": [
        ("adb", {"devices": []}), ("ios", {"phones": []}), ("ios", phone("connectionProperties", tunnelState="unavailable")),
    ],
    "several devices": [("adb", TWO), ("ios", TWO)],
    "unknown device": [("adb:OTHER", {}), ("ios:OTHER", {})],
    "offline": [
        ("adb", row("offline")), ("adb", {"fault": "offline at the first word"}),
        ("ios:UDID-1", phone("connectionProperties", tunnelState="unavailable")),
    ],
    "unauthorised": [("adb", row("unauthorized")), ("ios", phone("connectionProperties", pairingState="unpaired"))],
    "no permission": [("adb", row("no permissions (user in plugdev group; are your udev rules wrong?); see [a page]"))],
    "developer mode": [("ios", {"fault": "developer mode"})],
    "locked": [("ios", {"fault": "locked"})],
    "unreachable": [(BOARD, {"fault": "unreachable"}), (BOARD, {"fault": "no such name"})],
    "host key": [(BOARD, {"fault": "host key"})],
    "login": [(BOARD, {"fault": "login"})],
    "no app": [("adb", {"installed": False}), ("ios", {"installed": False}), ("adb", {"fault": "app of another name"})],
    "no runner": [(BOARD, {"app": "/nowhere/echoedge"})],
    "version": [
        ("adb", {"fault": "another app"}), ("ios", {"fault": "another app"}), (BOARD, {"fault": "another app"}),
        (BOARD, {"fault": "an old runner"}),
    ],
    "no answer": [(way, {"fault": "no answer", "before": impatient}) for way in ("adb", "ios", BOARD)],
    "storage": [
        (way, {"fault": when}) for when in ("storage", "little room") for way in ("adb", "ios", BOARD)
    ],
    "refused": [("adb", {"fault": "refused"}), (BOARD, {"fault": "refused"})],
    "busy": [("adb", {"before": busy}), (BOARD, {"before": busy})],
    "hot": [
        ("adb", {"dumpsys thermalservice": THERMAL.format(status=3, skin=44.0), "cool_timeout": 0.2}),
        ("adb", {"dumpsys thermalservice": THERMAL.format(status=0, skin=44.0), "cool_timeout": 0.2, "cool": "40"}),
        ("ios", {"thermal": "severe", "cool_timeout": 0.2}), (BOARD, {"before": warm_board, "cool_timeout": 0.2}),
        ("host", {"before": warm_host, "cool": "50", "cool_timeout": 0.2}),
    ],
    "memory": [
        ("adb", {"fault": "killed for memory"} | ended("3 (LOW_MEMORY)")),
        ("adb", {"fault": "killed for memory"} | ended("2 (SIGNALED)")),
        ("adb", {"fault": "killed for memory"}), ("ios", {"fault": "killed for memory"}), (BOARD, {"fault": "killed for memory"}),
    ],
    "crashed": [
        ("adb", {"fault": "a crash"} | ended("5 (APP CRASH(NATIVE))", "crash")), ("ios", {"fault": "a crash"}),
        (BOARD, {"fault": "a crash"}),
    ],
    "ended": [
        ("adb", {"fault": "stopped by hand"} | ended("10 (USER REQUESTED)")), ("ios", {"fault": "stopped by hand"}),
        (BOARD, {"fault": "stopped by hand"}),
    ],
    "silent": [(way, {"fault": "silent", "before": impatient}) for way in ("adb", "ios", BOARD)],
    "job": [(way, {"fault": "failed"}) for way in ("adb", "ios", BOARD)],
    "unplugged": [
        (way, {"fault": f"unplugged while it {when}"}) for when in ("is sent", "plays") for way in ("adb", "ios", BOARD)
    ],
    "tool": [("adb", {"fault": "odd words"}), (BOARD, {"fault": "odd words"})],
    "no result": [(way, {"fault": "a wrong record"}) for way in ("adb", "ios", BOARD)],
}  # fmt: skip
HOW = ("app", "cool", "cool_timeout", "before")


def brought_about(lab: Lab, way: str, changes: dict[str, Any]) -> DeviceError:
    how = {name: value for name, value in changes.items() if name in HOW}
    before: Callable[[Lab], None] = how.pop("before", lambda _: None)
    lab.write(**{name: value for name, value in changes.items() if name not in HOW})
    before(lab)
    with pytest.raises(DeviceError) as caught:
        lab.bench(way, **how)
    return caught.value


def waited(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """The guard of a device that is out of reach works by itself; on a busy machine that takes a moment."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.05)
    return true()


def ours_left(lab: Lab) -> list[str]:
    mine = {"data/local/tmp/echoedge-bench.pid", "home/pi/.cache/echoedge-bench.pid"}  # of `busy`: another's
    own = str(os.getpid())
    return [
        name for name in lab.left() if not name.startswith("sys/") and not (name in mine and (lab.root / name).read_text() == own)
    ]


def words_of(name: str) -> str:
    """The sentence and the remedy of a fault as a regular expression."""
    text = f"{FAULTS[name].sentence} {FAULTS[name].remedy}"
    return "".join("(.+)" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", text))


@pytest.mark.parametrize(
    ("name", "way", "changes"), [(name, *case) for name, cases in CASES.items() for case in cases],
    ids=[f"{name}-{case[0]}-{number}" for name, cases in CASES.items() for number, case in enumerate(cases)],
)  # fmt: skip
def test_a_fault_is_told_and_nothing_is_left(name: str, way: str, changes: dict[str, Any], lab: Lab) -> None:
    error = brought_about(lab, way, changes)
    assert error.fault == name, str(error)
    assert re.fullmatch(words_of(name), str(error)), str(error)
    assert "{" not in str(error) and ".." not in str(error) and "\n" not in str(error)
    if name == "unplugged" and way == "ios":
        assert not lab.running()  # its files stay until it is plugged in again: the next test
        return
    assert waited(lambda: not lab.running())
    assert waited(lambda: ours_left(lab) == []), ours_left(lab)


@pytest.mark.parametrize("way", ["ios", "adb"])
def test_a_phone_that_is_plugged_in_again_is_emptied_by_the_next_benchmark(way: str, lab: Lab) -> None:
    brought_about(lab, way, {"fault": "unplugged while it plays"})
    assert way == "adb" or lab.left() != []
    (lab.home / "unplugged").unlink()
    lab.write(fault=None)
    assert lab.bench(way).runs == 3
    assert lab.left() == []


def test_every_fault_is_brought_about() -> None:
    assert set(CASES) == set(FAULTS)
    for name, known in FAULTS.items():
        assert {way.partition(":")[0] for way, _ in CASES[name]} >= set(known.means) - {"host"} or name in ("tool",), name


def test_signs_are_of_one_fault_each() -> None:
    """No sign of a fault is taken for another one's, and words that nobody knows for none."""
    assert recognise("adb", "adb: error: something else") is None
    assert recognise("adb", "Host key verification failed.") is None  # ssh's words from adb
    assert recognise("ssh", "Host key verification failed.") == "host key"
    assert recognise("adb", "error: device offline") == "offline"
    assert recognise("adb", "error: device offline", met=True) == "unplugged"
    assert recognise("ssh", "pi@board: Permission denied (publickey).") == "login"
    assert recognise("ssh", 'scp: dest open "x": Permission denied') == "refused"


def test_the_page_shows_the_table(tmp_path: Any) -> None:
    schema.check(schema.FAULTS)
    page = schema.FAULTS.read_text()
    assert all(f"| {name} |" in page for name in FAULTS)
    assert table().count("\n") == len(FAULTS) + 2
    other = tmp_path / "DEVICE_BENCH.md"
    other.write_text(page.replace("is offline", "is online"))
    with pytest.raises(SystemExit, match="not what runtime/bench/devices/faults.py says. Run `make figures`"):
        schema.check(other, schema.FAULTS)
    assert faults.said("a\n b. \n\n") == "b"
