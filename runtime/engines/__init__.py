"""Engines: each runs the programs of a bundle behind one protocol."""

from __future__ import annotations

from collections.abc import Callable

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import EngineError
from .base import Engine


def _torch(bundle: Bundle, clip: ClipSpec, threads: int | None) -> Engine:
    import torch

    from .torch import TorchEngine

    if clip != bundle.clip:
        raise EngineError("The torch engine plays a bundle's main shape; leave --clip out, or use --engine executorch.")
    engine = TorchEngine.for_bundle(bundle)
    if threads is not None:
        torch.set_num_threads(threads)
    return engine


def _executorch(bundle: Bundle, clip: ClipSpec, threads: int | None) -> Engine:
    from .executorch import ExecuTorchEngine

    return ExecuTorchEngine(bundle, threads or 0, clip=clip)


ENGINES: dict[str, Callable[[Bundle, ClipSpec, int | None], Engine]] = {"executorch": _executorch, "torch": _torch}


def open_engine(bundle: Bundle, name: str = "auto", clip: ClipSpec | None = None, threads: int | None = None) -> Engine:
    """The engine called `name`; "auto" is the one that the bundle was compiled for. `clip`: which of the bundle's shapes it plays.
    `threads`: on how many, in this process from now on; by default the engine's choice.

    Raises:
        EngineError: there is none of that name, or it cannot play the bundle, or not on so many threads.
    """
    name = bundle.manifest.target if name == "auto" else name
    if name not in ENGINES:
        raise EngineError(f"There is no engine {name!r} here. Choose from: auto, {', '.join(ENGINES)}.")
    engine = ENGINES[name](bundle, clip or bundle.clip, threads)
    if threads is not None and threads_of(engine) != threads:
        raise EngineError(
            f"--threads is {threads}; {name} runs on {threads_of(engine)} here. Leave --threads out, or ask for that."
        )
    return engine


def threads_of(engine: Engine) -> int:
    """How many threads an engine runs on now."""
    if engine.name == "executorch":
        from ...targets.executorch.program_file import threads

        return threads()
    import torch

    return torch.get_num_threads()
