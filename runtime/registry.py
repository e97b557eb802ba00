"""Targets by name, and the engine that runs what each compiles: a new target is a line here.

A target's module has a `TARGET` (`targets.base.Target`); its engine's has `open_bundle(bundle, clip, threads)`, which gives an
`Engine`, and `open_built(built)`, which runs one compiled unit before there is a bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..core.plan import check_choice

if TYPE_CHECKING:
    from ..targets.base import Built, Target
    from .engines.mil.traced import Traced

_HERE = __package__.rpartition(".")[0]  # modules that begin with a dot are of this package


@dataclass(frozen=True)
class Registered:
    """Modules, imported when they are needed: a compiler's libraries are heavy."""

    target: str
    engine: str


REGISTRY = {
    "executorch": Registered(".targets.executorch.target", ".runtime.engines.executorch"),
    "onnx": Registered(".targets.onnx.target", ".runtime.engines.onnx"),
    "coreml": Registered(".targets.coreml.target", ".runtime.engines.coreml"),
    "coreai": Registered(".targets.coreai.target", ".runtime.engines.coreai"),
}
OTHER_ENGINES = {  # that play what a target compiles, beside its own
    "mil": ".runtime.engines.mil.engine",
    "mil-fp32": ".runtime.engines.mil.single",
}


class BuiltUnit(Protocol):
    """A compiled unit that runs alone."""

    def run(self, method: str, inputs: Sequence[Any], wanted: Collection[int] | None = None) -> list[Any]:
        """As `Engine.run`; outputs that are not among the positions `wanted` may be empty. What running left in memory is freed."""
        ...


@runtime_checkable
class TracedUnit(Protocol):
    """A unit whose operators can be looked at one by one."""

    def traced(self, method: str, inputs: Sequence[Any], call: int) -> Traced:
        """What each operator makes of `inputs`, those of the recorded call of that number, beside the graph that was compiled."""
        ...


def target_of(name: str) -> Target[Any]:
    """Raises ConfigError: there is no target of that name; the message lists them."""
    check_choice("target", name, tuple(REGISTRY))
    target: Target[Any] = import_module(REGISTRY[name].target, _HERE).TARGET
    return target


def engine_module(name: str) -> Any:
    """The module of the engine that runs what the target `name` compiles, or of another one of that name.

    Raises:
        ConfigError: there is no target or engine of that name.
    """
    check_choice("engine", name, (*REGISTRY, *OTHER_ENGINES))
    return import_module(OTHER_ENGINES[name] if name in OTHER_ENGINES else REGISTRY[name].engine, _HERE)


def open_built(name: str, built: Built) -> BuiltUnit:
    """A unit that the target `name` has compiled, on this machine.

    Raises:
        EngineError: it cannot be loaded.
    """
    unit: BuiltUnit = engine_module(name).open_built(built)
    return unit
