"""quantize/recipes.py: presets, recipe files, which rule holds, and what is said about a recipe that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from echoedge.core.bundle import CONDITION_PROGRAMS
from echoedge.core.errors import ConfigError
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe, read_recipe


def written(tmp_path: Path, content: object, name: str = "mine.json") -> str:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def chosen(recipe: WeightRecipe, program: str, module: str) -> str | None:
    rule = recipe.rule_for(program, module)
    return rule.weights if rule else None


# ---- presets ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int8", "int4", "mixed", "pal8", "pal6", "pal4"])
def test_a_presets_name_is_the_preset(name: str) -> None:
    assert read_recipe(name) is PRESETS[name]
    assert PRESETS[name].name == name


@pytest.mark.parametrize(
    ("name", "program", "module", "weights"),
    [
        ("fp32", "denoise", "dit.blocks.0.ffn.0", None),
        ("int8", "denoise", "dit.blocks.0.ffn.0", "int8"),
        ("int8", "text_encoder", "layers.0", "int8"),
        ("int4", "denoise", "dit.blocks.0.ffn.0", "int4"),
        ("int4", "denoise", "dit.head.head", "fp32"),
        ("int4", "denoise", "dit.patch_embedding.noise", "fp32"),
        ("int4", "encode_conditions", "dit.patch_embedding.given", "fp32"),
        ("int8", "denoise", "dit.head.head", "fp32"),
        ("int8", "denoise_reusing", "head.head", "fp32"),
        ("int8", "denoise", "dit.blocks.0.self_attn.q", "int8"),
        ("int4", "encode_conditions", "dit.blocks.0.cross_attn.k_audio", "int8"),
        ("int4", "encode_conditions", "dit.audio_injection.proj1", "int8"),
        ("mixed", "denoise", "dit.head.head", "fp32"),
        ("mixed", "denoise", "dit.blocks.11.self_attn.q", "int4"),
        ("mixed", "denoise", "dit.blocks.11.self_attn.v", "int8"),
        ("mixed", "denoise", "dit.blocks.11.cross_attn.o", "int8"),
        ("mixed", "denoise", "dit.blocks.11.ffn.2", "int4"),
        ("mixed", "encode_conditions", "dit.blocks.11.cross_attn.k", "int4"),
        ("mixed", "text_conditions", "dit.blocks.11.cross_attn.k", "int4"),
        ("mixed", "image_conditions", "dit.blocks.11.cross_attn.v_img", "int4"),
        ("mixed", "audio_conditions", "dit.blocks.11.cross_attn.k_audio", "int8"),
        ("int4", "patch_conditions", "patch_embedding.given", "fp32"),
        ("mixed", "encode_conditions", "dit.blocks.11.cross_attn.v_img", "int4"),
        ("mixed", "encode_conditions", "dit.blocks.11.cross_attn.k_audio", "int8"),
        ("mixed", "encode_conditions", "dit.blocks.11.cross_attn.v_audio", "int8"),
        ("mixed", "encode_conditions", "dit.audio_injection.proj3", "int8"),
        ("mixed", "audio_encoder", "mlp.0", "int8"),
        ("int4", "encode_conditions", "dit.blocks.0.cross_attn.k", "int8"),
        ("int4", "audio_encoder", "mlp.0", "int8"),
        ("pal4", "denoise", "dit.blocks.0.ffn.0", "pal4"),
        ("pal4", "denoise", "dit.head.head", "fp32"),
        ("pal4", "text_conditions", "dit.blocks.0.cross_attn.k", "pal6"),
        ("pal6", "denoise", "dit.blocks.0.ffn.0", "pal6"),
        ("pal8", "audio_encoder", "mlp.0", "pal8"),
        ("pal8", "patch_conditions", "patch_embedding.given", "fp32"),
    ],
)
def test_what_a_preset_does_with_a_layer(name: str, program: str, module: str, weights: str | None) -> None:
    assert chosen(PRESETS[name], program, module) == weights


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("program", "module", "rounded"),
    [
        ("vae_decode", "vae.decoder.upsamples.3.residual.2.sum", True),
        ("vae_decode", "vae.decoder.upsamples.5.resample.conv", False),
        ("tiny_decode", "vae.decoder.4.later.2", False),
        ("tiny_decode", "vae.decoder.4.present", False),
        ("vae_decode", "vae.decoder.head.2.sum", False),
        ("vae_decode", "vae.decoder.upsamples.5.time_conv.newest", False),
        ("vae_decode", "vae.decoder.middle.1.to_qkv", False),
        ("vae_encode", "vae.encoder.downsamples.0.residual.2.newest", True),
        ("vae_encode", "vae.encoder.downsamples.2.resample.1", False),
        ("vae_encode", "vae.encoder.conv1.newest", False),
        ("audio_encoder", "audio.present", False),
    ],
)
def test_which_convolutions_a_preset_rounds(name: str, program: str, module: str, rounded: bool) -> None:
    rule = PRESETS[name].rule_for(program, module, "convolution")
    integers = name in ("int8", "int4", "mixed")
    assert (rule.weights if rule else None) == ("int8" if rounded and integers else None)
    assert PRESETS[name].without_convolutions().rule_for(program, module, "convolution") is None
    assert PRESETS[name].rounds_convolutions == integers


def test_rules_for_linear_layers_say_nothing_of_convolutions_and_the_other_way_round() -> None:
    recipe = WeightRecipe(name="x", rules=(Rule(weights="int4"), Rule(layers="convolution", weights="int8")))
    assert chosen(recipe, "p", "m") == "int4"
    rule = recipe.rule_for("p", "m", "convolution")
    assert rule is not None and rule.weights == "int8"
    assert WeightRecipe(name="x", rules=recipe.rules[:1]).rule_for("p", "m", "convolution") is None


def test_the_name_of_all_conditions_is_that_of_each_and_of_nothing_else() -> None:
    recipe = WeightRecipe(name="old", rules=(Rule(programs="encode_*", weights="int4"), Rule(programs="text_*", weights="int8")))
    found = {name: chosen(recipe, name, "x") for name in (*CONDITION_PROGRAMS, "denoise", "text_encoder", "audio_conditions_too")}
    assert found == dict.fromkeys(CONDITION_PROGRAMS, "int4") | {
        "denoise": None, "text_encoder": "int8", "audio_conditions_too": None,
    }  # fmt: skip


# ---- rules -----------------------------------------------------------------------------------------------------------------------

HEAD_FIRST = (Rule(modules="*head*", weights="fp32"), Rule(programs="denoise", weights="int4"), Rule(weights="int8"))


@pytest.mark.parametrize(
    ("program", "module", "weights"),
    [("denoise", "dit.head.head", "fp32"), ("denoise", "dit.blocks.0.ffn.0", "int4"), ("vae_decode", "dit.blocks.0.ffn.0", "int8")],
)
def test_the_first_rule_that_matches_holds(program: str, module: str, weights: str) -> None:
    assert chosen(WeightRecipe(name="x", rules=HEAD_FIRST), program, module) == weights


def test_a_general_rule_in_front_hides_those_behind() -> None:
    assert chosen(WeightRecipe(name="x", rules=HEAD_FIRST[::-1]), "denoise", "dit.head.head") == "int8"


def test_program_and_module_must_both_match() -> None:
    recipe = WeightRecipe(name="x", rules=(Rule(programs="denoise", modules="*ffn*", weights="int8"),))
    found = [
        chosen(recipe, *place) for place in (("denoise", "a.ffn.0"), ("denoise", "a.attn.q"), ("encode_conditions", "a.ffn.0"))
    ]
    assert found == ["int8", None, None]


def test_patterns_tell_upper_from_lower_case() -> None:
    assert chosen(WeightRecipe(name="x", rules=(Rule(modules="FFN", weights="int8"),)), "denoise", "ffn") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": "int2"}, {"weights": "int4", "group": 48}, {"weights": "int4", "group": 0}, {}, {"weights": "pal4", "rows": 0},
        {"weights": "pal4", "rounding": "hqq"}, {"weights": "int4", "layers": "convolution"},
        {"weights": "int8", "layers": "convolution", "rounding": "gptq"}, {"weights": "int8", "layers": "norm"},
    ],
)  # fmt: skip
def test_a_rule_that_nothing_can_execute_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Rule(**fields)  # type: ignore[arg-type]


def test_which_recipes_need_samples() -> None:
    assert [name for name, recipe in PRESETS.items() if recipe.needs_samples] == ["mixed"]
    idle = WeightRecipe(name="x", rules=(Rule(weights="fp32", rounding="gptq"),))
    assert not idle.needs_samples


def test_without_samples_the_same_layers_get_the_same_weights() -> None:
    free = PRESETS["mixed"].data_free()
    assert not free.needs_samples
    assert [(r.programs, r.modules, r.weights, r.group) for r in free.rules] == [
        (r.programs, r.modules, r.weights, r.group) for r in PRESETS["mixed"].rules
    ]
    assert {r.rounding for r in free.rules} == {"nearest", "searched"}
    fitted = WeightRecipe(name="x", rules=(Rule(weights="pal4", rows=8, rounding="gptq"),))
    assert fitted.needs_samples
    assert fitted.data_free().rules == (Rule(weights="pal4", rows=8, rounding="searched"),)


# ---- files -----------------------------------------------------------------------------------------------------------------------


def test_a_recipe_file(tmp_path: Path) -> None:
    rules = [{"programs": "denoise", "modules": "*ffn*", "weights": "int4", "group": 64}, {"weights": "int8"}]
    recipe = read_recipe(written(tmp_path, {"name": "mine", "rules": rules}))
    assert recipe == WeightRecipe(
        name="mine", rules=(Rule(programs="denoise", modules="*ffn*", weights="int4", group=64), Rule(weights="int8"))
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_file(name: str, tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, PRESETS[name].model_dump_json(), "a.JSON")) == PRESETS[name]


@pytest.mark.parametrize(("text", "near"), [("int9", "int8"), ("fp31", "fp32"), ("int4 ", "int4")])
def test_an_unknown_name_gets_the_list_and_the_nearest(text: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"no weights '{text}'\. Choose from fp32, int8, int4, .* Did you mean '{near}'\?$"):
        read_recipe(text)


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"Choose from fp32, int8, int4, mixed, pal8, pal6, pal4, or name a recipe file \(\.json\)\.$"
    ):
        read_recipe("zzz")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json cannot be read: No such file"):
        read_recipe(str(tmp_path / "gone.json"))


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_recipe(str(tmp_path / "folder.json"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"name": "x", "rules": [{"wei', "Invalid JSON"),
        ("", "Invalid JSON"),
        ([], "Input should be an object"),
        ({"rules": []}, "name: Field required"),
        ({"name": ""}, "name: .* at least 1 character"),
        ({"name": "x", "rulez": []}, "rulez: Extra inputs"),
        ({"name": "x", "rules": [{"weights": "int8"}, {"weights": "int2"}]}, r"rules\.1\.weights: .* 'fp32', 'int8', .* or 'pal4'"),
        (
            {"name": "x", "rules": [{"weights": "pal4", "rounding": "hqq"}]},
            r"rules\.0: .*rounding is 'hqq', which chooses scales; pal4 is a palette, rounded by one of nearest, searched, gptq",
        ),
        ({"name": "x", "rules": [{"weights": "int4", "group": 40}]}, r"rules\.0\.group: .*multiple of 32"),
        ({"name": "x", "rules": [{"weights": "int4", "group": 0}]}, r"rules\.0\.group: .*greater than or equal to 32"),
    ],
)  # fmt: skip
def test_a_bad_file_is_quoted_with_an_example(content: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.json is not valid: (?!:).*{complaint}.*A valid one is: ") as caught:
        read_recipe(written(tmp_path, content))
    example = str(caught.value).split("A valid one is: ")[1]
    assert WeightRecipe.model_validate_json(example) == PRESETS["int4"]
