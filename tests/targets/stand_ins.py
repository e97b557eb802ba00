"""How processes end that a test is about what surrounds. They import this module by its name."""

from __future__ import annotations

import os
import signal
from typing import Any


def killed(*_arguments: Any) -> None:
    """What a machine without memory does to a compiler."""
    os.kill(os.getpid(), signal.SIGKILL)


def ends(*_arguments: Any) -> None:
    """A process that ends by itself, with a status and without a word."""
    os._exit(3)
