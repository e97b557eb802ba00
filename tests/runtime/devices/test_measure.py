"""runtime/bench/devices/measure.py: what is sent, played and recorded, and that the device is left as it was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle import MANIFEST, Bundle
from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.core.errors import ConfigError
from echoedge.runtime.bench.clip import Course
from echoedge.runtime.bench.devices.measure import open_device
from echoedge.runtime.play.setting import Wanted

from .lab import BATTERY, IPHONE, THERMAL, Lab
from .test_faults import ours_left, waited

WAYS = ("adb", "ios", "ssh:board")


@pytest.mark.parametrize("way", WAYS)
def test_a_device_plays_and_is_left_as_it_was(way: str, lab: Lab) -> None:
    steps: list[tuple[str, int, int]] = []
    record = lab.bench(way, progress=lambda *step: steps.append(step))
    own = record.on_device
    assert own is not None
    assert (own.via, own.serial, own.app, own.warm_up) == (way.partition(":")[0], None, "demo 1.2.3", 1)
    assert (record.runs, record.workload.shape, record.machine.place) == (3, "32x32x9", "host" if "ssh" in way else "phone")
    assert BenchRecord.model_validate_json(record.to_json(), strict=True) == record
    files = len(lab.bundle.entries()) + 1
    assert [step for step in steps if step[0] == "sent"][-1] == ("sent", files + 2, files + 2)
    assert [step for step in steps if step[0] == "runs"][-1] == ("runs", 4, 4)
    assert own.pushed_bytes == lab.bundle.bytes + (lab.bundle.root / MANIFEST).stat().st_size
    assert ours_left(lab) == [] and lab.folders_left() == [] and not lab.running()
    assert lab.warnings == []


def test_warmth_battery_clocks_and_memory_of_an_android_phone(lab: Lab) -> None:
    policy = lab.root / "sys/devices/system/cpu/cpufreq/policy4"
    policy.mkdir(parents=True)
    (policy / "scaling_governor").write_text("schedutil\n")
    (policy / "scaling_cur_freq").write_text("2400000\n")
    batteries = [BATTERY.format(status=2, level=81), BATTERY.format(status=3, level=80)]
    warm, cool = THERMAL.format(status=2, skin=44.0), THERMAL.format(status=0, skin=33.5)
    lab.write(
        **{"dumpsys thermalservice": [warm, warm, cool, cool, THERMAL.format(status=1, skin=39.0)], "dumpsys battery": batteries}
    )
    record = lab.bench("adb")
    own = record.on_device
    assert own is not None
    assert own.cool == "status none" and 0 < own.cooled_s < 60
    assert (own.before.thermal_status, own.after.thermal_status) == ("none", "light")
    assert (own.after.battery_percent, own.after.battery_celsius, own.after.charging) == (80, 30.5, False)
    assert (own.after.governors, own.after.clocks_mhz) == ({"policy4": "schedutil"}, {"policy4": 2400})
    assert record.thermal_before == {"SKIN": 33.5, "CPU0": 61.5}  # what was cached, and sensors that are not there, are left out
    assert record.thermal_after == {"SKIN": 39.0, "CPU0": 61.5}
    assert own.peak_pss_bytes == 412345 * 1024  # dumpsys saw more than the app


def test_a_device_that_tells_no_warmth_does_not_wait(lab: Lab) -> None:
    lab.write(**{"dumpsys thermalservice": "", "dumpsys battery": ""})
    own = lab.bench("adb").on_device
    assert own is not None and (own.cool, own.cooled_s, own.before.thermal_status) == (None, 0, None)


def test_only_what_has_changed_is_sent(lab: Lab, tmp_path: Path) -> None:
    changed = tmp_path / "changed.echoedge"
    shutil.copytree(lab.bundle.root, changed)
    first = lab.bench("adb", keep=True)
    assert len(lab.sent()) == len(lab.bundle.entries()) + 3
    left = [Path(name).name for name in lab.left()]
    assert (
        "manifest.json" in left
        and "pushed.json" in left
        and not {"job.json", "portrait.f32", "result.json", "status.json"} & set(left)
    )
    again = lab.bench("adb", keep=True)
    assert sorted(lab.sent()) == ["portrait.f32", "speech.f32"]
    assert first.on_device and first.on_device.pushed_bytes > 0 and again.on_device and again.on_device.pushed_bytes == 0

    manifest = json.loads((changed / MANIFEST).read_text())
    name = next(name for name in manifest["files"] if name.startswith("tests/"))
    (changed / name).unlink()
    del manifest["files"][name], manifest["checksum"]
    (changed / MANIFEST).write_text(json.dumps(manifest))
    lab.bundle = Bundle.open(changed)
    record = {**lab.state["record"], "manifest_sha256": lab.bundle.manifest_sha256}
    lab.write(record=record)
    lab.bench("adb", keep=True)
    assert sorted(lab.sent()) == ["manifest.json", "portrait.f32", "speech.f32"]
    assert not any(each.endswith(name) for each in lab.left())  # the earlier bundle's file went
    lab.bench("adb")
    assert lab.left() == []


def test_what_was_sent_whole_stays_after_a_fault_where_it_is_to_be_kept(lab: Lab) -> None:
    lab.write(fault="storage")
    with pytest.raises(Exception, match="no room"):
        lab.bench("adb", keep=True)
    bench = lab.root / "sdcard/Android/data/ai.echoedge.demo/files/bench"
    listed = json.loads((bench / "pushed.json").read_text())
    assert listed and "plan.json" not in listed
    lab.sent()
    lab.write(fault=None)
    lab.bench("adb", keep=True)
    sent = set(lab.sent())
    assert "plan.json" in sent and not sent & {Path(name).name for name in listed}


def test_serial_numbers_are_written_where_they_are_asked_for(lab: Lab) -> None:
    for way, serial in (("adb", "SERIAL1"), ("ios", IPHONE["hardwareProperties"]["udid"]), ("ssh:board", "board")):  # type: ignore[index]
        assert serial not in lab.bench(way).to_json()
        told = lab.bench(way, serial=True)
        assert told.on_device is not None and told.on_device.serial == serial


@pytest.mark.parametrize("way", WAYS)
def test_many_minutes_without_a_pause(way: str, lab: Lab) -> None:
    """Clips of 25 frames: five seconds each until 50 s, ten each behind it; half as fast is throttled."""
    ends = [5.0 * n for n in range(1, 11)] + [50 + 10.0 * n for n in range(1, 6)]
    lab.write(ends=ends)
    record = lab.bench(way, course=Course(reload=False, sustained=100.0))
    own = record.on_device
    assert own is not None and own.sustained is not None
    assert (own.sustained.first_fps, own.sustained.throttled_at_s) == (5.0, 60.0)
    assert own.sustained.ends_s == ends


def test_a_player_with_the_job_word_and_no_more_is_believed(lab: Lab) -> None:
    """A wish that the device does not hear is a fault, not a record: see also the faults named "no result"."""
    lab.write(ends=None)
    with pytest.raises(Exception, match="nothing sustained was asked"):
        lab.bench("adb", course=Course(reload=False, sustained=100.0))


# After SIGKILL an iPhone is not among them: its app ends with devicectl, and its files stay until the next benchmark.
STOPPED = [(way, number) for number in (signal.SIGINT, signal.SIGTERM) for way in WAYS]


@pytest.mark.parametrize(("way", "number"), [*STOPPED, ("adb", signal.SIGKILL), ("ssh:board", signal.SIGKILL)])
def test_who_is_stopped_leaves_nothing(way: str, number: signal.Signals, lab: Lab) -> None:
    """The device's own process is ended, too; after SIGKILL, which nobody can catch, by the device itself."""
    lab.write(seconds=30.0)
    code = (
        "import sys; from echoedge.core.bundle import Bundle; from echoedge.runtime.play.setting import Wanted; "
        "from echoedge.runtime.bench.devices.measure import OnDevice, bench_device; "
        f"bench_device(Bundle.open({str(lab.bundle.root)!r}), Wanted(), 3, OnDevice({way!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert waited(lambda: lab.running_somewhere(), 120)
    process.send_signal(number)
    process.wait(timeout=60)
    assert waited(lambda: not lab.running_somewhere())
    assert waited(lambda: ours_left(lab) == []), ours_left(lab)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write adb, adb:SERIAL"), ("phone", "is 'phone'; write adb"), ("adb:", "is 'adb:'"), ("ssh", "is 'ssh'"),
        ("ssh:", "is 'ssh:'"),
        ("host:me", "is 'host:me'"), ("ssh:-oProxyCommand=evil", "no name of a device"), ("adb:a b", "no name of a device"),
    ],
)  # fmt: skip
def test_what_names_no_device_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_device(text)


