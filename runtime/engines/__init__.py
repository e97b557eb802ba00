"""Engines: each runs the programs of a bundle behind one protocol."""

from __future__ import annotations

from collections.abc import Callable

from ...core.bundle import Bundle
from ...core.errors import EngineError
from .base import Engine


def _torch(bundle: Bundle) -> Engine:
    from .torch import TorchEngine

    return TorchEngine.for_bundle(bundle)


def _executorch(bundle: Bundle) -> Engine:
    from .executorch import ExecuTorchEngine

    return ExecuTorchEngine(bundle)


ENGINES: dict[str, Callable[[Bundle], Engine]] = {"executorch": _executorch, "torch": _torch}


def open_engine(bundle: Bundle, name: str = "auto") -> Engine:
    """The engine called `name`; "auto" is the one that the bundle was compiled for.

    Raises:
        EngineError: there is none of that name, or it cannot play the bundle.
    """
    name = bundle.manifest.target if name == "auto" else name
    if name not in ENGINES:
        raise EngineError(f"There is no engine {name!r} here. Choose from: auto, {', '.join(ENGINES)}.")
    return ENGINES[name](bundle)
