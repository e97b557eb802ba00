"""iPhones, by Xcode's devicectl: the app is launched with its console here, where it prints its status; files are copied to and
from its container.

devicectl removes nothing by itself, and folders that it makes belong to the system, so that the app could not remove them either:
the app makes the folders ("prepare") and removes what lies in them ("clean"). Whoever ends the console ends the app. Syntax and
output are those of devicectl's help and of recorded sessions; tested against a program that behaves so, not on a phone.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, NoReturn

from ....core.bundle.device_job import BUNDLE, JOB, RESULT, Job, Status
from ....core.bundle.device_record import DeviceState
from ....core.errors import DeviceError
from .base import ANSWER_S, PUSHED, SILENT_S, Device, Listed
from .cooling import Warmth
from .faults import fault, recognise, said
from .readings import Reading
from .streams import heard, status_of
from .tools import Ran, find, run, start

APP = "ai.echoedge.demo"
FOLDER = "Documents/echoedge-bench"  # in the app's container
_SIGNAL = "App terminated due to signal "


class IosDevice(Device):
    means = "ios"
    device_cools = True

    def __init__(self, serial: str | None, app: str | None = None) -> None:
        self.app, self._given, self.serial, self._model = app or APP, serial, serial or "", ""
        self.folder, self.xcrun, self.met = FOLDER, "", False
        self._console: subprocess.Popen[str] | None = None
        self._began, self._last = False, Status(job="00000000", state="ready", contract=1, app="unknown")

    @property
    def name(self) -> str:
        return f"{self._model} ({self.serial})" if self._model else self.serial or "an iPhone"

    def words(self) -> dict[str, object]:
        return {
            "device": self.name, "means": "ios", "serial": self.serial, "app": self.app, "folder": self.folder, "tool": "devicectl",
            "cleans": "The app ends; its files stay until the next benchmark, which removes them",
        }  # fmt: skip

    # ---- devicectl ----

    def _devicectl(self, *words: str, timeout: float = 120.0) -> tuple[Ran, dict[str, Any]]:
        """What it says, and the JSON that it leaves, by which alone its makers promise to stand."""
        with tempfile.TemporaryDirectory(prefix="echoedge-") as folder:
            told = Path(folder) / "told.json"
            ran = run([self.xcrun, "devicectl", *words, "--json-output", str(told)], timeout)
            try:
                found = json.loads(told.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
        return ran, found if isinstance(found, dict) else {}

    def _asked(self, *words: str, doing: str, timeout: float = 120.0) -> dict[str, Any]:
        ran, found = self._devicectl(*words, timeout=timeout)
        if ran.status:
            self._blame(Ran(ran.status, ran.out, f"{ran.err}\n{_description(found)}"), doing)
        result = found.get("result")
        return result if isinstance(result, dict) else {}

    def _blame(self, ran: Ran, doing: str) -> NoReturn:
        name = recognise("ios", ran.both, self.met)
        errors = [line for line in ran.both.splitlines() if "ERROR" in line]
        words = self.words() | {"said": said(errors[0] if errors else ran.both), "others": "none of that name"}
        if name is not None:
            raise fault(name, **words)
        raise fault("tool", doing=doing, **words)

    def _copy(self, way: str, source: str, target: str) -> None:
        self._asked(
            "device", "copy", way, "--device", self.serial, "--domain-type", "appDataContainer", "--domain-identifier", self.app,
            "--source", source, "--destination", target, doing=f"copying {source}", timeout=3600,
        )  # fmt: skip

    def _fetched(self, name: str) -> str:
        with tempfile.TemporaryDirectory(prefix="echoedge-") as folder:
            path = Path(folder) / "fetched"
            self._copy("from", f"{self.folder}/{name}", str(path))
            return path.read_text(encoding="utf-8")

    def _sent(self, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory(prefix="echoedge-") as folder:
            path = Path(folder) / Path(name).name
            path.write_text(text, encoding="utf-8")
            self._copy("to", str(path), f"{self.folder}/{name}")

    # ---- before anything is sent ----

    def check(self) -> None:
        self.xcrun = find("xcrun", self.name)
        listed = [
            each for each in self._asked("list", "devices", doing="listing devices").get("devices", ())
            if _of(each, "hardwareProperties", "platform") == "iOS" and _of(each, "hardwareProperties", "reality") != "simulated"
        ]  # fmt: skip
        known = [Listed(_of(d, "hardwareProperties", "udid") or d.get("identifier", ""), _connection(d), _model(d)) for d in listed]
        usable = [each for each in known if each.state != "unavailable"]
        words = {"tool": "devicectl", "means": "ios", "serial": self._given, "app": self.app}
        others = ", ".join(f"{each.serial} ({each.name}, {each.state})" for each in known)
        if not (known if self._given else usable):
            raise fault("no device", **words)
        mine = [each for each in known if each.serial == self._given] if self._given else usable
        if not mine:
            raise fault("unknown device", others=others, **words)
        if len(mine) > 1:
            raise fault("several devices", others=others, first=mine[0].serial, **words)
        chosen = mine[0]
        self.serial, self._model = chosen.serial, chosen.name
        if chosen.state in ("unavailable", "unpaired"):
            raise fault("offline" if chosen.state == "unavailable" else "unauthorised", device=self.name, **words)
        apps = self._asked("device", "info", "apps", "--device", self.serial, "--bundle-id", self.app, doing="listing apps")
        self.met = True
        if not any(each.get("bundleIdentifier") == self.app for each in apps.get("apps", ())):
            raise fault("no app", **self.words())

    def begin(self, word: str, folders: Sequence[str], keep: bool) -> Status:
        self._began = True
        made = ",".join([BUNDLE, *(name for name in folders if name)])
        *_, self._last = self._launch("prepare", word, ANSWER_S, "--folders", made)
        return self._last

    def _launch(self, action: str, word: str, silent: float, *more: str) -> Iterator[Status]:
        """The app's statuses until it is done with an action."""
        console = start(
            [
                self.xcrun, "devicectl", "device", "process", "launch", "--device", self.serial, "--console",
                "--terminate-existing", self.app, "--", "--bench", action, "--job", word, *more,
            ]
        )  # fmt: skip
        self._console = console
        lines, last, said_else = heard(console), time.monotonic(), ""
        try:
            while True:
                try:
                    line = lines.get(timeout=1)
                except Empty:
                    if time.monotonic() - last > silent:
                        name = "no answer" if silent == ANSWER_S else "silent"
                        raise fault(name, seconds=f"{silent:g}", said=said(said_else), **self.words()) from None
                    continue
                if line is None:
                    self._why_it_ended(console, said_else)
                elif (status := status_of(line, word)) is not None:
                    last = time.monotonic()
                    yield status
                    if status.state in ("ready", "cleaned", "done", "failed"):
                        return
                else:
                    said_else = f"{said_else}{line}"[-4000:]
        finally:
            self._stop()

    def _why_it_ended(self, console: subprocess.Popen[str], told: str) -> NoReturn:
        status, err = console.wait(), console.stderr.read() if console.stderr else ""
        ran, words = Ran(status or 1, told, err), self.words()
        if f"{_SIGNAL}9" in ran.both:
            raise fault("memory", certain="most likely", **words)
        if _SIGNAL in ran.both:
            number = ran.both.split(_SIGNAL, 1)[1].split()[0].rstrip(".")
            raise fault("ended" if number in ("2", "15") else "crashed", said=f"signal {number}", **words)
        if "ERROR" in ran.both or recognise("ios", ran.both, self.met):
            self._blame(ran, f"running {self.app}")
        raise fault("ended", said=said(ran.both), **words)

    def _stop(self) -> None:
        console, self._console = self._console, None
        if console is None or console.poll() is not None:
            return
        console.send_signal(signal.SIGINT)  # it ends the app, then itself
        with suppress(subprocess.TimeoutExpired):
            console.wait(10)
        if console.poll() is None:
            console.kill()
            console.wait()

    def known(self) -> dict[str, str]:
        try:
            told = json.loads(self._fetched(PUSHED))
        except (DeviceError, OSError, ValueError):
            return {}  # there is none
        return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}

    def push(self, files: Mapping[str, Path], known: Mapping[str, str]) -> Iterator[str]:
        self._sent(PUSHED, json.dumps({name: digest for name, digest in known.items() if f"{BUNDLE}/{name}" not in files}))
        for name, path in files.items():
            self._copy("to", str(path), f"{self.folder}/{name}")
            yield name

    def reading(self) -> Reading:
        """What the app said last: devicectl knows nothing of warmth."""
        status = self._last.thermal_status
        return Reading(DeviceState(thermal_status=status), warmth=Warmth(status))

    def peak_pss(self) -> int | None:
        return self._last.pss_bytes

    # ---- playing ----

    def play(self, job: Job) -> Iterator[Status]:
        self._sent(JOB, job.model_dump_json())
        for status in self._launch("run", job.job, SILENT_S):
            self._last = status
            yield status

    def result(self) -> str:
        return self._fetched(RESULT)

    def end(self, landed: Mapping[str, str] | None) -> bool:
        self._stop()
        if not self._began:
            return True
        try:
            if landed is not None:
                self._sent(PUSHED, json.dumps(dict(landed)))
            for _ in self._launch("clean", "c1ea0000", ANSWER_S, *(["--keep"] if landed is not None else [])):
                pass
        except DeviceError:
            return False
        self._began = False
        return True


def _of(device: dict[str, Any], part: str, name: str) -> str:
    return str(device.get(part, {}).get(name) or "")


def _model(device: dict[str, Any]) -> str:
    return _of(device, "hardwareProperties", "marketingName") or _of(device, "hardwareProperties", "productType") or "an iPhone"


def _connection(device: dict[str, Any]) -> str:
    """ "disconnected" is the rest of a phone that answers when it is asked; "unavailable" is out of reach."""
    if _of(device, "connectionProperties", "pairingState") == "unpaired":
        return "unpaired"
    return _of(device, "connectionProperties", "tunnelState") or "connected"


def _description(told: dict[str, Any]) -> str:
    described = told.get("error", {}).get("userInfo", {}).get("NSLocalizedDescription", "")
    return str(described.get("string", "")) if isinstance(described, dict) else str(described)
