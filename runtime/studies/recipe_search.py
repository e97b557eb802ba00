"""`echoedge quantize search`: every layer measured alone, the recipe that its figures justify, and that recipe measured whole.

1. measure   each layer as each scheme stores it, everything else in full precision; a line in the journal each
2. choose    along the frontier of bytes and error (quantize/search.py)
3. prove     the chosen recipe as a whole; errors that do not add up move the choice along the frontier
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...core.errors import ConfigError
from ...core.plan import SamplingPlan
from ...core.weights.nano import nano_digest
from ...quantize.recipes import PRESETS, Rule, WeightRecipe
from ...quantize.roundings import DATA_FREE, Rounding
from ...quantize.schemes import Weights, weight_bytes
from ...quantize.search import Choice, Journal, Option, best_under, frontier, recipe_of
from ..verify.mouths import Mouth
from .sensitivity import SensitivityStudy, decibels

SEARCHED: tuple[Weights, ...] = ("int4", "int8")
REWEIGHED = 8  # times at most

Report = Callable[[str], None]
Measurements = Mapping[str, Mapping[str, Any]]  # "program/module weights" -> energies and more
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Goal:
    """What the recipe must reach; exactly one.

    `db`: signal-to-noise ratio of the guided velocity, at least. `share`: of full precision's lip-sync and mouth-motion energy, at
    least. `most_bytes`: of the searched layers' weights and scales; then the error is as small as it can be.
    """

    db: float | None = None
    share: float | None = None
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("db", "share", "most_bytes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"Give one target: --target-db, --target-share or --max-bytes, not {len(given)}.")
        if self.db is not None and not math.isfinite(self.db):
            raise ConfigError(f"--target-db is {self.db}; it is a number of decibels, such as 30.")
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise ConfigError(
                f"--target-share is {self.share}; it is a share of full precision's, above 0 and at most 1, such as 0.97."
            )


@dataclass(frozen=True)
class Found:
    """The recipe, what it takes and what it does. Energies are relative; `predicted` is the sum over layers alone."""

    recipe: WeightRecipe
    bytes: int
    guided_db: float
    predicted_db: float
    direction: float
    mouth: Mouth  # shares of full precision's
    schemes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the recipe aside."""
        return {
            "bytes": self.bytes, "guided_db": round(self.guided_db, 2), "predicted_db": round(self.predicted_db, 2),
            "direction_error": round(self.direction**0.5, 4), "layers": dict(self.schemes),
            "shares_of_full_precision": {name: round(share, 4) for name, share in asdict(self.mouth).items()},
        }  # fmt: skip


def nano_basis(plan: SamplingPlan, clips: int, listened: int, group: int) -> dict[str, Any]:
    """What measurements of nano depend on."""
    return {
        "model": nano_digest(), "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(), "clips": clips, "listened": listened,
        "group": group, "schemes": list(SEARCHED),
    }  # fmt: skip


def measure_layers(
    study: SensitivityStudy, journal: Journal, group: int, listened: int = 0, progress: Progress = lambda *_: None
) -> None:
    """Fills the journal; what it has is not measured again. `listened`: clips that are played to the end for every measurement."""
    full = study.full_mouth(listened) if listened else None
    for number, (layer, linear) in enumerate(study.layers.items()):
        for weights in schemes_of(linear.in_features, group):
            key = f"{layer} {weights}"
            if key in journal:
                continue
            rule = Rule(weights=weights, group=group, rounding=rounding_of(layer, weights))
            with study.with_layer(layer, rule) as dit:
                value = asdict(study.error_of(layer, dit))
                if full is not None:
                    value |= asdict(study.mouth(dit, listened).shares(full))
            journal.add(key, value)
        progress(number + 1, len(study.layers))


def rounding_of(layer: str, weights: Weights) -> Rounding:
    """GPTQ for 4-bit layers of the step's blocks, of which every exporter has samples; 8 bits gain nothing by it."""
    if weights != "int4":
        return "nearest"
    return "gptq" if layer.startswith("denoise/") and ".blocks." in layer else DATA_FREE


def schemes_of(inputs: int, group: int) -> tuple[Weights, ...]:
    """What a layer of so many inputs can be stored as, beside full precision."""
    return SEARCHED if inputs % group == 0 else ("int8",)


