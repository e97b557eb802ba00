"""What runs where: every graph of a bundle called here once, and which execution provider ran which of its operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...core.bundle import Bundle, Method
from ...core.config import ClipSpec
from ...core.errors import ConfigError
from ...targets.onnx.axes import Axes
from ...targets.onnx.session import SUFFIX, profile


@dataclass(frozen=True)
class Ran:
    """One call of a graph. `operators`: how many of its nodes each provider ran; `flops`: of matrix products, convolutions and
    attention, by provider; `slowest`: operators by share of the call's time, the largest first."""

    program: str
    method: str
    operators: Mapping[str, int]
    flops: Mapping[str, int]
    seconds: float
    slowest: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}


def placements(bundle: Bundle, progress: Callable[[str, int, int], None] = lambda *_: None) -> tuple[Ran, ...]:
    """Every method of a bundle for ONNX Runtime, on inputs of ones in the bundle's own shape.

    Raises:
        ConfigError: the bundle is for another target, whose placement is decided when it is exported.
        EngineError: a graph cannot be loaded, or a part of it would silently run on another device than the bundle is for.
    """
    target = bundle.manifest.target
    if target.name != "onnx":
        raise ConfigError(
            f"The bundle was compiled for {target.name}, whose programs are placed when they are exported; inspect shows that "
            "without --placement, which is for bundles of the target onnx."
        )
    axes, found = Axes(bundle.model), []
    calls = [(name, program, method) for name, program in bundle.manifest.programs.items() for method in program.methods]
    for number, (name, program, method) in enumerate(calls):
        path = bundle.path(program.path) / f"{method}{SUFFIX}"
        seen = profile(path, target.backend, _ones(program.methods[method], axes, bundle.clip))
        found.append(Ran(name, method, seen.operators, seen.flops_by_provider, sum(seen.seconds.values()), seen.slowest()))
        progress("placement", number + 1, len(calls))
    return tuple(found)


def _ones(method: Method, axes: Axes, clip: ClipSpec) -> dict[str, np.ndarray]:
    return {spec.name: np.ones([axes.size(n, clip) for n in spec.shape], spec.dtype) for spec in method.inputs}
