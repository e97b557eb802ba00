"""Android phones, by adb: the app's activity for benchmarks is started by `am start`, and its status read from a file.

Syntax and output of adb, am, dumpsys and pm are those of their documentation and of recorded sessions; tested against a program
that behaves so (tests/runtime/devices/fakes), not on a phone.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from ....core.bundle.device_job import JOB, STATUS, Job, Status
from .base import ANSWER_S, SILENT_S, Listed
from .faults import fault, said
from .posix import PosixDevice
from .readings import ANDROID, Reading, last_exit, pss_bytes, read_android
from .tools import Ran, find, run

APP, ACTIVITY = "ai.echoedge.demo", "ai.echoedge.demo.BenchActivity"
EVERY = 1.0  # seconds between two looks at the status
PSS_EVERY = 15.0  # between two looks at the app's memory, for which the system halts it some tens of milliseconds
_LOW_MEMORY, _SIGNALLED, _CRASHES = 3, 2, (4, 5)  # reasons of Android's ApplicationExitInfo
_STATES = {"offline": "offline", "unauthorized": "unauthorised", "authorizing": "unauthorised", "connecting": "offline"}


def devices(adb: str) -> list[Listed]:
    """What `adb devices -l` lists."""
    found = []
    for line in run([adb, "devices", "-l"], timeout=30).out.splitlines()[1:]:
        if (told := re.match(r"(\S+)\s+(no permissions|\S+)(.*)", line)) and not line.startswith("*"):
            model = re.search(r"model:(\S+)", told[3])
            found.append(Listed(told[1], told[2], model[1] if model else told[1]))
    return found


class AdbDevice(PosixDevice):
    means = "adb"

    def __init__(self, serial: str | None, app: str | None = None) -> None:
        self.app, self._given = app or APP, serial
        self.serial, self._model = serial or "", ""
        self.pid_file = "/data/local/tmp/echoedge-bench.pid"
        self.folder = f"/sdcard/Android/data/{self.app}/files/bench"
        self._pss: int | None = None
        self.adb = ""

    @property
    def name(self) -> str:
        return f"{self._model} ({self.serial})" if self._model else self.serial or "an Android phone"

    @property
    def stop_script(self) -> str:
        return f"am force-stop {self.app}"

    def command(self, script: str) -> list[str]:
        return [self.adb, "-s", self.serial, "shell", "-T", script]

    def copy(self, source: Path, target: str) -> Ran:
        return run([self.adb, "-s", self.serial, "push", str(source), target], timeout=3600)

    # ---- before anything is sent ----

    def check(self) -> None:
        self.adb = find("adb", self.name)
        self._choose()
        self.shell("true")
        self.met = True
        if not self.shell(f"pm path {self.app} || true").startswith("package:"):
            raise fault("no app", **self.words())

    def _choose(self) -> None:
        listed = devices(self.adb)
        words = {"tool": "adb", "means": "adb", "serial": self._given, "app": self.app}
        others = ", ".join(f"{each.serial} ({each.name}, {each.state})" for each in listed)
        if not listed:
            raise fault("no device", **words)
        mine = [each for each in listed if each.serial == self._given] if self._given else listed
        if not mine:
            raise fault("unknown device", others=others, **words)
        if not self._given and len(mine) > 1:  # a single one that can be used among others is meant
            ready = [each for each in mine if each.state == "device"]
            if len(ready) != 1:
                raise fault("several devices", others=others, first=(ready or mine)[0].serial, **words)
            mine = ready
        chosen = mine[0]
        self.serial, self._model = chosen.serial, chosen.name.replace("_", " ")
        if chosen.state == "no permissions":
            raise fault("no permission", device=self.name, **words)
        if chosen.state != "device":
            raise fault(_STATES.get(chosen.state, "offline"), device=self.name, **words)

    def begin(self, word: str, folders: Sequence[str], keep: bool) -> Status:
        self.watch(keep)
        self._start("prepare", word)
        status = self._answer(word)
        self.make(folders)
        return status

    def _start(self, action: str, word: str) -> str:
        """The app's process."""
        start = f"am start -W -S -n {self.app}/{ACTIVITY} --es bench {action} --es job {shlex.quote(word)} 2>&1"
        told = self.shell(f'{start}; echo "process $(pidof {self.app})"')
        if "Error" in told:
            self.blame(Ran(1, told.partition("process ")[0], ""), f"starting {self.app}")
        return (told.rpartition("process ")[2].split() or [""])[0]

    def _answer(self, word: str) -> Status:
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            status = self._status(word)
            if status is not None:
                return status
            time.sleep(EVERY / 4)
        raise fault("no answer", seconds=f"{ANSWER_S:g}", said="no status of this job", **self.words())

    def _status(self, word: str) -> Status | None:
        text = self.shell(f"cat {self.folder}/{STATUS} 2>/dev/null || true")
        try:
            status = Status.model_validate_json(text)
        except ValidationError:
            return None
        return status if status.job == word else None

    # ---- warmth and memory ----

    def reading(self) -> Reading:
        return read_android(self.shell(ANDROID))

    def peak_pss(self) -> int | None:
        return self._pss

    def _look_at_memory(self) -> None:
        seen = pss_bytes(self.shell(f"dumpsys meminfo -s {self.app} 2>/dev/null || true"))
        if seen is not None:
            self._pss = max(self._pss or 0, seen)

    # ---- playing ----

    def play(self, job: Job) -> Iterator[Status]:
        self.shell(f"cat > {self.folder}/{JOB}", given=job.model_dump_json())
        pid = self._start("run", job.job)
        last, told, memory = self._answer(job.job), time.monotonic(), time.monotonic()
        yield last
        while last.state not in ("done", "failed"):
            time.sleep(EVERY)
            running = self.shell(f"pidof {self.app} || true").strip()
            status = self._status(job.job)  # behind the look whether it runs: what it wrote last counts
            if status is not None and status != last:
                last, told = status, time.monotonic()
                yield status
            elif not running:
                self._why_it_ended(pid)
            elif time.monotonic() - told > SILENT_S:
                raise fault("silent", seconds=f"{SILENT_S:g}", **self.words())
            pid = running.split()[0] if running else pid
            if running and time.monotonic() - memory > PSS_EVERY:
                self._look_at_memory()
                memory = time.monotonic()
        if last.state == "done":
            self._look_at_memory()

    def _why_it_ended(self, pid: str) -> None:
        found = last_exit(self.shell(f"dumpsys activity exit-info {self.app} 2>/dev/null || true"), pid)
        words = self.words()
        if found is None:
            raise fault("memory", certain="most likely", **words)
        reason, word, about = found
        if reason in (_LOW_MEMORY, _SIGNALLED):
            raise fault("memory", certain="as Android says" if reason == _LOW_MEMORY else "most likely", **words)
        if reason in _CRASHES:
            raise fault("crashed", said=said(about or word), **words)
        raise fault("ended", said=f"Android's reason is {reason}, {word or 'which it does not explain'}", **words)
