"""What training tools put around weights: words in the names of tensors, and dictionaries around them.

The rule: a word is taken off where that makes the names those of a released component. It is in no name of the component
(`_orig_mod`, `module`, `generator_ema`), wherever it stands, or it stands in front (`transformer.visual.…`); and most of the
tensors that carry it fit without it. So no tool has to be known here. Blocks' numbers count as equal, whatever a model's depth.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import takewhile
from typing import Any

from torch import Tensor

from ..config import AUDIO_PATHS, PRESETS
from ..errors import CheckpointError
from ..model.architecture import Architecture, ComponentName, TransformerLayout

_COMPONENTS: tuple[ComponentName, ...] = ("transformer", "vae", "clip", "wav2vec2", "text_encoder", "tiny_vae")
_AVERAGED = re.compile(r"(?:^|[._-])(?:ema|swa|shadow|polyak|averaged?)(?=$|[._\d-])", re.IGNORECASE)
_OF_AN_OPTIMIZER = re.compile(r"optim|exp_avg|momentum|grad", re.IGNORECASE)
_ADAPTER = re.compile(r"(?:^|[._])(?:lora|lokr|loha|hada|dora|glora|vera|oft|boft|ia3)(?:_|\.|$)", re.IGNORECASE)
_DEPTH = 4  # of dictionaries in dictionaries

Words = tuple[str, ...]


def _only_averaged(sets: Iterable[str], where: object) -> str:
    """Of several sets of the same tensors, by what they are called, the one that is an average over training.

    Raises:
        CheckpointError: none is, or more than one.
    """
    sets = list(sets)
    averages = [name for name in sets if _AVERAGED.search(name)]
    if len(averages) == 1:
        return averages[0]
    listed = ", ".join(repr(name) if name else "one without a name" for name in sets)
    raise CheckpointError(
        f"{where} holds {len(sets)} sets of the same tensors ({listed}), and not exactly one is called an average (ema, swa, "
        "averaged); save the one that is meant alone."
    )


def adapters_among(names: Iterable[str]) -> list[str]:
    """The names of tensors that change others when a model is run or merged: of LoRA, DoRA, LoHa, LoKr, OFT, IA3. They are no
    wrapping of the tensors that they change."""
    return [name for name in names if _ADAPTER.search(name)]


# -- names of the released components ----------------------------------------------------------------------------------------------


def _numberless(words: Iterable[str]) -> Words:
    """The words with `#` for the first number, which counts blocks: that of a model depends on its depth."""
    words = list(words)
    first = next((place for place, word in enumerate(words) if word.isdigit()), None)
    return tuple("#" if place == first else word for place, word in enumerate(words))


@dataclass(frozen=True)
class _Known:
    """The names of a component's tensors, in words, with `#` for a block's number."""

    names: frozenset[Words]

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(word for name in self.names for word in name)

    def foreign(self, words: Words) -> Words:
        """Of a name's words those that no name of the component has; never the last one, which says what the tensor is."""
        return tuple(word for word in words[:-1] if not word.isdigit() and word not in self.words)

    def wrapping(self, words: Words) -> Words | None:
        """The words to be taken off, so that the name is one of the component; None if that does not make it one."""
        foreign = self.foreign(words)
        rest = tuple(word for word in words if word not in foreign)
        for start in range(len(rest)):
            if start and rest[start - 1].isdigit():
                break
            if _numberless(rest[start:]) in self.names:
                return foreign + rest[:start]
        return None


@cache
def _known() -> tuple[_Known, ...]:
    names: dict[ComponentName, set[Words]] = defaultdict(set)
    for variant in AUDIO_PATHS:
        sizes = Architecture(PRESETS[variant])
        for component in _COMPONENTS:
            layout = sizes.layout(component)
            assert layout is not None
            found = [*layout.tensors(), *(layout.dead if isinstance(layout, TransformerLayout) else ())]
            names[component].update(_numberless(name.split(".")) for name in found)
    names["wav2vec2"] |= {("wav2vec2", *name) for name in names["wav2vec2"]}  # beside a head, as released
    return tuple(_Known(frozenset(known)) for known in names.values())


# -- words in names ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unwrapped:
    """Names without what a tool put into them -> names as stored, in order.

    `words`: what was taken off. Of several sets of the same tensors one is read: `chosen` stands in front of it, the keys of `left`
    in front of the others, with how many tensors each has.
    """

    names: Mapping[str, str]
    words: Words = ()
    chosen: str = ""
    left: Mapping[str, int] = field(default_factory=dict)


def fitting(stored: Iterable[str]) -> int:
    """How many of the names are those of the component that they resemble most, once unwrapped."""
    return max(len(set(fits.values())) for fits in (_fits(list(stored), known) for known in _known()))


