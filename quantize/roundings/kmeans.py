"""The table of each group of a palette: k-means in one dimension, near enough to the best there is, for all groups at once.

1. sort     a group's values once, with prefix sums: the error of any stretch of them is a few differences away
2. begin    companding, several cells for each that is wanted: ∫ density^(1/3) shared out evenly, which is best for fine tables
            (Panter and Dite, 1951), but no more cells than values, or outliers get tables of their own
3. choose   where cells end, by dynamic programming over places around each: those of the beginning, then finer and finer ones
            around what was chosen, until nothing moves
4. settle   Lloyd's steps: cells end half-way between means

Lloyd's steps alone stop early, 0.1 dB below the best at 64 values and several where few values are large: each cell waits for its
neighbours, and none finds its way to another part of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import Palette, Palettised

AT_ONCE = 1 << 21  # values whose groups are fitted together: 50 MB with their sums
BIN = 4  # values in a bin of the density
SHARINGS = 8  # times that what a bin has too many of is given to the others
PLACES = 65  # among which the end of a cell is first chosen
FIRST, AGAIN = (1.0, 97), (1.0, 33)  # then, in the first round and later: how far to either side, in cells, and places in there
FINER = ((0.25, 65), (0.06, 33), (0.01, 33))  # and after that in every round
ROUNDS = 3  # at most; more are worth less than 0.001 dB
STEPS = 50  # of Lloyd's at most
LEAST = 1e-6  # of the mean importance: what an input counts at least, so that every value has a mass
TINY = 1e-300


@dataclass(frozen=True)
class _Groups:
    """values: float32 [groups, n], ascending; mass, moment: float64 [groups, n + 1], sums of mass, and of mass · value, of all
    values before. Cells are given by cuts, int64 [groups, cells + 1]: the first value of each, and n."""

    values: Tensor
    mass: Tensor
    moment: Tensor

    def means(self, cuts: Tensor) -> Tensor:
        """Of the values of each cell; of none, the value that it would begin with."""
        mass, moment = (sums.gather(1, cuts).diff(dim=1) for sums in (self.mass, self.moment))
        begin = self.values.gather(1, cuts[:, :-1].clamp_max(self.values.shape[1] - 1)).double()
        return torch.where(cuts.diff(dim=1) > 0, moment / mass.clamp_min(TINY), begin)


def kmeans(weight: Tensor, palette: Palette, importance: Tensor | None = None) -> Palettised:
    """weight [out, in] float32 -> tables of the smallest squared error, and the nearest codes. `importance` [in]: how much the
    square of an input's error counts."""
    table = fitted_table(weight, palette, importance)
    return Palettised(palette.codes(weight, table), table)


