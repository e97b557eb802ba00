"""coremltools, which tells on standard error what it cannot do on this machine and how far it has got."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from ...core.errors import ExportError


def library() -> Any:
    """Raises ExportError: coremltools is not installed."""
    with quiet():
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
