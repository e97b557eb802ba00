"""A copy of a module with rewrites applied: how every target's set of them is put to use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..idle import drop_idle

LIBRARY_RESULTS = {"CLIPAttention": 2, "Wav2Vec2Attention": 3}  # of classes of transformers, which is not imported for this
Rewrite = Callable[[nn.Module], nn.Module | None]  # what replaces a module, or None where it can stay


def library_results(module: nn.Module) -> int | None:
    """How many results an attention of transformers' gives; None for other modules."""
    kind = type(module)
    return LIBRARY_RESULTS.get(kind.__name__) if kind.__module__.startswith("transformers.") else None


def applied(
    module: nn.Module,
    rewrite: Rewrite,
    inputs: Sequence[Tensor] | None = None,
    before: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """A copy of `module` whose parts, children first, and itself at last, are what `rewrite` makes of them; the original is left
    alone. `before` changes parts of the copy in place, before any is replaced.

    Weights that stay as they are share the original's memory. With `inputs` the copy keeps what it reads on inputs of these shapes
    and nothing else.
    """
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    module = copy.deepcopy(module, shared).eval()
    if inputs is not None:
        drop_idle(module, inputs, keep_shapes=True)
    for part in list(module.modules()):
        before(part)
    for part in reversed(list(module.modules())):  # children first
        for name, child in list(part.named_children()):
            replacement = rewrite(child)
            if replacement is not None:
                setattr(part, name, replacement)
    module = rewrite(module) or module
    if inputs is not None:
        drop_idle(module, inputs)
    return module
