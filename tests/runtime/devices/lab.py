"""A laboratory of devices that are not there: programs named adb, xcrun, ssh and scp on the PATH, and a folder for each device."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from echoedge.core.bundle import Bundle
from echoedge.core.bundle.bench_record import BenchRecord
from echoedge.runtime.bench.clip import Course
from echoedge.runtime.bench.devices import adb, cooling
from echoedge.runtime.bench.devices.measure import OnDevice, bench_device
from echoedge.runtime.play.setting import Wanted

from ...bench_records import bench_record

PIDOF = "p=$(cat {pid} 2>/dev/null) && read -r _ _ state _ < /proc/$p/stat && [ $state != Z ] && echo $p"
PHONE = Path(__file__).with_name("fakes") / "phone.py"
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=99.0, mType=3, mName=SKIN, mStatus=3}}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{{mValue={skin}, mType=3, mName=SKIN, mStatus=0}}
\tTemperature{{mValue=61.5, mType=0, mName=CPU0, mStatus=0}}
\tTemperature{{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}}
Current cooling devices from HAL:
\tCoolingDevice{{mValue=0, mType=2, mName=TYPE_CPU}}
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: {status}
  level: {level}
  scale: 100
  temperature: 305
"""
EXIT = """  package: ai.echoedge.demo
    Historical Process Exit for uid=10123
        ApplicationExitInfo #0:
          timestamp=2026-08-10 21:00:00.123 pid=PID realUid=10123 packageUid=10123 definingUid=10123 user=0
          process=ai.echoedge.demo reason={reason} subreason=0 (UNKNOWN) status=0
          importance=100 pss=1.2GB rss=1.4GB description={about} state=empty trace=null
"""
IPHONE = {
    "connectionProperties": {"pairingState": "paired", "tunnelState": "disconnected", "transportType": "wired"},
    "deviceProperties": {"name": "A phone", "developerModeStatus": "enabled", "osVersionNumber": "18.5"},
    "hardwareProperties": {"marketingName": "iPhone 16 Pro", "platform": "iOS", "reality": "physical", "udid": "UDID-1"},
    "identifier": "AAAA",
}  # fmt: skip
SIMULATED = {"hardwareProperties": {"platform": "iOS", "reality": "simulated", "udid": "SIM"}, "identifier": "BBBB"}


class Lab:
    """`state` of the device, `told` to its programs at the next call; `root`: its file system."""

    def __init__(self, folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.warnings: list[str] = []
        self.home, self.root, self.bundle, self.patch = folder, folder / "root", bundle, monkeypatch
        self.root.mkdir(parents=True)
        machine = bench_record().machine.model_copy(update={"place": "phone"})
        clip = bundle.clip
        shape = {"height": clip.height, "width": clip.width, "frames": clip.frames}
        record = bench_record(manifest_sha256=bundle.manifest_sha256, machine=machine, workload=shape, frames=25)
        self.state: dict[str, Any] = {
            "devices": [["SERIAL1", "device", "Pixel_9"]], "phones": [IPHONE, SIMULATED], "host": "board",
            "record": record.to_dict(), "dumpsys battery": BATTERY.format(status=3, level=81),
            "dumpsys thermalservice": THERMAL.format(status=0, skin=31.5),
            "dumpsys meminfo": "           TOTAL PSS:   412345            TOTAL RSS:   522222",
        }  # fmt: skip
        for place, names in (("bin", ("adb", "xcrun", "ssh", "scp")), ("device-bin", ("am", "pm", "dumpsys", "echoedge"))):
            (folder / place).mkdir()
            for name in names:
                self.program(folder / place / name, f'exec {sys.executable} -S {PHONE} {name} "$@"')
        self.program(folder / "device-bin" / "pidof", PIDOF.format(pid=folder / "app.pid"))  # it is asked again and again
        (self.root / "data/local/tmp").mkdir(parents=True)
        monkeypatch.setenv("FAKE_DEVICE", str(folder))
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
        monkeypatch.setattr(adb, "EVERY", 0.1)
        monkeypatch.setattr(cooling, "EVERY", 0.02)

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def write(self, **changes: Any) -> None:
        self.state |= changes
        (self.home / "state.json").write_text(json.dumps(self.state))

    def bench(
        self, text: str, runs: int = 3, wanted: Wanted | None = None, progress: Any = lambda *_: None, **how: Any
    ) -> BenchRecord:
        """A benchmark on the device as it is now."""
        self.write()
        given = {"course": Course(reload=False)} | how
        return bench_device(self.bundle, wanted or Wanted(), runs, OnDevice(text, **given), progress, self.warnings.append)

    def left(self) -> list[str]:
        """Every file on the device, while others are removed."""
        return sorted((Path(at) / name).relative_to(self.root).as_posix() for at, _, names in os.walk(self.root) for name in names)

    def folders_left(self) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*bench*"))

    def sent(self) -> list[str]:
        """Names of the files that were sent since the last look."""
        path = self.home / "sent.txt"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls.txt").read_text().splitlines()]

    def running_somewhere(self) -> bool:
        """Whether a process of this device plays: an app, or what a board calls `echoedge`."""
        mine = f"FAKE_DEVICE={self.home}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                playing = b"run" in words or b"bench-job" in words
                if playing and str(PHONE).encode() in words and mine in (folder / "environ").read_bytes():
                    return True
            except OSError:
                continue  # it has ended
        return False

    def running(self) -> bool:
        """Whether the app runs there."""
        path = self.home / "app.pid"
        if not path.exists():
            return False
        try:
            return Path(f"/proc/{path.read_text()}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False
