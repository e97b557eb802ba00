"""What takes the compiler's place where a test is about what surrounds it. Compiler processes import this module by its name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from echoedge.core.bundle import Delegation, Figures
from echoedge.core.model.programs import EntryPoints
from echoedge.targets.executorch.lower import Compiled


def compiled_at_once(name: str, program: EntryPoints, recipe: Any, folder: Path, *_samples: Any) -> Compiled:
    """A file that no runtime can play."""
    del recipe
    path = folder / f"{name}.pte"
    path.write_bytes(name.encode())
    taken = {method: Delegation(delegate_calls=1, delegated_ops=1) for method in program}
    return Compiled(path, taken, {})


def killed(*_arguments: Any) -> None:
    """What a machine without memory does to a compiler."""
    os.kill(os.getpid(), signal.SIGKILL)


def crashes(*_arguments: Any) -> None:
    """What a fault in native code does to a compiler."""
    os.kill(os.getpid(), signal.SIGSEGV)


def ends(*_arguments: Any) -> None:
    """A process that ends by itself, with a status and without a word."""
    os._exit(3)


def endless(*_arguments: Any) -> None:
    time.sleep(600)


def compile_all_at_once(
    programs: dict[str, EntryPoints], recipe: Any, folder: Path, jobs: int, progress: Any, samples: Any
) -> dict[str, Compiled]:
    """Instead of `bundle_builder._compile_all`: no processes at all."""
    del samples
    del jobs
    progress("programs", 0, len(programs))
    compiled = {name: compiled_at_once(name, program, recipe, folder) for name, program in programs.items()}
    progress("programs", len(programs), len(programs))
    return compiled


def believed(compiled: dict[str, Compiled], _golden: Any, _demanded: Any, _jobs: int, progress: Any) -> dict[str, Figures]:
    """Instead of `bundle_builder._prove_all`: the files of `compiled_at_once` cannot be run."""
    progress("proof", len(compiled), len(compiled))
    return dict.fromkeys(compiled, Figures(psnr_db=99.0))
