"""The platform's own programs: run, with what they say; a missing one is a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .faults import fault

INSTALL = {
    "adb": "Install Android's platform-tools (Debian: apt install adb; macOS: brew install android-platform-tools).",
    "xcrun": "Install Xcode 15 or later, on a Mac: iPhones are reached by its devicectl.",
    "ssh": "Install OpenSSH's client.",
    "scp": "Install OpenSSH's client.",
}


@dataclass(frozen=True)
class Ran:
    """How a program ended. status: 124 where it took too long."""

    status: int
    out: str
    err: str

    @property
    def both(self) -> str:
        return f"{self.out}\n{self.err}"


def find(tool: str, device: str) -> str:
    """The path of a program.

    Raises:
        DeviceError: it is not here.
    """
    found = shutil.which(tool)
    if found is None:
        raise fault("no tool", tool=tool, device=device, install=INSTALL[tool])
    return found


def run(command: Sequence[str], timeout: float = 60.0, given: str | None = None) -> Ran:
    """Runs a program to its end, with `given` on its input, which is empty otherwise. Text is UTF-8, what is none is replaced."""
    with start(command) as process:
        try:
            out, err = process.communicate(given or "", timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return Ran(124, out, f"{err}\nNo answer within {timeout:g} s")
        except BaseException:
            process.kill()
            raise
    return Ran(process.returncode, out, err)


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """A program with pipes, in a session of its own: Ctrl-C reaches this process, which ends the device's before its tool's."""
    return subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        errors="replace", bufsize=1, start_new_session=True, env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