def options_of(
    sizes: Mapping[str, tuple[int, int]], found: Measurements, group: int, weigh: Mapping[str, float] | None = None
) -> dict[str, list[Option]]:
    """Every layer's options from its measurements; `sizes`: outputs and inputs of each.

    An option's error is the sum of its energies by `weigh`. By default the guided velocity's and the guided direction's count
    alike: each relative to what all layers together would do at their smallest.
    """
    if weigh is None:
        smallest = [found[f"{layer} {schemes_of(inputs, group)[0]}"] for layer, (_, inputs) in sizes.items()]
        weigh = {kind: 0.5 / (sum(one[kind] for one in smallest) or 1.0) for kind in ("guided", "direction")}

    def option(layer: str, outputs: int, inputs: int, weights: Weights) -> Option:
        energies = found[f"{layer} {weights}"] if weights != "fp32" else dict.fromkeys(weigh, 0.0)
        error = sum(factor * energies[kind] for kind, factor in weigh.items())
        return Option(weights, weight_bytes(outputs, inputs, weights, group), error)

    return {
        layer: [option(layer, outputs, inputs, weights) for weights in ("fp32", *schemes_of(inputs, group))]
        for layer, (outputs, inputs) in sizes.items()
    }


def best_of_size(sizes: Mapping[str, tuple[int, int]], found: Measurements, group: int, most_bytes: int) -> Choice:
    """The choice within a size with the least product of both energies: neither a decibel of the velocity nor one of the direction
    is worth more than the other.

    Sums are what can be minimised, so the weights of the sum are set to what the last choice made of each, until nothing changes.

    Raises:
        ConfigError: the size is too small.
    """
    tried = [best_under(options_of(sizes, found, group), most_bytes)]
    for _ in range(REWEIGHED):
        weigh = {kind: 0.5 / max(predicted(tried[-1], found, kind), 1e-30) for kind in ("guided", "direction")}
        tried.append(best_under(options_of(sizes, found, group, weigh), most_bytes))
        if tried[-1].picks == tried[-2].picks:
            break
    return min(tried, key=lambda choice: predicted(choice, found, "guided") * predicted(choice, found, "direction"))


def predicted(choice: Choice, found: Measurements, kind: str) -> float:
    """Sum over layers of what each alone does."""
    return sum(found[f"{layer} {option.weights}"][kind] for layer, option in choice.picks.items() if option.weights != "fp32")


def find(
    study: SensitivityStudy,
    journal: Journal,
    goal: Goal,
    group: int = 32,
    name: str = "searched",
    report: Report = lambda _: None,
) -> Found:
    """Chooses from a full journal and proves the choice.

    Raises:
        ConfigError: nothing on the frontier reaches the target.
    """
    sizes = {layer: (linear.out_features, linear.in_features) for layer, linear in study.layers.items()}
    if goal.most_bytes is not None:
        return prove(study, journal, best_of_size(sizes, journal, group, goal.most_bytes), group, name)
    options = options_of(sizes, journal, group)
    path = frontier(options)
    full = study.full_mouth() if goal.share is not None else None

    def reaches(choice: Choice) -> bool:
        dit = study.quantised(recipe_of(name, choice, group, rounding_of))
        if full is None:
            assert goal.db is not None
            found = decibels(study.probe.error(dit).guided)
            report(f"{choice.bytes:,} bytes: {found:.2f} dB")
            return found >= goal.db
        assert goal.share is not None
        mouth = study.mouth(dit).shares(full)
        report(f"{choice.bytes:,} bytes: lip-sync {mouth.lipsync:.3f}, mouth energy {mouth.mouth_energy:.3f} of full precision's")
        return min(mouth.lipsync, mouth.mouth_energy) >= goal.share

    low, high = 0, len(path) - 1
    if not reaches(path[high]):
        raise ConfigError("Not even full precision reaches this target on these clips. Ask for less, or play more clips.")
    while low < high:  # the smallest that reaches it, as errors fall along the frontier
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(path[middle]) else (middle + 1, high)
    return prove(study, journal, path[low], group, name)


def prove(study: SensitivityStudy, journal: Journal, choice: Choice, group: int, name: str) -> Found:
    """Measures a choice as a whole, beside full precision."""
    recipe = recipe_of(name, choice, group, rounding_of)
    dit = study.quantised(recipe)
    error = study.probe.error(dit)
    mouth = study.mouth(dit).shares(study.full_mouth())
    schemes = {weights: sum(option.weights == weights for option in choice.picks.values()) for weights in ("fp32", "int8", "int4")}
    return Found(
        recipe,
        choice.bytes,
        decibels(error.guided),
        decibels(predicted(choice, journal, "guided")),
        error.direction,
        mouth,
        schemes,
    )


def presets_beside(study: SensitivityStudy, names: Sequence[str] = ("int8", "int4")) -> dict[str, dict[str, float]]:
    """Bytes and guided velocity of presets on the same probes, to compare with."""
    return {
        name: {
            "bytes": study.bytes_of(PRESETS[name]),
            "guided_db": round(decibels(study.probe.error(study.quantised(PRESETS[name])).guided), 2),
        }
        for name in names
    }
