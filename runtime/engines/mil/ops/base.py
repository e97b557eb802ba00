"""What an operator is here: a function of torch tensors and plain Python values, with the parameters of the file's operator.

The annotations of a function say what it takes: a tensor, or the number, flag, text or list that a constant (or a computed tensor
of integers) stands for. A parameter called `opset` is not the file's: it is the number of the function's operator set (7 is iOS 17,
8 is iOS 18), where operators of one name differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor

Form = Literal["computes", "moves", "converts", "decodes"]
Held = Any  # a tensor, a text or a state, by the name of a value


@dataclass
class State:
    """What a program keeps between runs, under its input's name."""

    value: Tensor


def _one(values: Sequence[Held], kind: type, called: str) -> Held:
    if len(values) != 1 or not isinstance(values[0], kind):
        raise ValueError(f"{called} has to be one {kind.__name__.lower()}")
    return values[0]


def _number(values: Sequence[Held]) -> int | float | bool:
    return _one(values, Tensor, "it").item()  # type: ignore[no-any-return]


def _numbers(values: Sequence[Held]) -> list[Any]:
    return [x for value in values for x in value.reshape(-1).tolist()]


_READ: dict[Any, Callable[[Sequence[Held]], Any]] = {
    Tensor: lambda values: _one(values, Tensor, "it"),
    State: lambda values: _one(values, State, "it"),
    str: lambda values: _one(values, str, "it"),
    int: lambda values: int(_number(values)),
    float: lambda values: float(_number(values)),
    bool: lambda values: bool(_number(values)),
    list[int]: lambda values: [int(x) for x in _numbers(values)],
    list[bool]: lambda values: [bool(x) for x in _numbers(values)],
    list[Tensor]: list,
}
_INJECTED = "opset"


@dataclass(frozen=True)
class Operator:
    """`form`: "computes", in float32 whatever is held; "moves" values, which keep their type; "converts" from one type to another;
    "decodes" a compressed constant, with the roundings of the file's types. `unread`: parameters of the file's operator that change
    nothing here."""

    run: Callable[..., Any]
    form: Form
    params: Mapping[str, Any]
    needed: frozenset[str]
    unread: frozenset[str] = frozenset()
    asks_opset: bool = False

    def call(self, given: Mapping[str, Sequence[Held]], widen: bool, opset: int) -> Any:
        """Runs it. `widen`: half precision becomes float32 first.

        Raises:
            ValueError: an argument is missing, unknown or of another kind.
        """
        unknown, missing = given.keys() - self.params.keys() - self.unread, self.needed - given.keys()
        if unknown or missing:
            word, names = ("takes no", unknown) if unknown else ("lacks", missing)
            raise ValueError(f"it {word} {', '.join(sorted(names))}; it takes {', '.join(self.params)}")
        arguments = {}
        for name, values in given.items():
            if name in self.unread:
                continue
            try:
                arguments[name] = _READ[self.params[name]]([_wide(value) for value in values] if widen else values)
            except (ValueError, AttributeError) as error:
                raise ValueError(f"its {name} is not what it takes: {error}") from error
        if self.asks_opset:
            arguments[_INJECTED] = opset
        return self.run(**arguments)

    def leading(self, given: Mapping[str, Sequence[Held]]) -> Tensor | None:
        """The first tensor of floats among the arguments, in the order of the parameters: its type is the result's."""
        for name in self.params:
            for value in given.get(name, ()):
                if isinstance(value, Tensor) and value.is_floating_point():
                    return value
        return None


def _wide(value: Held) -> Held:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _operator(run: Callable[..., Any], form: Form, unread: Sequence[str]) -> Operator:
    hints, params, needed = get_type_hints(run), dict[str, Any](), set[str]()
    for name, parameter in inspect.signature(run).parameters.items():
        if name == _INJECTED:
            continue
        plain = [each for each in get_args(hints[name]) if each is not type(None)] if type(None) in get_args(hints[name]) else []
        params[name] = plain[0] if plain else hints[name]
        if parameter.default is inspect.Parameter.empty:
            needed.add(name)
    return Operator(run, form, params, frozenset(needed), frozenset(unread), _INJECTED in hints)


def operators(form: Form, unread: Sequence[str] = (), /, **runs: Callable[..., Any]) -> dict[str, Operator]:
    """Operators of one form, by their types in a file."""
    return {name: _operator(run, form, unread) for name, run in runs.items()}


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} in {rank}")
    return axis % rank if rank else 0


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped so that it lies along `axis` of a tensor of `rank`."""
    return values.reshape([-1 if place == axis else 1 for place in range(rank)])
