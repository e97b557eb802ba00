"""A benchmark on a device, from the first question to the record; the device is left as it was found."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ....core.bundle import MANIFEST, Bundle
from ....core.bundle.bench_record import BenchRecord
from ....core.bundle.device_job import BUNDLE, CONTRACT, PORTRAIT, SPEECH, CoolWish, Job, Result, Status
from ....core.bundle.device_record import DeviceRun, DeviceState, Sustained
from ....core.bundle.fields import first_mistakes
from ....core.errors import ConfigError
from ....core.files import ended_like_interrupted, human_bytes
from ...play.material import demo_material
from ...play.setting import Setting, Wanted
from ..clip import Course, measure_course
from .adb import AdbDevice
from .base import Device
from .cooling import Cooling
from .faults import fault
from .host import host_reading
from .ios import IosDevice
from .readings import Reading
from .runner import own_name
from .ssh import SshDevice

Progress = Callable[[str, int, int], None]
FORMS = "adb, adb:SERIAL, ios, ios:UDID, ssh:HOST or host"
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")  # of an app; commands on the phone name folders by it
ROOM = 64 << 20  # bytes that must be left on a device beside what is sent


@dataclass(frozen=True)
class OnDevice:
    """How a bundle is benchmarked on a device. text: as --device says it; cool, cool_timeout: see `Cooling`; app: another app or
    another path of the board's command; keep: leave the bundle there for the next time; serial: into the record."""

    text: str
    course: Course = Course()
    cool: str | None = None
    cool_timeout: float = 900.0
    app: str | None = None
    keep: bool = False
    serial: bool = False


def open_device(text: str, app: str | None = None) -> Device | None:
    """The device of that name, which nobody has asked anything yet; None: this machine.

    Raises:
        ConfigError: it is none of the forms.
    """
    means, colon, name = text.strip().partition(":")
    if means == "host" and not colon:
        if app is not None:
            raise ConfigError(f"--app is {app!r}; on this host this EchoEdge itself plays. Leave it out.")
        return None
    if means in ("adb", "ios") and bool(colon) == bool(name):
        _plain(name)
        if app is not None and not _IDENTIFIER.fullmatch(app):
            raise ConfigError(f"--app is {app!r}; of a phone it is an identifier such as ai.echoedge.demo.")
        return AdbDevice(name or None, app) if means == "adb" else IosDevice(name or None, app)
    if means == "ssh" and name:
        _plain(name)
        return SshDevice(name, app)
    raise ConfigError(f"--device is {text!r}; write {FORMS}.")


def _plain(name: str) -> None:
    """A name that a tool could take for an option of its own, or a shell for words, is none."""
    if name.startswith("-") or any(c.isspace() or not c.isprintable() for c in name):
        raise ConfigError(f"--device names {name!r}, which is no name of a device. Write {FORMS}.")


def bench_device(
    bundle: Bundle,
    wanted: Wanted,
    runs: int,
    how: OnDevice,
    progress: Progress = lambda *_: None,
    warn: Callable[[str], None] = print,
) -> BenchRecord:
    """Plays the demo's portrait and voice on a device, as `runtime.bench.clip.measure` does here.

    Raises:
        ConfigError, InputError, EngineError: the bundle does not play what is wanted, or there is no such device.
        DeviceError: as the table of faults says; nothing of ours is left on the device then.
    """
    device = open_device(how.text, how.app)
    cooling = Cooling.of(how.cool, device.means if device else "host", how.cool_timeout)
    if device is None:
        return _bench_host(bundle, wanted, runs, how, cooling, progress)
    if wanted.engine != "auto" and device.means != "ssh":
        raise ConfigError(f"--engine is {wanted.engine!r}; an app has one engine. Leave it out.")
    if cooling.celsius is not None and device.device_cools:
        raise ConfigError(f"--cool is {how.cool}; an iPhone tells no temperature. Give a word: none, light, severe; or off.")
    with tempfile.TemporaryDirectory(prefix="echoedge-") as folder, ended_like_interrupted():
        asked = _Asked(bundle, wanted, runs, how, cooling, Path(folder))
        return asked.on(device, progress, warn)


