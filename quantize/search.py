"""Which layer is stored how: the smallest weights within an error, or the smallest error within a size.

Each layer was measured alone, as every scheme would store it; errors of layers that round independently add up as energies.
Choosing one scheme for each layer is then a knapsack, solved along the lower convex hull of every layer's (bytes, error).
What was measured is kept line by line in a journal, so that a killed search goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..core.files import atomic_file
from .recipes import Rule, WeightRecipe
from .roundings import Rounding
from .schemes import Weights

JOURNAL = "measurements.jsonl"
REST: tuple[Weights, Rounding] = ("int8", "nearest")  # of layers that a recipe does not name


# ---- 1. Choosing ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One way to store a layer: its bytes, and the energy of the error that it alone makes."""

    weights: Weights
    bytes: int
    error: float


@dataclass(frozen=True)
class Choice:
    """An option for every layer."""

    picks: Mapping[str, Option]

    @property
    def bytes(self) -> int:
        return sum(option.bytes for option in self.picks.values())

    @property
    def error(self) -> float:
        """Predicted: the sum of what the layers make alone."""
        return sum(option.error for option in self.picks.values())

    def having(self, layer: str, option: Option) -> Choice:
        return Choice({**self.picks, layer: option})


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of error over bytes, smallest first: each larger one buys less per byte."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bytes, o.error)):
        if kept and option.error >= kept[-1].error:
            continue
        while len(kept) > 1 and _gain(kept[-2], option) >= _gain(kept[-2], kept[-1]):
            kept.pop()
        kept.append(option)
    return kept


def _gain(a: Option, b: Option) -> float:
    """Error saved per byte from `a` to the larger `b`."""
    return (a.error - b.error) / (b.bytes - a.bytes) if b.bytes > a.bytes else float("inf")


def frontier(options: Mapping[str, Sequence[Option]]) -> list[Choice]:
    """Choices from the smallest to the most exact; each has the least error of all choices that are not larger."""
    hulls = {layer: hull(found) for layer, found in options.items()}
    steps = [(_gain(a, b), layer, b) for layer, kept in hulls.items() for a, b in zip(kept, kept[1:], strict=False)]
    steps.sort(key=lambda step: (-step[0], step[2].bytes))
    choices = [Choice({layer: kept[0] for layer, kept in hulls.items()})]
    for _, layer, option in steps:
        choices.append(choices[-1].having(layer, option))
    return choices


def best_under(options: Mapping[str, Sequence[Option]], most_bytes: int) -> Choice:
    """The least error within a size: the frontier's last choice that fits, then what still fits of the rest.

    Raises:
        ConfigError: not even the smallest choice fits.
    """
    path = frontier(options)
    if path[0].bytes > most_bytes:
        raise ConfigError(f"The smallest weights of these layers take {path[0].bytes:,} bytes; {most_bytes:,} are allowed.")
    choice = max((c for c in path if c.bytes <= most_bytes), key=lambda c: c.bytes)
    return _spent(choice, options, "error", "bytes", most_bytes)


def smallest_within(options: Mapping[str, Sequence[Option]], most_error: float) -> Choice:
    """The smallest weights within an error: the frontier's first choice that is exact enough, then what can still be saved.

    Raises:
        ConfigError: not even the most exact choice is exact enough.
    """
    path = frontier(options)
    if path[-1].error > most_error:
        raise ConfigError(
            f"The most exact weights of these layers leave an error of {path[-1].error:.3g}; {most_error:.3g} is allowed."
        )
    choice = next(c for c in path if c.error <= most_error)
    return _spent(choice, options, "bytes", "error", most_error)


def _spent(choice: Choice, options: Mapping[str, Sequence[Option]], less: str, spending: str, most: float) -> Choice:
    """`choice` with the options that take most off what is to be `less` ("error" or "bytes"), one after the other, while what they
    add to `spending` (the other one) fits under `most`."""
    less_of, cost_of = attrgetter(less), attrgetter(spending)
    while True:
        room = most - cost_of(choice)
        better = [
            (less_of(choice.picks[layer]) - less_of(option), layer, option)
            for layer, found in options.items()
            for option in found
            if less_of(option) < less_of(choice.picks[layer]) and cost_of(option) - cost_of(choice.picks[layer]) <= room
        ]
        if not better:
            return choice
        _, layer, option = max(better, key=lambda item: item[0])
        choice = choice.having(layer, option)


