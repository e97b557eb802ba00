"""quantize/search.py: choices against trying them all, recipes that say what was chosen, and a journal that survives kills."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from echoedge.core.errors import ConfigError
from echoedge.quantize.recipes import WeightRecipe
from echoedge.quantize.search import (
    JOURNAL,
    Choice,
    Journal,
    Option,
    best_under,
    frontier,
    hull,
    patterns,
    recipe_of,
    smallest_within,
)

# ---- choosing --------------------------------------------------------------------------------------------------------------------


def drawn(seed: int, layers: int = 6) -> dict[str, list[Option]]:
    """Layers of different size and sensitivity, three schemes each."""
    dice = random.Random(seed)
    options = {}
    for index in range(layers):
        size, error = dice.randint(5, 60), dice.random()
        options[f"denoise/l{index}"] = [
            Option("fp32", 8 * size, 0.0),
            Option("int8", 2 * size, error * dice.random() * 0.2),
            Option("int4", size, error),
        ]
    return options


def every(options: dict[str, list[Option]]) -> list[Choice]:
    return [Choice(dict(zip(options, picks, strict=True))) for picks in itertools.product(*options.values())]


@pytest.mark.parametrize("seed", range(6))
def test_every_choice_on_the_frontier_is_the_best_of_its_size(seed: int) -> None:
    options = drawn(seed)
    all_of_them = every(options)
    path = frontier(options)
    assert path[0].bytes == min(c.bytes for c in all_of_them)
    assert path[-1].error == 0.0
    for choice in path:
        assert choice.error <= min(c.error for c in all_of_them if c.bytes <= choice.bytes) + 1e-12
    spoilt = Choice({layer: found[2] for layer, found in options.items()}).having("denoise/l0", options["denoise/l0"][0])
    assert spoilt.error > min(c.error for c in all_of_them if c.bytes <= spoilt.bytes)


@pytest.mark.parametrize("seed", range(6))
def test_between_the_frontier_a_choice_is_within_one_step_of_the_best(seed: int) -> None:
    options = drawn(seed)
    all_of_them, path = every(options), frontier(options)
    for share in (0.1, 0.35, 0.7):
        allowed = round(path[0].bytes + share * (path[-1].bytes - path[0].bytes))
        found = best_under(options, allowed)
        best = min(c.error for c in all_of_them if c.bytes <= allowed)
        last = max(i for i, c in enumerate(path) if c.bytes <= allowed)
        assert found.bytes <= allowed
        assert path[last + 1].error <= best <= found.error <= path[last].error
        within = smallest_within(options, best)
        first = min(i for i, c in enumerate(path) if c.error <= best)
        assert within.error <= best
        assert path[first - 1].bytes <= min(c.bytes for c in all_of_them if c.error <= best) <= within.bytes <= path[first].bytes


def test_a_dear_scheme_that_buys_little_is_off_the_hull() -> None:
    options = [Option("int4", 10, 1.0), Option("int8", 20, 0.9), Option("fp32", 30, 0.0)]
    assert hull(options) == [options[0], options[2]]
    assert hull([*options, Option("fp32", 40, 0.5)]) == [options[0], options[2]]
    options[1] = Option("int8", 20, 0.3)
    assert hull(options) == options


def test_targets_that_cannot_be_met() -> None:
    options = drawn(0)
    smallest = frontier(options)[0].bytes
    with pytest.raises(
        ConfigError, match=rf"smallest weights of these layers take {smallest:,} bytes; {smallest - 1:,} are allowed"
    ):
        best_under(options, smallest - 1)
    assert best_under(options, smallest).bytes == smallest
    coarse = {layer: found[1:] for layer, found in options.items()}
    with pytest.raises(ConfigError, match="most exact weights of these layers leave an error of"):
        smallest_within(coarse, 1e-9)


# ---- recipes ---------------------------------------------------------------------------------------------------------------------


def test_patterns_name_a_kind_where_all_blocks_agree_and_blocks_by_number_where_not() -> None:
    every_layer = [f"dit.blocks.{i}.{kind}" for i in range(13) for kind in ("ffn.0", "ffn.2")] + ["dit.head.head"]
    chosen = [f"dit.blocks.{i}.ffn.0" for i in range(13)] + [f"dit.blocks.{i}.ffn.2" for i in (3, 5, 12)] + ["dit.head.head"]
    assert patterns(chosen, every_layer) == ["*head.head", "*blocks.*.ffn.0", "*blocks.[35].ffn.2", "*blocks.12.ffn.2"]


@pytest.mark.parametrize("seed", range(4))
def test_a_recipe_gives_every_layer_what_was_chosen(seed: int) -> None:
    dice = random.Random(seed)
    layers = [f"denoise/dit.blocks.{i}.{kind}" for i in range(31) for kind in ("self_attn.q", "cross_attn.o", "ffn.0")]
    layers += [f"encode_conditions/dit.blocks.{i}.cross_attn.k" for i in range(31)] + ["denoise/dit.head.head"]
    choice = Choice({layer: Option(dice.choice(("fp32", "int8", "int4")), 1, 0.0) for layer in layers})
    recipe = recipe_of("mine", choice, 64, lambda layer, w: "gptq" if w == "int4" and "ffn" in layer else "nearest")
    for layer in layers:
        rule = recipe.rule_for(*layer.split("/", 1))
        assert rule is not None
        assert rule.weights == choice.picks[layer].weights
        assert rule.rounding == ("gptq" if rule.weights == "int4" and "ffn" in layer else "nearest")
        assert rule.weights == "int8" or rule.group == 64
    assert recipe.rule_for("audio_encoder", "mlp.0").weights == "int8"  # type: ignore[union-attr]
    assert recipe.rule_for("denoise_reusing", "head.head").weights == choice.picks["denoise/dit.head.head"].weights  # type: ignore[union-attr]
    assert WeightRecipe.model_validate_json(recipe.model_dump_json()) == recipe


# ---- journal ---------------------------------------------------------------------------------------------------------------------

BASIS = {"model": "abc", "clips": 6, "schemes": ("int4", "int8")}


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Journal(tmp_path / "work", BASIS)
    first.add("a int4", {"guided": 0.5})
    first.add("a int8", {"guided": 0.25})
    second = Journal(tmp_path / "work", BASIS)
    assert dict(second) == {"a int4": {"guided": 0.5}, "a int8": {"guided": 0.25}}
    second.add("b int4", {"guided": 1.0})
    assert list(Journal(tmp_path / "work", BASIS)) == ["a int4", "a int8", "b int4"]


def test_a_line_that_a_kill_cut_is_measured_again(tmp_path: Path) -> None:
    Journal(tmp_path, BASIS).add("a int4", {"guided": 0.5})
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"key": "a int8", "val')
    again = Journal(tmp_path, BASIS)
    assert list(again) == ["a int4"]
    again.add("a int8", {"guided": 0.1})
    assert dict(Journal(tmp_path, BASIS)) == {"a int4": {"guided": 0.5}, "a int8": {"guided": 0.1}}


@pytest.mark.parametrize(
    ("change", "named"), [({"model": "abd"}, "model differs"), ({"clips": 7, "seed": 1}, "clips, seed differ")]
)
def test_measurements_of_something_else_are_refused(tmp_path: Path, change: dict[str, object], named: str) -> None:
    Journal(tmp_path, BASIS).add("a int4", {"guided": 0.5})
    with pytest.raises(ConfigError, match=rf"measurements of something else: {named}\. Choose another work folder"):
        Journal(tmp_path, BASIS | change)
    assert json.loads((tmp_path / JOURNAL).read_text().splitlines()[1])["key"] == "a int4"
