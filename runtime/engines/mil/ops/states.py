"""What a program keeps between runs."""

from __future__ import annotations

from torch import Tensor

from .base import State, moving


def read_state(input: State) -> Tensor:
    return input.value


def write_state(input: State, data: Tensor) -> None:
    if data.shape != input.value.shape:
        raise ValueError(f"the state is {list(input.value.shape)} and what is written {list(data.shape)}")
    input.value = data


OPERATORS = moving(read_state=read_state, write_state=write_state)
