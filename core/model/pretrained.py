"""The released encoders: what their three files have in common. One file each: `pretrained_text`, `pretrained_image`,
`pretrained_speech`.

An encoder is a configuration and a module made of the transformers library's layers. The configuration knows the released file:
which tensors it must hold, under which names, and which others may lie beside them. `config.build(tensors)` puts exactly these
tensors into a module without copying them, so that a memory-mapped file of 11 GB stays on the disk until it is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError

Shapes = dict[str, tuple[int, ...]]
M = TypeVar("M", bound=nn.Module)


class EncoderConfig(ABC):
    """What a loader needs to know of a part's released file. Names are the file's, in their canonical form.

    Those of encoders also have `build(tensors)`: the module in inference mode with exactly these tensors, in their types, uncopied;
    a CheckpointError where one is missing, unexpected or of another shape.
    """

    title = "encoder"

    @abstractmethod
    def tensors(self) -> Shapes:
        """The tensors that the file must hold: those that are executed."""

    def canonical(self, name: str) -> str:
        """One spelling for the names that different writers give to the same tensor."""
        return name

    def ignored(self, name: str) -> str | None:
        """Why the tensor of this canonical name is left aside; None if it may not be."""
        return None

    def select(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A file's tensors under their canonical names, for `build`, and why each of the others is left aside.

        Raises:
            CheckpointError: two of the names mean the same tensor.
        """
        kept: dict[str, Tensor] = {}
        left: dict[str, str] = {}
        for name in tensors:  # those left aside are not touched
            canonical = self.canonical(name)
            reason = self.ignored(canonical)
            if reason is not None:
                left[name] = reason
            elif canonical in kept:
                raise CheckpointError(f"The file has {canonical} of the {self.title} twice, once as {name}. Keep one of them.")
            else:
                kept[canonical] = tensors[name]
        return kept, left

    def require_exactly(self, tensors: Mapping[str, Tensor]) -> None:
        """Check that these are the tensors of `self.tensors()`, no more and no less.

        Raises:
            CheckpointError: they are not; the message names the first few of each kind.
        """
        expected = self.tensors()
        missing = [name for name in expected if name not in tensors]
        unexpected = [name for name in tensors if name not in expected]
        misshaped = [
            f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
        faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
        found = [f"{len(names)} {fault} ({_first_few(names)})" for fault, names in faults.items() if names]
        if found:
            raise CheckpointError(
                f"These are not the {len(expected)} tensors of the {self.title}: {'; '.join(found)}. "
                "Check that the file is the released one and complete."
            )


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:3] + ["…"] * (len(names) > 3))


def assign(kind: type[M], config: Any, state: dict[str, Tensor]) -> M:
    """A `kind` of this configuration, in inference mode, whose parameters are the tensors of `state` themselves."""
    with torch.device("meta"):
        module = kind(config)
    module.requires_grad_(False)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def weight_and_bias(name: str, *shape: int) -> Shapes:
    """A layer's weight and its bias, as long as the weight's first dimension."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def require_counts(config: Any, *names: str) -> None:
    """Check fields that count something.

    Raises:
        ConfigError: one is no whole number from 1 on.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1.")
