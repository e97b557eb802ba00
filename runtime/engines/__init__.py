"""Engines: each runs the programs of a bundle behind one protocol."""

from __future__ import annotations

from ...core.bundle import Bundle
from ...core.config import ClipSpec
from ...core.errors import EngineError
from ..registry import OTHER_ENGINES, REGISTRY, engine_module
from .base import Engine
from .watched import Watched


def _torch(bundle: Bundle, clip: ClipSpec, threads: int | None) -> Engine:
    import torch

    from .torch import TorchEngine

    if clip != bundle.clip:
        raise EngineError("The torch engine plays a bundle's main shape; leave --clip out, or use --engine executorch.")
    engine = TorchEngine.for_bundle(bundle)
    if threads is not None:
        torch.set_num_threads(threads)
    return engine


def open_engine(bundle: Bundle, name: str = "auto", clip: ClipSpec | None = None, threads: int | None = None) -> Engine:
    """The engine called `name`: of a target, or "torch", the reference in full precision; "auto" is that of the target that the
    bundle was compiled for. `clip`: which of the bundle's shapes it plays. `threads`: on how many, in this process from now on; by
    default the engine's choice.

    Raises:
        EngineError: there is none of that name, or it cannot play the bundle, or not on so many threads.
    """
    name, known = bundle.manifest.target.name if name == "auto" else name, (*REGISTRY, *OTHER_ENGINES, "torch")
    if name not in known:
        raise EngineError(f"There is no engine {name!r} here. Choose from: auto, {', '.join(known)}.")
    clip = clip or bundle.clip
    if name == "torch":  # it reads no programs
        engine: Engine = _torch(bundle, clip, threads)
    else:
        engine = Watched(engine_module(name).open_bundle(bundle, clip, threads), bundle)
    if threads is not None and engine.threads != threads:
        raise EngineError(f"--threads is {threads}; {name} runs on {engine.threads} here. Leave --threads out, or ask for that.")
    return engine
