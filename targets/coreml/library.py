"""coremltools, which tells on standard error what it cannot do on this machine and how far it has got, and which looks through a
program after each of a hundred passes: a third of the CPU time of nano's VAE (14.7 s, 9.7 without; medians of 3). It is looked
through once here, before it is written."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from ...core.errors import ExportError
from ..lean import swapped


def library() -> Any:
    """Raises ExportError: coremltools is not installed."""
    with quiet(), contextlib.nullcontext() if "coremltools" in sys.modules else _without_executorch():
        try:
            import coremltools
        except ImportError as error:
            raise ExportError(
                f"The target coreml needs coremltools, which is not here ({error}). pip install 'echoedge[coreml]'"
            ) from error
    return coremltools


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the library and those that it imports tell of themselves off the error stream; errors are raised all the same."""
    loggers = [
        logging.getLogger(name) for name in ("coremltools", "torch._dynamo", "torch.export", "torch.utils._pytree", "torchao")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_executorch() -> Iterator[None]:
    """Keeps the library from importing ExecuTorch's exporter, 2.7 s of its import, for graphs that it is never given."""
    known = "executorch"
    kept = sys.modules.get(known)
    sys.modules[known] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if kept is None:
            del sys.modules[known]
        else:
            sys.modules[known] = kept


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Within it programs are looked through when they are written and not after each pass. Files are the same."""
    from coremltools.converters.mil.mil import Program

    original = Program.validate

    def validate(self: Any, check_essential_scope: bool | None = False) -> None:
        if check_essential_scope:
            original(self, check_essential_scope)

    with swapped() as swap:
        swap(Program, "validate", validate)
        yield
