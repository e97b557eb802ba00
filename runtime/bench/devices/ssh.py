"""Boards, by ssh and scp: the `echoedge` that is installed there plays, and prints its status."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty

from ....core.bundle.device_job import JOB, Job, Status
from .base import ANSWER_S, SILENT_S
from .faults import fault, said
from .posix import PosixDevice
from .readings import LINUX, Reading, read_linux
from .streams import heard, status_of
from .tools import Ran, find, run, start

RUNNER = "echoedge"
FOLDER = ".cache/echoedge-bench"  # in the user's home, where commands by ssh begin
# No question is asked, since nobody would answer; a board that went off the air is noticed within half a minute.
OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_KILLED = (137, 9)
_PORT = re.compile(r"(.+):([0-9]{1,5})")


class SshDevice(PosixDevice):
    means = "ssh"

    def __init__(self, host: str, app: str | None = None) -> None:
        ported = _PORT.fullmatch(host)
        alone = ported is None or host.count(":") != 1
        self.host: str = host if ported is None or alone else ported[1]
        self.port: str | None = None if ported is None or alone else ported[2]
        self.serial, self.app, self.folder = host, app or RUNNER, FOLDER
        self.pid_file, self.ssh, self.scp = f"{FOLDER}.pid", "", ""

    @property
    def name(self) -> str:
        return self.host

    def words(self) -> dict[str, object]:
        port = [] if self.port is None else ["-p", self.port]
        return super().words() | {"host": " ".join([*port, self.host]), "tool": "ssh"}

    @property
    def stop_script(self) -> str:
        pid = f"{self.folder}/runner.pid"
        return (
            f"if [ -f {pid} ]; then p=$(cat {pid}); kill $p 2>/dev/null && for i in 1 2 3 4 5 6 7 8 9 10; do "
            "kill -0 $p 2>/dev/null || break; sleep 0.3; done; kill -9 $p 2>/dev/null; fi; true"
        )

    def command(self, script: str) -> list[str]:
        port = [] if self.port is None else ["-p", self.port]
        return [self.ssh, "-T", *OPTIONS, *port, self.host, f"sh -c {shlex.quote(script)}"]

    def copy(self, source: Path, target: str) -> Ran:
        port = [] if self.port is None else ["-P", self.port]
        return run([self.scp, "-q", *OPTIONS, *port, str(source), f"{self.host}:{target}"], timeout=3600)

    # ---- before anything is sent ----

    def check(self) -> None:
        self.ssh, self.scp = find("ssh", self.name), find("scp", self.name)
        self.shell("true")
        self.met = True
        self.shell(f"command -v {shlex.quote(self.app)} >/dev/null || {{ echo 'EchoEdge runner: not found' >&2; exit 127; }}")

    def begin(self, word: str, folders: Sequence[str], keep: bool) -> Status:
        self.make(folders)
        self.watch(keep)
        told = run(self.command(self._runner(f"--hello {word}")), timeout=ANSWER_S)
        for line in told.out.splitlines():
            if (status := status_of(line, word)) is not None:
                return status
        if told.status not in (0, 124):
            self._refused(told)
        raise fault("no answer", seconds=f"{ANSWER_S:g}", said=said(told.both), **self.words())

    def _refused(self, told: Ran) -> None:
        if "No such command" in told.both or "no such option" in told.both.lower():  # from before there were jobs
            raise fault("version", theirs="0", ours="1", **self.words())
        self.blame(told, f"starting {self.app}")

    def _runner(self, options: str = "") -> str:
        return f"{shlex.quote(self.app)} bench-job {self.folder} {options}"

    def reading(self) -> Reading:
        return read_linux(self.shell(LINUX))

    # ---- playing ----

    def play(self, job: Job) -> Iterator[Status]:
        self.shell(f"cat > {self.folder}/{JOB}", given=job.model_dump_json())
        # The runner is the shell's child, not its heir: a kill of it is an exit status then, and not one of ssh.
        pid = f"{self.folder}/runner.pid"
        script = f"{self._runner()} & p=$!; echo $p > {pid}; wait $p; s=$?; rm -f {pid}; exit $s"
        process = start(self.command(script))
        lines = heard(process)
        last: Status | None = None
        try:
            told = time.monotonic()
            while last is None or last.state not in ("done", "failed"):
                try:
                    line = lines.get(timeout=1)
                except Empty:
                    if time.monotonic() - told > SILENT_S:
                        raise fault("silent", seconds=f"{SILENT_S:g}", **self.words()) from None
                    continue
                if line is None:
                    self._why_it_ended(process)
                elif (status := status_of(line, job.job)) is not None:
                    last, told = status, time.monotonic()
                    yield status
        finally:
            if process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5 if last is not None and last.state in ("done", "failed") else 0)
            if process.poll() is None:
                process.kill()
                process.wait()

    def _why_it_ended(self, process: subprocess.Popen[str]) -> None:
        err, status = process.stderr.read() if process.stderr else "", process.wait()
        if status in _KILLED or status == -9:
            raise fault("memory", certain="most likely", **self.words())
        if status == 255:
            self.blame(Ran(status, "", err), "playing")
        if status in (143, 130):
            raise fault("ended", said="somebody has ended it", **self.words())
        raise fault("crashed", said=said(err), **self.words())
