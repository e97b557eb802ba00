"""What played: the engine that every record of what was measured names."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from .fields import Record
from .reader import Bundle


class EngineRecord(Record):
    """What played. `target`: what its programs are compiled for, such as executorch/xnnpack; `weights` by the recipe's name;
    `precision`: the type that it computes in. None: not known."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # it is part of a file's name
    target: str
    weights: str
    precision: Literal["fp32", "bf16", "fp16"] | None

    @classmethod
    def of(cls, bundle: Bundle, name: str) -> Self:
        """Of an engine that plays `bundle`: the bundle's own programs, or else the reference in full precision."""
        manifest = bundle.manifest
        target = manifest.target
        if name == target.name:
            backend = f"{name}/{target.backend}" if target.backend else name
            return cls(name=name, target=backend, weights=manifest.weights.name, precision=target.precision)
        return cls(name=name, target="reference", weights="fp32", precision="fp32")

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.target}, weights {self.weights}, computing in {self.precision or 'a type that is not recorded'})"
        )
