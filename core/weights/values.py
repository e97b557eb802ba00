"""Numbers that no training leaves behind: what is not finite, matrices of zeros, a tensor far larger than the same one in other
blocks.

A damaged download, a run that diverged or a merge gone wrong shows in the values alone: names and shapes are right. Every tensor
that is used is read once, in the order of its file, in pieces; a file is mapped anew before much of it has piled up in memory.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from .accounts import Entry

TIMES = 1000.0  # a tensor is too large from so many times its neighbours on
_LEAST = 1e-3  # neighbours smaller than this count as this: biases begin at 0, and some stay near it
_PIECE = 1 << 20  # numbers looked at together: what fits into a processor's cache
_REMAP_BYTES = 256 << 20  # of a file at most so much stays mapped

# What upstream's initialisation sets to zero, and a model that was trained little or not at all still has: the transformer's head,
# and the last layer of an attention block of the VAE (`init_weights` of its WanModel, `AttentionBlock` of its VAE).
_BEGINS_AT_ZERO = re.compile(r"head\.head\.weight|(?:encoder|decoder)\.middle\.\d+\.proj\.weight")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Numbers:
    """What is kept of a tensor that was read: how many numbers of it are not finite, the largest of the others, and the root of the
    mean of its squares."""

    nan: int
    infinite: int
    largest: float
    rms: float


def examine(entries: Mapping[str, Entry], progress: Progress = lambda *_: None) -> dict[Path, tuple[str, ...]]:
    """What is wrong with the values of these tensors: by file, a phrase for each tensor. `progress`: bytes read, of all.

    Raises:
        CheckpointError: a file has changed or vanished since it was looked at.
    """
    found: dict[str, _Numbers] = {}
    done, total = 0, sum(entry.info.count * entry.info.dtype.itemsize for entry in entries.values())
    with _one_thread():
        for name, tensor in _one_by_one(entries):
            found[name] = _numbers(tensor)
            done += tensor.nbytes
            progress(done, total)
    wrong: dict[Path, list[str]] = defaultdict(list)
    sizes = _neighbours(entries, found)
    for name, numbers in found.items():
        fault = _fault(name, entries[name].info.shape, numbers, sizes.get(name))
        if fault is not None:
            stored = entries[name].stored
            also = f" (stored as {stored})" if stored != name else ""
            wrong[entries[name].file.path].append(f"{name}{also} {fault}")
    return {path: tuple(phrases) for path, phrases in wrong.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Reading keeps one core busy. Several that wait for each other at every piece are slower on a machine that has other work, by
    ten times and more where all of its cores are taken (measured: 3 s and 27 s for 6.9 GB)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_by_one(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the order of their files."""
    names = {(entry.file.path, entry.stored): name for name, entry in entries.items()}
    for file in {entry.file.path: entry.file for entry in entries.values()}.values():
        mapping, read = file.open(), 0
        for stored in file.tensors:
            name = names.get((file.path, stored))
            if name is None:
                continue
            tensor = mapping[stored]
            yield name, tensor
            read += tensor.nbytes
            del tensor
            if read > _REMAP_BYTES and file.mapped:
                mapping, read = file.open(), 0


def _numbers(tensor: Tensor) -> _Numbers:
    nan = infinite = 0
    largest, squares = 0.0, 0.0
    for piece in tensor.detach().reshape(-1).split(_PIECE):
        piece = piece if piece.dtype in (torch.float32, torch.float64) else piece.float()
        low, high = (float(bound) for bound in piece.aminmax())
        if not math.isfinite(low) or not math.isfinite(high):  # a NaN among the numbers makes both of them one
            unknown = piece.isnan()
            nan += int(unknown.sum())
            infinite += int(piece.isinf().sum())
            piece = piece[piece.isfinite()]
            if not len(piece):
                continue
            low, high = (float(bound) for bound in piece.aminmax())
        most = max(-low, high)
        largest = max(largest, most)
        if most > 1e15:  # the squares would not fit into float32
            piece = piece.double()
        squares += float(torch.dot(piece, piece))
    return _Numbers(nan, infinite, largest, math.sqrt(squares / max(1, tensor.numel())))


def _neighbours(entries: Mapping[str, Entry], found: Mapping[str, _Numbers]) -> dict[str, float]:
    """How large the same tensor is in the other blocks: the median of its root mean squares there."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in found:
        block = re.sub(r"(?<=\.)\d+(?=\.)", "#", name, count=1)
        groups[block, entries[name].info.shape].append(name)
    sizes = {}
    for names in groups.values():
        for name in names if len(names) > 1 else ():
            sizes[name] = max(_LEAST, median(found[other].rms for other in names if other != name))
    return sizes


def _fault(name: str, shape: tuple[int, ...], numbers: _Numbers, usual: float | None) -> str | None:
    if numbers.nan or numbers.infinite:
        counts = [f"{count:,} {what}" for count, what in ((numbers.nan, "NaN"), (numbers.infinite, "Inf")) if count]
        return f"holds {' and '.join(counts)}"
    if not numbers.largest and sum(length > 1 for length in shape) > 1 and not _BEGINS_AT_ZERO.fullmatch(name):
        return "is all zeros"
    if usual is not None and numbers.rms >= TIMES * usual:
        return f"is {numbers.rms / usual:,.0f} times as large as in the other blocks"
    return None
