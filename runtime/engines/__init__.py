"""Engines: each runs the programs of a bundle behind one protocol."""

from __future__ import annotations

from collections.abc import Callable

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import EngineError
from .base import Engine


def _torch(bundle: Bundle, clip: ClipSpec) -> Engine:
    from .torch import TorchEngine

    if clip != bundle.clip:
        raise EngineError("The torch engine plays a bundle's main shape; leave --clip out, or use --engine executorch.")
    return TorchEngine.for_bundle(bundle)


def _executorch(bundle: Bundle, clip: ClipSpec) -> Engine:
    from .executorch import ExecuTorchEngine

    return ExecuTorchEngine(bundle, clip=clip)


ENGINES: dict[str, Callable[[Bundle, ClipSpec], Engine]] = {"executorch": _executorch, "torch": _torch}


def open_engine(bundle: Bundle, name: str = "auto", clip: ClipSpec | None = None) -> Engine:
    """The engine called `name`; "auto" is the one that the bundle was compiled for. `clip`: which of the bundle's shapes it plays.

    Raises:
        EngineError: there is none of that name, or it cannot play the bundle.
    """
    name = bundle.manifest.target if name == "auto" else name
    if name not in ENGINES:
        raise EngineError(f"There is no engine {name!r} here. Choose from: auto, {', '.join(ENGINES)}.")
    return ENGINES[name](bundle, clip or bundle.clip)
