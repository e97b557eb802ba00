"""Whether this machine has what is needed, and what killed runs have left."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import EchoEdgeError, EngineError
from ..core.files import available_memory, human_bytes
from ..core.leftovers import Leftover, leftovers, remove
from ..core.versions import library_versions


@dataclass(frozen=True)
class Check:
    """One thing that has to be there. `detail`: what was found, or what is wrong."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Health:
    """What was checked; what killed runs have left, each with whether it is deleted now."""

    checks: tuple[Check, ...]
    leftovers: tuple[tuple[Leftover, bool], ...]

    @property
    def healthy(self) -> bool:
        return all(check.passed for check in self.checks)


def check_health(folders: Sequence[Path] = (), clean: bool = False) -> Health:
    """Checks libraries, codecs, memory and the built-in model, and looks for what killed runs left in `folders`, which `clean`
    deletes."""
    from .bench.clip import device_name
    from .play.clips import h264_encoder

    found = leftovers(list(folders))
    probes: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "processor": device_name,
        "memory": lambda: f"{human_bytes(available_memory())} available",
        "libraries": lambda: ", ".join(f"{name} {version}" for name, version in library_versions().items()),
        "executorch": _xnnpack,
        "onnxruntime": _onnxruntime,
        "core ml": _coreml,
        "core ai": _coreai,
        "video codec": h264_encoder,
        "nano": _nano,
    }
    checks = tuple(_check(name, probe) for name, probe in probes.items())
    return Health(checks, tuple((leftover, clean and remove(leftover)) for leftover in found))


def _nano() -> str:
    """Both files are read; a student's needs its teacher's."""
    from ..core.weights.nano import load_nano, student_path

    counts = [sum(p.numel() for p in load_nano(path=path).dit.parameters()) for path in (None, student_path())]
    return "{:,} parameters in the transformer, {:,} in its student's".format(*counts)


def _check(name: str, probe: Callable[[], str]) -> Check:
    try:
        return Check(name, True, probe())
    except (EchoEdgeError, ImportError, OSError, RuntimeError) as error:
        return Check(name, False, str(error))


def _onnxruntime() -> str:
    """Of an extra: that it is not there is nothing amiss."""
    from ..targets.onnx.session import library

    try:
        here = library()
    except EngineError:
        return "not installed; pip install 'echoedge[onnx]' for --target onnx"
    return f"{here.__version__}, {', '.join(here.get_available_providers())}"


def _coreml() -> str:
    """Of an extra, too."""
    version = library_versions().get("coremltools")
    if version is None:
        return "not installed; pip install 'echoedge[coreml]' for --target coreml"
    return f"coremltools {version}; packages are interpreted" + (", and run by Core ML" if platform.system() == "Darwin" else "")


def _coreai() -> str:
    """Of an extra, too."""
    from ..targets.coreai.library import COMPILER, misfit

    wrong = misfit(COMPILER)
    if wrong is not None:
        return f"needs {wrong}; pip install 'echoedge[coreai]' for --target coreai"
    return ", ".join(f"{name} {version}" for name, version in COMPILER.items())


def _xnnpack() -> str:
    from ..targets.executorch.program_file import registered_backends

    names = registered_backends()
    if "XnnpackBackend" not in names:
        raise EngineError(f"this ExecuTorch has no XNNPACK; it has {', '.join(names)}. Install executorch again.")
    return f"XNNPACK, and {len(names) - 1} other backends"