def test_what_a_device_cannot_do_is_refused_before_it_is_asked(lab: Lab) -> None:
    for way, wanted, how, message in (
        ("adb", Wanted(engine="torch"), {}, "an app has one engine"), ("ios", Wanted(), {"cool": "40"}, "tells no temperature"),
        ("host", Wanted(), {"keep": True}, "this host keeps"), ("host", Wanted(), {"app": "x"}, "Leave it out"),
        ("adb", replace(Wanted(), clip="64x64x9"), {}, "plays: 32x32x9"),
        ("ssh:board", Wanted(), {"cool": "cold"}, "write off, a temp"),
    ):  # fmt: skip
        given: dict[str, Any] = dict(how)
        with pytest.raises(ConfigError, match=message):
            lab.bench(way, wanted=wanted, **given)
    assert not (lab.home / "calls.txt").exists()


def test_what_is_called_is_what_the_tools_know(lab: Lab) -> None:
    lab.bench("adb:SERIAL1")
    lab.bench("ssh:board")
    calls = lab.calls()
    assert ["adb", "devices", "-l"] in calls
    pushed = [call for call in calls if call[:4] == ["adb", "-s", "SERIAL1", "push"]]
    assert pushed and all(call[5].startswith("/sdcard/Android/data/ai.echoedge.demo/files/bench/") for call in pushed)
    starts = [call[-1] for call in calls if "am start" in call[-1]]
    assert [text.split("--es bench ")[1].split()[0] for text in starts] == ["prepare", "run"]
    assert all("am start -W -S -n ai.echoedge.demo/ai.echoedge.demo.BenchActivity" in text for text in starts)
    assert all("BatchMode=yes" in call for call in calls if call[0] in ("ssh", "scp"))
