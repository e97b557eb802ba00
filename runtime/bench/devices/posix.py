"""What a phone with adb and a board with ssh have in common: a shell, a folder, and a guard.

The guard is a shell on the device whose input is ours. When it ends without the word that all is well, because of Ctrl-C, a kill of
this process, or a cable that was pulled, the device ends the player and removes the files by itself.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ....core.bundle.device_job import BUNDLE, JOB, RESULT, STATUS
from ....core.errors import DeviceError
from .base import PUSHED, Device
from .faults import FAULTS, fault, recognise, said
from .tools import Ran, run, start

_WELL = "well"  # what the guard is told where nothing is left to do


class PosixDevice(Device):
    pid_file: str  # of the guard, on the device
    met = False  # it has answered
    guard: subprocess.Popen[str] | None = None

    # ---- how it is reached ----

    @abstractmethod
    def command(self, script: str) -> list[str]:
        """The command here that runs a script there."""

    @abstractmethod
    def copy(self, source: Path, target: str) -> Ran:
        """Sends one file."""

    @property
    @abstractmethod
    def stop_script(self) -> str:
        """Ends the player, there."""

    def shell(self, script: str, timeout: float = 60.0, given: str | None = None) -> str:
        """What a script printed there.

        Raises:
            DeviceError: it failed, as `blame`.
        """
        ran = run(self.command(script), timeout, given)
        if ran.status:
            self.blame(ran, "a command")
        return ran.out

    def words(self) -> dict[str, object]:
        """For the sentences of faults."""
        return {
            "device": self.name, "means": self.means, "serial": self.serial, "app": self.app, "folder": self.folder,
            "tool": self.means, "cleans": "The device ends the job and removes the files by itself",
        }  # fmt: skip

    def blame(self, ran: Ran, doing: str) -> NoReturn:
        """Raises the fault that a tool's words are a sign of."""
        name = recognise(self.means, ran.both, self.met)
        words = self.words() | {"said": said(ran.both)}
        if name is None and self.met and run(self.command("true"), timeout=15).status:
            name = "unplugged"  # tools have many words for that
        if name is None or not _speaks(name, words):
            raise fault("tool", doing=doing, **words)
        raise fault(name, **words)

    # ---- the guard ----

    def watch(self, keep: bool) -> None:
        """From now on the device cleans up by itself when it hears no more of us.

        Raises:
            DeviceError: another benchmark has it.
        """
        if self.shell(f"[ -f {self.pid_file} ] && kill -0 $(cat {self.pid_file}) 2>/dev/null && echo busy; true").strip():
            raise fault("busy", **self.words())
        clean = f"rm -rf {_run_files(self.folder)}" if keep else f"rm -rf {self.folder}"
        script = (
            f"trap '' HUP INT TERM; mkdir -p {self.pid_file.rpartition('/')[0]}; echo $$ > {self.pid_file}; read -r word; "
            f'rm -f {self.pid_file}; [ "$word" = {_WELL} ] && exit 0; {self.stop_script}; {clean}'
        )
        self.guard = start(self.command(script))

    def _dismiss(self, well: bool) -> None:
        guard, self.guard = self.guard, None
        if guard is None:
            return
        with suppress(BrokenPipeError, OSError, ValueError):
            if well and guard.stdin is not None:
                guard.stdin.write(f"{_WELL}\n")
                guard.stdin.flush()
        with suppress(subprocess.TimeoutExpired, BrokenPipeError, ValueError, OSError):
            guard.communicate(timeout=10)  # its input ends with this
        if guard.poll() is None:
            guard.kill()
            guard.wait()

    # ---- files ----

    def known(self) -> dict[str, str]:
        text = self.shell(f"cat {self.folder}/{PUSHED} 2>/dev/null || echo '{{}}'")
        try:
            told = json.loads(text)
        except ValueError:
            return {}  # it was being written when the device went off: everything is sent again
        return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}

    def push(self, files: Mapping[str, Path], known: Mapping[str, str]) -> Iterator[str]:
        whole = {name: digest for name, digest in known.items() if f"{BUNDLE}/{name}" not in files}
        self._note(whole)
        kept = "".join(f"./{name}\n" for name in whole)
        script = (
            f"cd {self.folder}/{BUNDLE} && find . -type f | while IFS= read -r f; do "
            'if ! grep -qxF "$f" ../kept.txt; then rm -f "$f"; fi; done; rm -f ../kept.txt'
        )
        self.shell(f"cat > {self.folder}/kept.txt", given=kept)
        self.shell(script)
        for name, path in files.items():
            ran = self.copy(path, f"{self.folder}/{name}")
            if ran.status:
                self.blame(ran, f"taking {name}")
            yield name

    def _note(self, whole: Mapping[str, str]) -> None:
        self.shell(f"cat > {self.folder}/{PUSHED}", given=json.dumps(dict(whole)))

    def result(self) -> str:
        return self.shell(f"cat {self.folder}/{RESULT}")

    def make(self, folders: Sequence[str]) -> None:
        names = " ".join(shlex.quote(f"{self.folder}/{name}") for name in (BUNDLE, *folders))
        self.shell(f"mkdir -p {names} && rm -rf {_run_files(self.folder)}")

    # ---- the end ----

    def end(self, landed: Mapping[str, str] | None) -> bool:
        try:
            if landed is None:
                self.shell(f"{self.stop_script}; rm -rf {self.folder}", timeout=30)
            else:
                self.shell(f"{self.stop_script}; rm -rf {_run_files(self.folder)}", timeout=30)
                self._note(landed)
        except DeviceError:
            self._dismiss(well=False)
            return False
        self._dismiss(well=True)
        return True


def _run_files(folder: str) -> str:
    """What belongs to one job, not to the bundle."""
    return " ".join(f"{folder}/{name}" for name in (JOB, STATUS, RESULT, "*.f32", "*.pid", "*.partial"))


def _speaks(name: str, words: Mapping[str, object]) -> bool:
    """Whether all that a fault's sentence quotes is known."""
    try:
        FAULTS[name].told(**words)
    except KeyError:
        return False
    return True
