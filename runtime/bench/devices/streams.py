"""What a player on a device prints: lines, some of which are a status."""

from __future__ import annotations

import subprocess
from queue import Queue
from threading import Thread

from pydantic import ValidationError

from ....core.bundle.device_job import SAID, Status


def heard(process: subprocess.Popen[str]) -> Queue[str | None]:
    """The lines of a program as they come, None behind the last one."""
    lines: Queue[str | None] = Queue()

    def read() -> None:
        try:
            for line in process.stdout or ():
                lines.put(line)
        except ValueError:
            pass  # it was closed by who ended the program
        lines.put(None)

    Thread(target=read, daemon=True).start()
    return lines


def status_of(line: str, word: str) -> Status | None:
    """The status in a line, of the job `word`; None: another line."""
    if not line.startswith(SAID):
        return None
    try:
        status = Status.model_validate_json(line.removeprefix(SAID))
    except ValidationError:
        return None
    return status if status.job == word else None
