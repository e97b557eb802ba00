"""What a program keeps between runs."""

from __future__ import annotations

from torch import Tensor

from ..kinds import of_array
from .base import State, operators


def read_state(input: State) -> Tensor:
    return input.value


def write_state(input: State, data: Tensor) -> None:
    if (data.shape, data.dtype) != (input.value.shape, input.value.dtype):
        told = [f"{of_array(each.dtype)} {list(each.shape)}" for each in (input.value, data)]
        raise ValueError(f"the state is {told[0]} and what is written {told[1]}")
    input.value = data


OPERATORS = operators("moves", read_state=read_state, write_state=write_state)
