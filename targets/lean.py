"""Compilers without what they do again and again to no effect: of toy programs for ExecuTorch, three tenths of the CPU time.

    provenance      each pass copies where every node came from, ever deeper, though nothing changes what is copied: it is shared
    implicit ops    each decomposition asks the dispatcher for the same operators once for every namespace: once is enough, until
                    a library is loaded or an operator registered
    collection      graphs are many small objects that live as long as the compiler: looking through them is put off

None of it reaches a file. Where torch has another layout than this knows, it is left as it is.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

YOUNG_OBJECTS = 10_000  # that are made before the first look through them; Python's 700 are fewer than a pass makes in 10 ms


@contextmanager
def swapped() -> Iterator[Callable[[Any, str, Any], None]]:
    """Gives a function that sets attributes of modules and classes, `(place, name, value)`, until the end of the block."""
    kept: list[tuple[Any, str, Any]] = []

    def swap(place: Any, name: str, value: Any) -> None:
        kept.append((place, name, vars(place).get(name)))
        setattr(place, name, value)

    try:
        yield swap
    finally:
        for place, name, value in reversed(kept):
            if value is None:
                delattr(place, name)
            else:
                setattr(place, name, value)


@contextmanager
def lean() -> Iterator[None]:
    """Within it, and in what it decorates, torch's exporter and what stands on it are quicker. It may be nested."""
    import torch._export.utils
    from torch.fx.traceback import NodeSource

    with swapped() as swap:
        found = getattr(torch._export.utils, "_materialize_cpp_cia_ops", None)
        if found is not None and not isinstance(found, _OncePerState):
            swap(torch._export.utils, "_materialize_cpp_cia_ops", _OncePerState(found))
        if "__deepcopy__" not in vars(NodeSource):
            swap(NodeSource, "__deepcopy__", lambda self, _: self)
        thresholds = gc.get_threshold()
        gc.set_threshold(max(YOUNG_OBJECTS, thresholds[0]) if thresholds[0] else 0, *thresholds[1:])
        try:
            yield
        finally:
            gc.set_threshold(*thresholds)


class _OncePerState:
    """A function that puts every operator of the dispatcher into torch.ops, called when there may be new ones."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.seen: tuple[int, ...] = ()

    def __call__(self) -> None:
        import torch

        library = torch.library
        state = (len(library._impls), len(library._defs), len(torch.ops.loaded_libraries), len(sys.modules))
        if state != self.seen:
            self.function()
            self.seen = state
