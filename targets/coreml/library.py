"""coremltools, which tells on standard error what it cannot do on this machine and how far it has got, and which looks through a
program after each of a hundred passes: half of a conversion's CPU time (of nano's VAE 12 of 26 s). It is looked through once here,
before it is written."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from ...core.errors import ExportError
from ..lean import swapped


def library() -> Any:
    """Raises ExportError: coremltools is not installed."""
    with quiet(), _without_executorch():
        try:
            import coremltools
        except ImportError as error:
            raise ExportError(
                f"The target coreml needs coremltools, which is not here ({error}). pip install 'echoedge[coreml]'"
            ) from error
    return coremltools


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the library tells of itself off the error stream; errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("coremltools", "torch._dynamo", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    shown = os.environ.get("TORCHAO_FORCE_SKIP_LOADING_SO_FILES")
    os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"] = "1"  # of kernels for cards, which fail to load aloud
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown is None:
            del os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"]
        else:
            os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"] = shown
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_executorch() -> Iterator[None]:
    """Keeps the library from importing ExecuTorch's exporter, which takes seconds, for graphs that it is never given."""
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
