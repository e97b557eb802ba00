"""Verbs that write are alone on their output. Nothing is imported here before one is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def alone(use: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For functions with an argument `out`: one run at a time on that output; a second one is refused before it does anything.
    `use`: see `work.claimed`."""

    def claiming(verb: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(verb)

        @wraps(verb)
        def claimed_first(*args: P.args, **kwargs: P.kwargs) -> R:
            from .work import claimed

            given = parameters.bind(*args, **kwargs)
            given.apply_defaults()
            with claimed(given.arguments["out"], use):
                return verb(*args, **kwargs)

        return claimed_first

    return claiming
