"""quantize/roundings/kmeans.py: tables against the best there are, found by dynamic programming over all cuts (written out here,
and coremltools' kmeans1d), and against Lloyd's steps alone."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from echoedge.quantize.grid import Palette, Palettised
from echoedge.quantize.roundings import kmeans as module
from echoedge.quantize.roundings.kmeans import fitted_table, kmeans
from echoedge.quantize.roundings.nearest import nearest
from echoedge.quantize.schemes import SCHEMES


def weights(kind: str, out: int, inputs: int, seed: int = 0) -> Tensor:
    """Of unit size, channels of different size among them; *outliers*: one weight in a hundred is 20 times as large."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, generator=generator) * torch.logspace(-0.3, 0.3, out)[:, None]
    if kind == "heavy":  # Student's t of three degrees of freedom
        weight = weight / torch.randn(out, inputs, 3, generator=generator).square().mean(-1).sqrt()
    if kind == "outliers":
        weight = torch.where(torch.rand(out, inputs, generator=generator) < 0.01, 20 * weight, weight)
    return weight


def signal_to_noise(weight: Tensor, values: Tensor) -> float:
    return float(10 * torch.log10(weight.double().square().sum() / (weight - values).double().square().sum()))


def least_error(values: np.ndarray, cells: int, masses: np.ndarray) -> float:
    """Of all ways to cut sorted values into cells, each its mean away: every cut tried behind every other."""
    order = np.argsort(values)
    values, masses = values[order].astype(np.float64), masses[order].astype(np.float64)
    n = len(values)
    mass, moment, energy = (np.concatenate([[0.0], np.cumsum(masses * values**power)]) for power in (0, 1, 2))
    held = np.where(np.triu(np.ones((n + 1, n + 1)), 1) > 0, mass[None] - mass[:, None], np.inf)
    error = energy[None] - energy[:, None] - (moment[None] - moment[:, None]) ** 2 / held
    error[np.tril_indices(n + 1, -1)] = np.inf
    best = np.full(n + 1, np.inf)
    best[0] = 0.0
    for _ in range(cells):
        best = (best[:, None] + error).min(0)
    return float(best[-1])