def unwrap(stored: Iterable[str], where: object) -> Unwrapped:
    """The names of a file's tensors by the rule above; of several sets of the same tensors the largest, of equal ones the average.

    Raises:
        CheckpointError: there are equal sets, and not exactly one of them is called an average. `where` is named.
    """
    stored = list(stored)
    known = max(_known(), key=lambda known: len(set(_fits(stored, known).values())))
    split = {name: tuple(name.split(".")) for name in stored}
    off = {name: known.wrapping(split[name]) or () for name in _fits(stored, known)}
    chosen, left = _set_among(split, off, where)
    aside = set().union(*left.values()) if left else set()
    for twins in _claims(split, {name: words for name, words in off.items() if name not in aside}).values():
        least = min(len(off[name]) for name in twins)
        clear = sum(len(off[name]) == least for name in twins) == 1
        for name in twins:  # of two that would have one name the more wrapped one keeps its own, of equally wrapped ones each
            if not clear or len(off[name]) > least:
                del off[name]
    carrying, without = Counter[str](), Counter[str]()
    for name, words in split.items():
        carrying.update({words[0], *known.foreign(words), *off.get(name, ())})
        without.update(set(off.get(name, ())))
    taken = {word for word, count in without.items() if 2 * count > carrying[word]}
    names: dict[str, str] = {}
    for name, words in split.items():
        if name not in aside:
            short = _without(words, [word for word in off.get(name, known.foreign(words)) if word in taken])
            twin = short in names or (short != name and short in split and short not in aside)
            names[name if twin else short] = name
    used = tuple(word for word in without if word in taken and word not in left)
    return Unwrapped(names, used, chosen, {front: len(tensors) for front, tensors in left.items()})


def _fits(stored: list[str], known: _Known) -> dict[str, str]:
    """Names as stored -> names of the component, for those that can be made one."""
    found = {}
    for name in stored:
        words = tuple(name.split("."))
        off = None if _ADAPTER.search(name) else known.wrapping(words)
        if off is not None:
            found[name] = _without(words, off)
    return found


def _set_among(split: Mapping[str, Words], off: Mapping[str, Words], where: object) -> tuple[str, dict[str, set[str]]]:
    """Where tensors are there several times: what stands in front of the set to be read, and the names of each other set."""
    lead = {name: tuple(takewhile(lambda word, taken=words: word in taken, split[name])) for name, words in off.items()}  # type: ignore[misc]
    fronts: dict[str, None] = {}
    for names in _claims(split, off).values():
        shared = set.intersection(*(set(lead[name]) for name in names))
        own = [next((word for word in lead[name] if word not in shared), "") for name in names]
        if len(set(own)) == len(own) > 1:
            fronts |= dict.fromkeys(own)
    if not fronts:
        return "", {}
    sets: dict[str, set[str]] = {front: set() for front in fronts}
    for name, words in split.items():
        front = next((word for word in lead.get(name, words[:1]) if word in fronts), "")
        if front or name in off:
            sets.setdefault(front, set()).add(name)
    sizes = {front: sum(name in off for name in names) for front, names in sets.items() if front in fronts}
    largest = [front for front, size in sizes.items() if size == max(sizes.values())]
    chosen = largest[0] if len(largest) == 1 else _only_averaged(largest, where)
    return chosen, {front: sets[front] for front in fronts if front != chosen}


def _claims(split: Mapping[str, Words], off: Mapping[str, Words]) -> dict[str, list[str]]:
    """Names of the component -> those that become it without their wrapping."""
    claims = defaultdict(list)
    for name, words in off.items():
        claims[_without(split[name], words)].append(name)
    return claims


def _without(words: Words, off: Iterable[str]) -> str:
    """The name without these words, the first of equal ones first."""
    left, rest = Counter(off), []
    for word in words:
        if left[word]:
            left[word] -= 1
        else:
            rest.append(word)
    return ".".join(rest)


# -- dictionaries around tensors ---------------------------------------------------------------------------------------------------


def sets_of_tensors(content: Any) -> dict[Words, dict[str, Tensor]]:
    """The dictionaries of tensors by name in what a pickle holds, by the keys that lead to them. An optimizer's are passed over."""
    return dict(_sets_of_tensors(content, ()))


def _sets_of_tensors(content: Any, keys: Words) -> Iterator[tuple[Words, dict[str, Tensor]]]:
    if not isinstance(content, dict) or len(keys) > _DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield keys, tensors
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, dict) and not _OF_AN_OPTIMIZER.search(key):
            yield from _sets_of_tensors(value, (*keys, key))


def choose_set(sets: Mapping[Words, Mapping[str, Tensor]], where: object) -> Words:
    """The keys of the dictionary that holds a component's weights; of equal ones, of the average.

    Raises:
        CheckpointError: there are equal ones, and not exactly one of them is called an average. `where` is named.
    """
    largest = max(map(len, sets.values()))
    scores = {keys: (fitting(tensors), len(tensors)) for keys, tensors in sets.items() if 2 * len(tensors) >= largest}
    most = max(score for score, _ in scores.values())
    best = {".".join(keys): keys for keys, (score, count) in scores.items() if score == most and (most or count == largest)}
    return next(iter(best.values())) if len(best) == 1 else best[_only_averaged(best, where)]
