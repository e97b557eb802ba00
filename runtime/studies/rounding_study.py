"""`echoedge quantize compare`: ways to round nano's weights, and uniform recipes beside searched ones of the same size.

Errors are those of `sensitivity.Probe`; mouths are judged on held-out clips played to the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.model.transformer import DiT
from ...core.weights.nano import nano_digest
from ...quantize.grid import Grid, Rounded
from ...quantize.recipes import PRESETS, WeightRecipe
from ...quantize.roundings import Rounding
from ...quantize.roundings.gptq import gptq
from ...quantize.roundings.nearest import nearest
from ...quantize.search import Journal, recipe_of
from ...quantize.transforms import FOLDABLE, awq, rotated
from ...quantize.weights import grid_of
from ...targets.executorch.storage import stored_weight
from ..verify.mouths import Mouth
from .recipe_search import Report, best_of_size, rounding_of
from .sensitivity import SensitivityStudy, decibels

GROUP = 32
UNIFORM = ("int8", "int4", "mixed")  # presets that searched recipes are held against
Json = dict[str, Any]


def rounded_as(recipe: WeightRecipe, rounding: Rounding, name: str | None = None) -> WeightRecipe:
    """The recipe with its 4-bit layers rounded otherwise."""
    rules = (rule.model_copy(update={"rounding": rounding}) if rule.weights == "int4" else rule for rule in recipe.rules)
    return WeightRecipe(name=name or recipe.name, rules=tuple(rules))


def compare(study: SensitivityStudy, journal: Journal, report: Report = lambda _: None) -> Json:
    """Both tables, JSON-ready. `journal`: full measurements of every layer (`measure_layers`)."""
    full = study.full_mouth()
    roundings = [_row(study, full, name, study.bytes_of(PRESETS["int4"]), make(), report) for name, make in _ways(study)]
    return {
        "model": nano_digest(), "plan": "nano", "probed": "held-out clips, every other step", "played": len(study.truths),
        "full_precision": {name: round(value, 4) for name, value in asdict(full).items()},
        "int4_roundings": roundings, "equal_size": list(_equal_sizes(study, journal, full, report)),
    }  # fmt: skip


def _row(study: SensitivityStudy, full: Mouth, name: str, size: int, dit: DiT, report: Report) -> Json:
    error, mouth = study.probe.error(dit), study.mouth(dit)
    shares = mouth.shares(full)
    report(f"{name}: {decibels(error.guided):.2f} dB, lip-sync {100 * shares.lipsync:.1f} % of full precision's")
    return {
        "name": name, "bytes": size, "velocity_db": round(decibels(error.velocity), 2),
        "guided_db": round(decibels(error.guided), 2), "direction_error": round(error.direction**0.5, 4),
        "lipsync": round(mouth.lipsync, 4),
        "mouth_energy": round(mouth.mouth_energy, 4), "lipsync_share": round(shares.lipsync, 4),
        "mouth_energy_share": round(shares.mouth_energy, 4),
    }  # fmt: skip


# ---- 1. Ways to round ------------------------------------------------------------------------------------------------------------


def _ways(study: SensitivityStudy) -> Iterator[tuple[str, Callable[[], DiT]]]:
    """The preset int4, its blocks rounded in every way."""
    roundings: tuple[Rounding, ...] = ("nearest", "hqq", "searched", "gptq")
    for rounding in roundings:
        yield rounding, lambda rounding=rounding: study.quantised(rounded_as(PRESETS["int4"], rounding))  # type: ignore[misc]
    for rounding in ("nearest", "gptq"):
        for name, where in (("awq, folded", FOLDABLE), ("awq, everywhere", ("",))):
            yield f"{name}, {rounding}", lambda r=rounding, w=where: _transformed(study, awq, r, w)  # type: ignore[misc]
        yield f"rotation, everywhere, {rounding}", lambda r=rounding: _transformed(study, rotated, r, ("",))  # type: ignore[misc]


def _transformed(study: SensitivityStudy, transform: Callable[..., nn.Module], rounding: Rounding, where: tuple[str, ...]) -> DiT:
    """The preset int4 with the inputs of its 4-bit layers whose names end in one of `where` transformed before rounding."""
    recipe = rounded_as(PRESETS["int4"], rounding)
    dit = study.quantised(recipe)
    for layer, linear in study.layers.items():
        program, module = layer.split("/", 1)
        rule = recipe.rule_for(program, module)
        if rule is None or rule.weights != "int4" or not module.endswith(where):
            continue
        grid, moments = grid_of(linear, rule), torch.block_diag(*study.moments[layer])
        assert isinstance(grid, Grid)  # int4 is integers

        def round_one(weight: Tensor, moments: Tensor, grid: Any = grid) -> Rounded:
            return gptq(weight, [moments], grid) if rounding == "gptq" else nearest(weight, grid)

        parent, _, name = module.removeprefix("dit.").rpartition(".")
        setattr(dit.get_submodule(parent), name, transform(copy.deepcopy(linear), moments, grid, round_one, stored_weight))
    return cast(DiT, dit)


# ---- 2. Uniform and searched, at equal size ------------------------------------------------------------------------------------


def _equal_sizes(study: SensitivityStudy, journal: Journal, full: Mouth, report: Report) -> Iterator[Json]:
    sizes = {layer: (linear.out_features, linear.in_features) for layer, linear in study.layers.items()}
    for name in UNIFORM:
        recipe = rounded_as(PRESETS[name], "gptq", name)
        size = study.bytes_of(recipe)
        choice = best_of_size(sizes, journal, GROUP, size)
        searched = study.quantised(recipe_of("searched", choice, GROUP, rounding_of))
        yield _row(study, full, name, size, study.quantised(recipe), report)
        yield _row(study, full, f"searched, within {name}", choice.bytes, searched, report)
