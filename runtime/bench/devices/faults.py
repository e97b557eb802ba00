"""What can go wrong with a device: how the platform's tool says it, what a user is told, and what to do.

docs/DEVICE_BENCH.md shows this table as it stands here (docs/schema.py writes it), and tests/runtime/devices/test_faults.py brings
every fault about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ....core.bundle.device_record import Means
from ....core.errors import DeviceError

ADB: Final = "adb"
IOS: Final = "ios"
SSH: Final = "ssh"
HOST: Final = "host"


@dataclass(frozen=True)
class Fault:
    """`sentence` and `remedy` with {words} of the moment. signs: what the tools of `means` print, regular expressions."""

    means: tuple[Means, ...]
    sentence: str
    remedy: str
    signs: tuple[str, ...] = ()

    def told(self, **words: object) -> str:
        return f"{self.sentence} {self.remedy}".format(**words)

    @property
    def shown(self) -> tuple[str, str]:
        """Sentence and remedy for a page: {words} in capitals."""

        def capitals(text: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda word: word[1].upper(), text)

        return capitals(self.sentence), capitals(self.remedy)


FAULTS: dict[str, Fault] = {
    # ---- before anything is sent ----
    "no tool": Fault(
        (ADB, IOS, SSH), "There is no program {tool} here, by which {device} is reached.",
        "{install}",
    ),
    "no device": Fault(
        (ADB, IOS), "{tool} sees no device.",
        "Plug one in, unlock it, and allow it to be debugged (Android: USB debugging; iOS: trust this computer, Developer Mode).",
        (r"no devices/emulators found",),
    ),
    "several devices": Fault(
        (ADB, IOS), "{tool} sees several devices: {others}.", "Say which: --device {means}:{first}.",
        (r"more than one device/emulator",),
    ),
    "unknown device": Fault(
        (ADB, IOS), "{tool} sees no device {serial}, but: {others}.", "Check the serial number and the cable.",
        (r"device '[^']*' not found", r"The specified device was not found", r"unable to locate a device matching"),
    ),
    "offline": Fault(
        (ADB, IOS), "{device} is offline: {tool} sees it, and it does not answer.",
        "Unlock it, pull the cable out and plug it in again; with adb, `adb reconnect offline` may do.",
        (r"device offline", r"device still connecting", r"could not be established", r"tunnel connection failed"),
    ),
    "unauthorised": Fault(
        (ADB, IOS), "{device} has not allowed this computer to use it.",
        "Unlock it and say yes to the question on its screen (Android: allow USB debugging; iOS: trust this computer).",
        (r"device unauthorized", r"device is not paired", r"must be paired"),
    ),
    "no permission": Fault(
        (ADB,), "This computer's system does not let {tool} use {device}.",
        "On Linux, install udev rules for Android devices, or join the group plugdev; then plug the device in again.",
        (r"insufficient permissions", r"USB permission failure", r"no permissions"),
    ),
    "developer mode": Fault(
        (IOS,), "{device} does not let developers in: Developer Mode is off, or its developer disk image is not mounted.",
        "Switch Settings, Privacy & Security, Developer Mode on, and open Xcode's window of devices once.",
        (r"[Dd]eveloper [Mm]ode", r"developer disk image could not be mounted"),
    ),
    "locked": Fault(
        (IOS,), "{device} is locked: it starts no app.", "Unlock it and leave its screen on; then run the same command again.",
        (r"could not be, unlocked", r"device is locked", r"passcode protected"),
    ),
    "unreachable": Fault(
        (SSH,), "{device} cannot be reached ({said}).",
        "Check its name, its power and the network: `ssh {host} true` must end well.",
        (
            r"Could not resolve hostname", r"Connection refused", r"Connection timed out", r"No route to host",
            r"Network is unreachable", r"Operation timed out", r"kex_exchange_identification", r"Connection reset",
        ),
    ),
    "host key": Fault(
        (SSH,), "{device} shows another host key than the one that is known, or one that nobody has confirmed.",
        "If the board was set up anew, `ssh-keygen -R {host}` forgets the old key; then log in once with `ssh {host}`.",
        (r"Host key verification failed", r"REMOTE HOST IDENTIFICATION HAS CHANGED"),
    ),
    "login": Fault(
        (SSH,), "{device} does not let this user in without a password.", "Put your key there with `ssh-copy-id {host}`.",
        (r"Permission denied \(", r"Too many authentication failures"),
    ),
    "no app": Fault(
        (ADB, IOS), "The app {app} is not installed on {device}.",
        "Install it as android_demo/README.md or ios_demo/README.md says; --app names one that has another identifier.",
        (r"Activity class .* does not exist", r"Unable to find .*application", r"Unable to launch .* because .*not installed"),
    ),
    "no runner": Fault(
        (SSH,), "{device} has no command {app}.",
        "Install it there with `pip install echoedge`; --app gives its path where it is not on the PATH of a login by ssh.",
        (r"EchoEdge runner: not found",),
    ),
    "version": Fault(
        (ADB, IOS, SSH), "{app} on {device} keeps to version {theirs} of the contract of jobs, this EchoEdge to {ours}.",
        "Install the one that belongs to the other: both come from one release.",
    ),
    "no answer": Fault(
        (ADB, IOS, SSH), "{app} on {device} was started and gave no answer in {seconds} s ({said}).",
        "Unlock the device, leave its screen on, and run the same command again.",
    ),
    "storage": Fault(
        (ADB, IOS, SSH), "{device} has no room for the bundle: {said}.", "Free some space on it, or take a smaller bundle.",
        (r"No space left on device", r"[Dd]isk quota exceeded", r"There is not enough .*space", r"Write failed: .*space"),
    ),
    "refused": Fault(
        (ADB, SSH), "{device} does not let files be written to {folder} ({said}).",
        "On Android, start the app once by hand; on a board, choose a user who may write there.",
        (r"secure_mkdirs? failed", r"Permission denied$", r"Read-only file system", r"Operation not permitted"),
    ),
    "busy": Fault(
        (ADB, SSH), "Another benchmark is running on {device}.", "Wait until it is done.",
    ),
    "hot": Fault(
        (ADB, IOS, SSH, HOST), "{device} has not cooled down in {waited}: it is at {now}, and {limit} was waited for.",
        "Take it off its charger and out of its case, or choose another --cool or a longer --cool-timeout.",
    ),
    # ---- while it plays ----
    "memory": Fault(
        (ADB, IOS, SSH), "{app} was killed on {device}, {certain} for memory.",
        "Close other apps, or play a smaller bundle: fewer frames, a smaller --size, int4 weights, --decoder tiny.",
    ),
    "crashed": Fault(
        (ADB, IOS, SSH), "{app} has crashed on {device}: {said}.", "Report it, with the bundle's manifest.json.",
    ),
    "ended": Fault(
        (ADB, IOS, SSH), "{app} was ended on {device} before it was done: {said}.",
        "Leave the device alone while it is measured, and run the same command again.",
    ),
    "silent": Fault(
        (ADB, IOS, SSH), "{app} on {device} runs and has not said for {seconds} s how far it is.",
        "Unlock the device and look at its screen; then run the same command again.",
    ),
    "job": Fault(
        (ADB, IOS, SSH), "{app} on {device} cannot play this: {said}", "Nothing was measured.",
    ),
    "unplugged": Fault(
        (ADB, IOS, SSH), "The connection to {device} was lost while it was measured.",
        "{cleans}. Plug it in, or see to the network, and run the same command again.",
        (r"lost connection", r"closed by remote host", r"Broken pipe", r"Timeout, server .* not responding", r"error: closed",
         r"CoreDeviceError error 4000", r"device disconnected", r"client_loop", r"Connection to .* closed"),
    ),
    "tool": Fault(
        (ADB, IOS, SSH), "{device} failed at {doing}: {said}.", "Run the same command again.",
    ),
    "no result": Fault(
        (ADB, IOS, SSH), "What {app} on {device} measured is no record: {said}.", "Install the app that belongs to this release.",
    ),
}  # fmt: skip


def fault(name: str, **words: object) -> DeviceError:
    """The error of a fault by its name in the table."""
    return DeviceError(FAULTS[name].told(**words), name)


def recognise(means: Means, text: str, met: bool = False) -> str | None:
    """The fault that a tool's words are a sign of; None: of none. `met`: the device had answered before, so that its absence means
    that the connection was lost."""
    lost = ("unplugged", "no device", "unknown device", "offline", "unreachable")
    for name, known in FAULTS.items():
        if means in known.means and any(re.search(sign, text, re.MULTILINE) for sign in known.signs):
            return "unplugged" if met and name in lost else name
    return None


def said(text: str) -> str:
    """The line of a tool's words that tells most: the last one that is not empty, without its full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:200] if lines else "without a word"


def table() -> str:
    """The table of faults, Markdown."""
    rows = [
        f"| {name} | {', '.join(each.means)} | {each.shown[0]} | {each.shown[1]} |".replace(
            "INSTALL", "Install it (the line says how)."
        )
        for name, each in FAULTS.items()
    ]
    return "\n".join(["| fault | of | what is said | what to do |", "|---|---|---|---|", *rows]) + "\n"