@cache
def cluster() -> Any:
    """`kmeans1d.cluster`, out of coremltools without the rest of it, which takes long to import."""
    package = importlib.util.find_spec("coremltools")
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "_deps" / "kmeans1d"
    spec = importlib.util.spec_from_file_location("kmeans1d", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules["kmeans1d"] = found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found.cluster


def exact(weight: Tensor, palette: Palette) -> Tensor:
    """What coremltools' exact k-means makes of every group, in float32."""
    found = []
    for group in palette.groups(weight).double().numpy():
        codes, means = cluster()(group, 1 << palette.bits)[:2]
        found.append(np.asarray(means)[np.asarray(codes)])
    return torch.from_numpy(np.stack(found)).float().view_as(weight)


# ---- as good as the best ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers"])
def test_tables_are_within_a_hair_of_the_best_ones(kind: str, seed: int) -> None:
    weight = weights(kind, 8, 96, seed)
    found = kmeans(weight, Palette(4, 8))
    error = float((weight - found.values()).double().square().sum())
    best = least_error(weight.flatten().numpy(), 16, np.ones(weight.numel()))
    assert best * 0.9999 < error < best * 1.005  # measured over 60 draws: 1.0014 at most


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers"])
def test_as_exact_as_coremltools(kind: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    palette, weight = Palette(bits, 16), weights(kind, 16, 384)
    reached, best = signal_to_noise(weight, kmeans(weight, palette).values()), signal_to_noise(weight, exact(weight, palette))
    assert reached > best - 0.03  # dB; measured: 0.001 at most, at 8 bits 0.022
    monkeypatch.setattr(module, "_chosen", lambda _, cuts, numbers: cuts[:, numbers[:, numbers.shape[1] // 2].round().long()])
    alone = signal_to_noise(weight, kmeans(weight, palette).values())
    assert alone < best - 0.03  # Lloyd's steps from the same beginning: 0.14 to 20.9


def test_all_groups_are_fitted_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, palette = weights("heavy", 16, 64), Palette(4, 4)
    together = kmeans(weight, palette)
    monkeypatch.setattr(module, "AT_ONCE", 1)
    assert torch.equal(kmeans(weight, palette).values(), together.values())
    each = torch.cat([kmeans(weight[start : start + 4], palette).values() for start in range(0, 16, 4)])
    assert torch.equal(each, together.values())


# ---- what is kept ----------------------------------------------------------------------------------------------------------------


def test_tables_are_float16_and_codes_the_nearest_of_them() -> None:
    weight, palette = weights("normal", 24, 64), Palette(6, 8)
    found = kmeans(weight, palette)
    assert (found.codes.dtype, found.codes.shape) == (torch.uint8, weight.shape)
    assert (found.table.dtype, found.table.shape) == (torch.float32, (3, 64))
    assert torch.equal(found.table, found.table.half().float())
    looked_up = np.stack([found.table.numpy()[row // 8][found.codes.numpy()[row]] for row in range(24)])
    assert np.array_equal(found.values().numpy(), looked_up)
    distance = (weight.view(3, -1, 1) - found.table[:, None]).abs()
    assert torch.equal(distance.amin(-1).view_as(weight), (weight - looked_up).abs())


def test_codes_of_tables_that_are_rounded_afterwards_are_not_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, palette = weights("normal", 16, 512), Palette(8, 16)
    kept = kmeans(weight, palette)
    monkeypatch.setattr(Palette, "stored", lambda _, table: table.float())
    late = kmeans(weight, palette)
    rounded = Palettised(late.codes, late.table.half().float()).values()
    assert not torch.equal(late.table, kept.table)
    assert (weight - rounded).abs().gt((weight - kept.values()).abs()).any()


def test_more_bits_are_more_exact_and_beat_integers_of_as_many() -> None:
    weight = weights("heavy", 32, 384)
    reached = [signal_to_noise(weight, kmeans(weight, Palette(bits, 16)).values()) for bits in (4, 6, 8)]
    assert reached[0] + 10 < reached[1] < reached[2] - 10
    grid = SCHEMES["int8"].grid(32, 384, 32, 16)
    assert reached[2] > signal_to_noise(weight, nearest(weight, grid).values()) + 3  # type: ignore[arg-type]  # measured: 13 dB


def test_smaller_groups_are_more_exact() -> None:
    weight = weights("normal", 32, 384)
    reached = [signal_to_noise(weight, kmeans(weight, Palette(4, rows)).values()) for rows in (32, 8, 2)]
    assert reached[0] < reached[1] < reached[2]


@pytest.mark.parametrize("bits", [4, 8])
def test_few_values_are_kept_as_they_are(bits: int) -> None:
    few = torch.tensor([-1.5, -0.25, 0.0, 0.5, 4.0])
    weight = few[torch.randint(5, (8, 24), generator=torch.Generator().manual_seed(0))]
    assert torch.equal(kmeans(weight, Palette(bits, 4)).values(), weight)
    for same in (torch.zeros(4, 8), torch.full((4, 8), 0.125)):
        assert torch.equal(kmeans(same, Palette(bits, 4)).values(), same)


def test_values_beyond_float16_take_its_largest() -> None:
    assert kmeans(torch.full((2, 4), 1e6), Palette(4, 2)).values().unique().tolist() == [65504.0]


# ---- inputs that count for more --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_what_counts_for_more_is_rounded_finer(seed: int) -> None:
    """Half of the inputs have smaller weights and count a thousand times as much."""
    weight = weights("normal", 8, 96, seed)
    importance = torch.cat([torch.full((48,), 1000.0), torch.ones(48)])
    weight[:, :48] *= 0.2

    def weighed(values: Tensor) -> float:
        return float(((weight - values).double().square() * importance).sum())

    found, plain = kmeans(weight, Palette(4, 8), importance), kmeans(weight, Palette(4, 8))
    best = least_error(weight.flatten().numpy(), 16, importance.repeat(8).numpy())
    assert best * 0.9999 < weighed(found.values()) < best * 1.001  # measured: 1.000004 at most
    assert weighed(plain.values()) > 2 * best  # measured: 4.1 at least
    assert signal_to_noise(weight, plain.values()) > signal_to_noise(weight, found.values()) + 1


def test_inputs_that_all_count_alike_change_nothing() -> None:
    weight = weights("heavy", 16, 64)
    plain = fitted_table(weight, Palette(4, 8))
    assert float((fitted_table(weight, Palette(4, 8), torch.full((64,), 7.0)) - plain).abs().max()) <= 1e-3 * float(
        weight.abs().max()
    )
    seen = torch.zeros(64)
    assert torch.isfinite(fitted_table(weight, Palette(4, 8), seen)).all()