def _bench_host(bundle: Bundle, wanted: Wanted, runs: int, how: OnDevice, cooling: Cooling, progress: Progress) -> BenchRecord:
    if how.keep or how.serial:
        raise ConfigError(f"--{'keep' if how.keep else 'with-serial'} goes with a phone or a board; this host keeps its bundle.")
    cooled = cooling.wait(lambda: host_reading().warmth, "This machine", progress)
    before = host_reading()
    record, ends = measure_course(bundle, wanted, runs, how.course, None, progress)
    after = host_reading()
    own = DeviceRun(
        via="host", serial=None, app=own_name(), warm_up=how.course.warm_up, cool=_cool(cooling, cooled),
        cooled_s=round(cooled or 0, 1), pushed_bytes=0, before=before.state, after=after.state, peak_pss_bytes=None,
        sustained=_sustained(how.course, ends, record.frames),
    )  # fmt: skip
    return _with(record, own)


class _Asked:
    """One benchmark, with what has come of it."""

    def __init__(self, bundle: Bundle, wanted: Wanted, runs: int, how: OnDevice, cooling: Cooling, scratch: Path) -> None:
        setting = Setting.of(bundle, wanted)
        case = demo_material(setting.clip, whole=False)
        prompt = setting.prompt(wanted.prompt, case.prompt, any_of_several=True)
        if wanted.prompts is not None:
            raise ConfigError("--prompts is a pack beside the bundle, which a device does not have. Export it into the bundle.")
        self.bundle, self.how, self.cooling = bundle, how, cooling
        wait = None
        if cooling.status is not None:
            wait = CoolWish(status=cooling.status, timeout_s=cooling.timeout)
        self.job = Job(
            job=secrets.token_hex(8), clip=str(setting.clip), decoder=wanted.decoder, engine=wanted.engine,  # type: ignore[arg-type]
            prompt=prompt, seed=case.seed, threads=wanted.threads, warm_up=how.course.warm_up, runs=runs,
            sustained_s=how.course.sustained, reload=how.course.reload, cool=wait,
        )  # fmt: skip
        self.digests = {MANIFEST: bundle.manifest_sha256} | {name: entry.sha256 for name, entry in bundle.entries().items()}
        self.material = {PORTRAIT: scratch / PORTRAIT, SPEECH: scratch / SPEECH}
        for path, values in zip(self.material.values(), (case.portrait, case.speech), strict=True):
            path.write_bytes(np.ascontiguousarray(values, "<f4").tobytes())
        self.landed: dict[str, str] = {}
        self.pushed_bytes = 0

    def on(self, device: Device, progress: Progress, warn: Callable[[str], None]) -> BenchRecord:
        device.check()
        try:
            record = self._measured(device, progress)
        except BaseException:
            device.end(self.landed if self.how.keep else None)
            raise
        if not device.end(self.landed if self.how.keep else None):
            warn(f"{device.name} does not answer any more; it has to remove what was sent to {device.folder} by itself.")
        return record

    def _measured(self, device: Device, progress: Progress) -> BenchRecord:
        folders = sorted({str(Path(BUNDLE, name).parent.as_posix()) for name in self.digests} - {BUNDLE})
        greeted = device.begin(self.job.job, folders, self.how.keep)
        self._agree(device, greeted)
        self._push(device, greeted, progress)
        waits = None if device.device_cools else self.cooling.wait(lambda: device.reading().warmth, device.name, progress)
        job = self.job if device.device_cools else self.job.model_copy(update={"cool": None})
        before = device.reading()
        last = greeted
        for last in device.play(job):
            if last.state in ("playing", "sustaining", "cooling"):
                progress({"playing": "runs", "sustaining": "sustained", "cooling": "cooling"}[last.state], last.done, last.total)
        if last.state == "failed":
            self._failed(device, last)
        clips = job.warm_up + job.runs + job.reload
        progress("runs", clips, clips)  # a quick device may have been done between two looks
        after = device.reading()
        return self._record(device, self._result(device), waits, before, after)

    def _agree(self, device: Device, greeted: Status) -> None:
        if greeted.contract != CONTRACT:
            raise fault("version", app=greeted.app, device=device.name, theirs=greeted.contract, ours=CONTRACT)

    def _push(self, device: Device, greeted: Status, progress: Progress) -> None:
        there = device.known()
        self.landed = {name: digest for name, digest in self.digests.items() if there.get(name) == digest}
        new = {name: self.bundle.root / name for name in self.digests if name not in self.landed}
        sizes = {f"{BUNDLE}/{name}": path.stat().st_size for name, path in new.items()}
        total = sum(sizes.values())
        if greeted.free_bytes is not None and greeted.free_bytes < total + ROOM:
            told = f"{human_bytes(total)} have to be sent, and {human_bytes(greeted.free_bytes)} are free"
            raise fault("storage", device=device.name, said=told)
        files = {f"{BUNDLE}/{name}": path for name, path in new.items()} | self.material
        for done, name in enumerate(device.push(files, self.landed), 1):
            inside = name.removeprefix(f"{BUNDLE}/")
            if inside != name:
                self.landed[inside] = self.digests[inside]
                self.pushed_bytes += sizes[name]
            progress("sent", done, len(files))

    def _failed(self, device: Device, last: Status) -> None:
        words = {"app": last.app, "device": device.name, "said": last.message or "it does not say why"}
        if last.fault == "hot":
            raise fault("hot", waited="time", now=f"status {last.thermal_status}", limit=self.cooling, **words)
        raise fault("job", **words)

    def _result(self, device: Device) -> Result:
        try:
            result = Result.model_validate_json(device.result(), strict=True)
        except ValidationError as error:
            raise fault("no result", app=device.app, device=device.name, said=first_mistakes(error)) from error
        record, wrong = result.record, None
        if result.job != self.job.job:
            wrong = "it is another job's"
        elif record.manifest_sha256 != self.bundle.manifest_sha256:
            wrong = "it is another bundle's"
        elif (record.runs, record.workload.shape) != (self.job.runs, self.job.clip):
            wrong = f"it is of {record.runs} runs of {record.workload.shape}"
        elif (self.job.sustained_s is None) != (result.ends_s is None):
            wrong = "ends_s is there and nothing sustained was asked, or the other way round"
        elif record.machine.place != ("host" if device.means == "ssh" else "phone"):
            wrong = f"it is of a {record.machine.place}"
        if wrong:
            raise fault("no result", app=device.app, device=device.name, said=wrong)
        return result

    def _record(self, device: Device, result: Result, waited: float | None, before: Reading, after: Reading) -> BenchRecord:
        record = result.record
        seen = [count for count in (result.peak_pss_bytes, device.peak_pss()) if count is not None]
        cooled = result.cooled_s if device.device_cools and self.cooling.wanted else waited
        try:
            own = DeviceRun(
                via=device.means, serial=device.serial if self.how.serial else None, app=result.app, warm_up=self.job.warm_up,
                cool=_cool(self.cooling, cooled), cooled_s=round(cooled or 0, 1), pushed_bytes=self.pushed_bytes,
                before=_both(before.state, result.before), after=_both(after.state, result.after),
                peak_pss_bytes=max(seen, default=None), sustained=_sustained(self.how.course, result.ends_s or [], record.frames),
            )  # fmt: skip
        except ValueError as error:
            raise fault("no result", app=device.app, device=device.name, said=error) from error
        changes = {
            "thermal_before": before.temperatures or record.thermal_before,
            "thermal_after": after.temperatures or record.thermal_after,
            "load_average_before": record.load_average_before if before.load is None else before.load,
            "load_average_after": record.load_average_after if after.load is None else after.load,
        }  # fmt: skip
        return _with(record.model_copy(update=changes), own)


def _cool(cooling: Cooling, waited: float | None) -> str | None:
    return str(cooling) if waited is not None and cooling.wanted else None


def _both(seen: DeviceState, told: DeviceState | None) -> DeviceState:
    """What was read from here, and else what the player told."""
    own: Mapping[str, object] = {} if told is None else told.model_dump()
    return DeviceState(**{name: own.get(name) if value is None else value for name, value in seen.model_dump().items()})


def _sustained(course: Course, ends: list[float], frames: int) -> Sustained | None:
    return None if course.sustained is None else Sustained.of(course.sustained, ends, frames)


def _with(record: BenchRecord, own: DeviceRun) -> BenchRecord:
    """The record checked again, as whoever reads it will."""
    return BenchRecord.model_validate(record.model_copy(update={"on_device": own}).model_dump())