# ---- 2. A choice as a recipe that people can read --------------------------------------------------------------------------------

_BLOCK = re.compile(r"(?P<before>.*blocks\.)(?P<number>\d+)(?P<after>\..*)")


def patterns(modules: Sequence[str], every: Sequence[str]) -> list[str]:
    """Shell patterns that match all of `modules` and none of the others in `every`: one per kind of layer where all blocks agree,
    else its blocks by number."""
    found: list[str] = []
    kinds: dict[tuple[str, str], list[int]] = {}
    for name in modules:
        match = _BLOCK.fullmatch(name)
        if match is None:
            found.append(_general(name))
        else:
            kinds.setdefault((match["before"], match["after"]), []).append(int(match["number"]))
    for (before, after), numbers in kinds.items():
        of_kind = [m for m in map(_BLOCK.fullmatch, every) if m is not None and (m["before"], m["after"]) == (before, after)]
        start = _general(before)
        found += [f"{start}*{after}"] if len(of_kind) == len(numbers) else [f"{start}{n}{after}" for n in _numbers(numbers)]
    return found


def _general(name: str) -> str:
    """Programs that hold a part of the model name its layers without `dit.`."""
    return "*" + name.removeprefix("dit.")


def _numbers(numbers: Sequence[int]) -> list[str]:
    """Numbers as patterns, one per ten: [3, 5, 12] -> ["[35]", "12"]."""
    tens: dict[str, str] = {}
    for number in sorted(numbers):
        tens[str(number)[:-1]] = tens.get(str(number)[:-1], "") + str(number)[-1]
    return [front + (f"[{digits}]" if len(digits) > 1 else digits) for front, digits in tens.items()]


def recipe_of(name: str, choice: Choice, group: int, rounding: Callable[[str, Weights], Rounding]) -> WeightRecipe:
    """The choice as rules; layers are named `program/module`, and `rounding` says how each is rounded to its weights. What is not
    named, other encoders for instance, is 8 bits."""
    modules: dict[str, list[str]] = {}
    for layer in choice.picks:
        program, module = layer.split("/", 1)
        modules.setdefault(program, []).append(module)
    rules = []
    for program, every in modules.items():
        kinds: dict[tuple[Weights, Rounding], list[str]] = {}
        for module in every:
            weights = choice.picks[f"{program}/{module}"].weights
            kinds.setdefault((weights, rounding(f"{program}/{module}", weights)), []).append(module)
        kinds = {kind: chosen for kind, chosen in kinds.items() if kind != REST}
        for (weights, rounded), chosen in sorted(kinds.items()):
            rules += [
                Rule(programs=f"{program}*", modules=pattern, weights=weights, group=group, rounding=rounded)
                for pattern in patterns(chosen, every)
            ]
    return WeightRecipe(name=name, rules=(*rules, Rule(weights=REST[0], rounding=REST[1])))


# ---- 3. The journal --------------------------------------------------------------------------------------------------------------


class Journal(Mapping[str, dict[str, Any]]):
    """Measurements in a folder, a line each, behind a first line that says what they are of. One process writes it at a time (see
    `core/work.py`).

    Raises:
        ConfigError: the folder's measurements are of something else; the message says what differs.
    """

    def __init__(self, folder: Path, basis: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        basis = json.loads(json.dumps(basis))
        self._found: dict[str, dict[str, Any]] = {}
        lines = self._lines()
        if lines and lines[0].get("basis") != basis:
            before = lines[0].get("basis")
            before = before if isinstance(before, dict) else {}
            differs = sorted(key for key in basis.keys() | before.keys() if basis.get(key) != before.get(key))
            raise ConfigError(
                f"{self.path} holds measurements of something else: {', '.join(differs)} differ"
                f"{'s' if len(differs) == 1 else ''}. Choose another work folder, or delete this one."
            )
        for line in lines[1:]:
            self._found[line["key"]] = line["value"]
        with atomic_file(self.path, force=True) as temporary:  # without a torn last line
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines or [{"basis": basis}]))

    def _lines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                try:
                    found.append(json.loads(text))
                except ValueError:
                    break  # the line that a kill cut
        return found

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, key: str, value: Mapping[str, Any]) -> None:
        """Keeps a measurement; it is on the disk when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._found[key] = dict(value)
