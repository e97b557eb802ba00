"""runtime/studies/sensitivity.py and runtime/studies/recipe_search.py on nano, with few clips and steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from echoedge.core.errors import ConfigError
from echoedge.core.plan.samplers import PLAN_PRESETS, build_plan
from echoedge.core.weights.nano import load_nano
from echoedge.quantize.recipes import PRESETS, Rule
from echoedge.quantize.search import Journal
from echoedge.quantize.transforms import FOLDABLE, Transformed, awq
from echoedge.runtime.studies.recipe_search import Goal, find, measure_layers, nano_basis, rounding_of, schemes_of
from echoedge.runtime.studies.rounding_study import _transformed, rounded_as
from echoedge.runtime.studies.sensitivity import SensitivityStudy, decibels

PLAN = build_plan(replace(PLAN_PRESETS["nano"], steps=2))
FEW = ("denoise/dit.head.head", "denoise/dit.blocks.1.self_attn.o", "denoise/dit.blocks.0.ffn.2", "denoise/dit.blocks.3.ffn.2",
       "encode_conditions/dit.blocks.2.cross_attn.v_audio")  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Iterator[SensitivityStudy]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield SensitivityStudy(load_nano(), PLAN, clips=1, played=2, calibration=2)
    torch.set_num_threads(threads)


@pytest.fixture
def few(study: SensitivityStudy, monkeypatch: pytest.MonkeyPatch) -> SensitivityStudy:
    """With five layers to search; recipes leave the others in full precision."""
    monkeypatch.setattr(study, "layers", {name: study.layers[name] for name in FEW})
    return study


def test_every_layer_of_both_programs_is_known_once(study: SensitivityStudy) -> None:
    names = list(study.layers)
    assert len(names) == 95
    assert sum(name.startswith("denoise/dit.blocks.") for name in names) == 6 * 8
    assert sum(name.startswith("encode_conditions/dit.blocks.") for name in names) == 6 * 6
    assert set(study.moments) == set(names)


def test_full_precision_has_no_error_and_coarser_weights_have_more(study: SensitivityStudy) -> None:
    assert study.probe.error(study.dit).guided < 1e-10  # the portable form: measured 4e-13
    errors = [study.probe.error(study.quantised(PRESETS[name])) for name in ("int8", "mixed", "int4")]
    for kind in ("velocity", "guided", "direction"):
        values = [asdict(error)[kind] for error in errors]
        assert values == sorted(values), kind
    assert decibels(errors[0].guided) > decibels(errors[2].guided) + 8  # measured: 38.6 and 23.4 dB


def test_a_layer_alone_is_put_back(study: SensitivityStudy) -> None:
    layer = "denoise/dit.blocks.1.self_attn.o"
    weight = study.layers[layer].weight
    found = {}
    for weights in ("int8", "int4"):
        with study.with_layer(layer, Rule(weights=weights)) as dit:
            found[weights] = study.error_of(layer, dit).guided
        assert study.layers[layer].weight is weight
    assert 0 < 5 * found["int8"] < found["int4"]
    assert study.probe.error(study.dit, study.conditions).guided < 1e-10


def test_a_layer_of_the_conditions_is_measured_with_new_conditions(study: SensitivityStudy) -> None:
    layer = "encode_conditions/dit.blocks.2.cross_attn.v_audio"
    with study.with_layer(layer, Rule(weights="int4")) as dit:
        assert study.error_of(layer, dit).guided > 1e-7
        assert study.probe.error(dit, study.conditions).guided < 1e-10  # conditions of before: as if nothing had happened


def test_bytes_of_a_recipe_are_those_of_its_layers(study: SensitivityStudy) -> None:
    total = sum(linear.weight.numel() for linear in study.layers.values())
    assert study.bytes_of(PRESETS["fp32"]) == 4 * total
    assert 1.0 < study.bytes_of(PRESETS["int8"]) / total < 1.1
    assert study.bytes_of(PRESETS["int4"]) < study.bytes_of(PRESETS["int8"])


# ---- search ----------------------------------------------------------------------------------------------------------------------


def test_a_search_measures_chooses_proves_and_goes_on(
    few: SensitivityStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    basis = nano_basis(PLAN, 1, 0, 32)
    journal = Journal(tmp_path, basis)
    measure_layers(few, journal, 32)
    assert len(journal) == 2 * len(FEW)
    assert journal["denoise/dit.head.head int4"]["guided"] > journal["denoise/dit.head.head int8"]["guided"] > 0

    def measured_again(*_: object) -> None:
        raise AssertionError("a layer was measured again")

    monkeypatch.setattr(few, "error_of", measured_again)
    measure_layers(few, Journal(tmp_path, basis), 32)
    with pytest.raises(AssertionError, match="measured again"):
        measure_layers(few, Journal(tmp_path / "other", basis), 32)

    size = sum(layer.weight.numel() for layer in few.layers.values())
    small = find(few, journal, Goal(most_bytes=round(0.7 * size)))
    assert small.bytes <= 0.7 * size
    assert small.recipe.rule_for("denoise", "dit.head.head").weights != "int4"  # type: ignore[union-attr]
    assert small.schemes["int4"] >= 1
    assert few.bytes_of(small.recipe) == small.bytes
    assert 0.5 < small.mouth.lipsync < 1.5  # two clips in two steps: no more is known of them

    exact = find(few, journal, Goal(db=37.0))
    assert exact.guided_db >= 37.0 > small.guided_db
    assert exact.bytes > small.bytes
    with pytest.raises(ConfigError, match="Not even full precision"):
        find(few, journal, Goal(db=60.0))  # the layers that are not searched are int8


def test_layers_can_be_listened_to(few: SensitivityStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few, "layers", {FEW[1]: few.layers[FEW[1]]})
    journal = Journal(tmp_path, nano_basis(PLAN, 1, 2, 32))
    measure_layers(few, journal, 32, listened=2)
    assert all({"lipsync", "mouth_energy"} < value.keys() for value in journal.values())
    assert len(journal) == 2


def test_4_bit_layers_of_the_blocks_are_fitted() -> None:
    assert rounding_of("denoise/dit.blocks.3.ffn.0", "int4") == "gptq"
    assert rounding_of("denoise/dit.blocks.3.ffn.0", "int8") == "nearest"
    assert rounding_of("denoise/dit.head.head", "int4") == "searched"
    assert rounding_of("encode_conditions/dit.blocks.3.cross_attn.k", "int4") == "searched"
    assert schemes_of(64, 32) == ("int4", "int8")
    assert schemes_of(80, 32) == ("int8",)


@pytest.mark.parametrize("given", [{}, {"db": 30.0, "most_bytes": 5}])
def test_one_target_is_given(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"Give one target: .* not {len(given)}"):
        Goal(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 1.2])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match=f"--target-share is {share}"):
        Goal(share=share)


# ---- comparisons -----------------------------------------------------------------------------------------------------------------


def test_transformed_layers_stand_where_the_layers_stood(few: SensitivityStudy) -> None:
    dit = _transformed(few, awq, "nearest", FOLDABLE)
    assert isinstance(dit.get_submodule("blocks.1.self_attn.o"), Transformed)
    assert not isinstance(dit.get_submodule("blocks.0.ffn.2"), Transformed)
    plain = few.quantised(rounded_as(PRESETS["int4"], "nearest"))
    errors = [few.probe.error(each).guided for each in (dit, plain)]
    assert 0.5 < errors[0] / errors[1] < 2.0
    assert errors[0] != errors[1]