def fitted_table(weight: Tensor, palette: Palette, importance: Tensor | None = None) -> Tensor:
    """[out / rows, 2^bits], ascending, as a file keeps it."""
    grouped = palette.groups(weight)
    masses = None if importance is None else (importance.double() / importance.double().mean().clamp_min(TINY)).clamp_min(LEAST)
    batch = max(1, AT_ONCE // grouped.shape[1])
    return palette.stored(torch.cat([_means(_sorted(some, masses), palette.bits) for some in grouped.split(batch)]))


# ---- 1. Sort --------------------------------------------------------------------------------------------------------------------


def _sorted(grouped: Tensor, masses: Tensor | None) -> _Groups:
    """By NumPy, which has the processor's vectors for it and takes a twentieth of torch's time."""
    groups, n = grouped.shape
    if masses is None:
        values = torch.from_numpy(np.sort(grouped.numpy(), axis=1))
        return _Groups(values, torch.arange(n + 1, dtype=torch.float64).expand(groups, -1), _before(values.double()))
    order = torch.from_numpy(np.argsort(grouped.numpy(), axis=1))
    values, held = grouped.gather(1, order), masses[order % len(masses)]
    return _Groups(values, _before(held), _before(held * values))


def _before(each: Tensor) -> Tensor:
    """Sums of all that stand before: one more than there are."""
    return F.pad(each.cumsum(1), (1, 0))


# ---- 2. Begin -------------------------------------------------------------------------------------------------------------------


def _begin(groups: _Groups, cells: int) -> Tensor:
    """Cuts of cells that share out ∫ density^(1/3), read off bins of equally many values."""
    count, n = groups.values.shape
    edges = torch.linspace(0, n - 1, max(1, n // BIN) + 1).round().long().expand(count, -1)
    held = edges.diff(dim=1)
    width = groups.values.gather(1, edges).double().diff(dim=1)
    share = groups.mass.gather(1, edges).diff(dim=1) ** (1 / 3) * width ** (2 / 3)
    for _ in range(SHARINGS):
        share = torch.minimum(share * (cells / share.sum(1, keepdim=True).clamp_min(TINY)), held)
    passed = _before(share)
    wanted = passed[:, -1:] * torch.arange(1, cells) / cells
    bins = (torch.searchsorted(passed, wanted, right=True) - 1).clamp(0, width.shape[1] - 1)
    part = ((wanted - passed.gather(1, bins)) / share.gather(1, bins).clamp_min(TINY)).clamp(0, 1)
    return _whole(edges.gather(1, bins) + (part * held.gather(1, bins)).round().long(), n)


def _whole(inner: Tensor, n: int) -> Tensor:
    """The first and the last cut around the others."""
    return F.pad(F.pad(inner, (1, 0)), (0, 1), value=n)


# ---- 3. Choose ------------------------------------------------------------------------------------------------------------------


def _chosen(groups: _Groups, cuts: Tensor, numbers: Tensor) -> Tensor:
    """The best cuts among the places of `numbers` [cells + 1, places], its own for each cut: cell by cell the least error for each
    place of its end, and back again from the last one. What a cell saves beside none at all is moment² / mass."""
    numbers = numbers.clamp(0, cuts.shape[1] - 1)
    numbers[0], numbers[-1] = 0, cuts.shape[1] - 1  # the ends of all cells stay
    places = _places(cuts, numbers)
    mass, moment = (sums.gather(1, places.flatten(1)).view(places.shape) for sums in (groups.mass, groups.moment))
    count, ends, width = places.shape
    held, saved = (torch.empty(count, width, width, dtype=torch.float64) for _ in range(2))  # [groups, place, place before]
    best = [torch.zeros(count, width, dtype=torch.float64)]
    for end in range(1, ends):
        torch.sub(mass[:, end].unsqueeze(2), mass[:, end - 1].unsqueeze(1), out=held)
        torch.sub(moment[:, end].unsqueeze(2), moment[:, end - 1].unsqueeze(1), out=saved)
        backwards = numbers[end].unsqueeze(1) < numbers[end - 1]
        saved.square_().div_(held.add_(TINY)).add_(best[-1].unsqueeze(1))
        best.append(saved.add_(torch.zeros(width, width).masked_fill(backwards, -torch.inf)).amax(2))
    at = best[-1].argmax(1, keepdim=True)
    found = [places[:, -1].gather(1, at)]
    for end in reversed(range(1, ends)):
        stretch = moment[:, end].gather(1, at) - moment[:, end - 1]
        value = stretch**2 / (mass[:, end].gather(1, at) - mass[:, end - 1] + TINY) + best[end - 1]
        at = value.masked_fill(numbers[end][at] < numbers[end - 1], -torch.inf).argmax(1, keepdim=True)
        found.append(places[:, end - 1].gather(1, at))
    return torch.cat(found[::-1], 1)


def _places(cuts: Tensor, numbers: Tensor) -> Tensor:
    """Where cuts of these numbers, fractions among them, would lie: [groups, cells + 1, places]."""
    below = numbers.floor().long().clamp_max(cuts.shape[1] - 2)
    low, high = (cuts[:, at.flatten()].view(-1, *numbers.shape) for at in (below, below + 1))
    return low + ((high - low) * (numbers - below)).round().long()


def _means(groups: _Groups, bits: int) -> Tensor:
    """[groups, 2^bits], ascending."""
    finer = 1 << 5 - bits // 2
    number = torch.arange((1 << bits) + 1, dtype=torch.float64).unsqueeze(1)
    cuts = _chosen(groups, _begin(groups, finer << bits), number * finer + torch.arange(PLACES) - PLACES // 2)
    for turn in range(ROUNDS):
        before = cuts
        for reach, count in (AGAIN if turn else FIRST, *FINER):
            cuts = _chosen(groups, cuts, number + torch.linspace(-reach, reach, count, dtype=torch.float64))
        if torch.equal(cuts, before):
            break
    return groups.means(_settled(groups, cuts))


# ---- 4. Settle ------------------------------------------------------------------------------------------------------------------


def _settled(groups: _Groups, cuts: Tensor) -> Tensor:
    for _ in range(STEPS):
        means = groups.means(cuts)
        half = ((means[:, :-1] + means[:, 1:]) / 2).float()
        moved = _whole(torch.searchsorted(groups.values, half), groups.values.shape[1])
        if torch.equal(moved, cuts):
            break
        cuts = moved
    return cuts
