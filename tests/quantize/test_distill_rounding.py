"""quantize/distill/rounding.py: a student computes, in training, with the integers and scales that an export of its file writes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from echoedge.core.errors import ConfigError
from echoedge.core.model.encoders import NanoEncoders
from echoedge.core.model.programs import (
    audio_conditions_program,
    denoise_program,
    image_conditions_program,
    text_conditions_program,
)
from echoedge.core.model.transformer import DiT
from echoedge.core.model.vae import VAE
from echoedge.core.plan.samplers import PLAN_PRESETS
from echoedge.core.weights.nano import load_nano, read_passport, save_nano
from echoedge.core.weights.passport import Passport
from echoedge.quantize.distill import training as trainer
from echoedge.quantize.distill.lessons import Lessons
from echoedge.quantize.distill.rounding import RoundedLinear, eight_bits, exported_recipe, grids_of, held, round_layers
from echoedge.quantize.distill.run import passport_of
from echoedge.quantize.distill.student import Student, error_in_steps, in_steps, student_of
from echoedge.quantize.distill.training import Distilling, train_student
from echoedge.quantize.grid import Rounded
from echoedge.quantize.recipes import PRESETS, Rule, WeightRecipe
from echoedge.quantize.roundings.nearest import nearest
from echoedge.quantize.weights import quantise

from ..core.tiny import randomised
from ..core.tiny_training import CLIP
from ..core.tiny_training import CONFIG as NARROW
from .test_distill import LEVELS, TRAINING, drawn_lessons, repeats_itself

CONFIG = replace(NARROW, dim=32, ffn_dim=64)  # groups of 32 inputs
SCHEMES = ("int8", "int4")
TIMESTEP = ("time_embedding.0", "time_embedding.2", "time_projection.1", "span_embedding.0", "span_embedding.2", "head.head")


def teacher() -> DiT:
    torch.manual_seed(0)
    return randomised(DiT(CONFIG))


def in_programs(dit: DiT, recipe: WeightRecipe, store: Callable[..., Tensor]) -> dict[str, int]:
    """`quantise` on each program of a transformer, in place, as an export does; how many layers got which weights."""
    programs = {
        "text_conditions": text_conditions_program(dit, 7), "image_conditions": image_conditions_program(dit),
        "audio_conditions": audio_conditions_program(dit, CLIP), "denoise": denoise_program(dit, CLIP, 7),
    }  # fmt: skip
    counts: dict[str, int] = {}
    for role, methods in programs.items():
        method = methods["forward"]
        for name, count in quantise(method.module, role, recipe, tuple(method.inputs.values()), store=store).items():
            counts[name] = counts.get(name, 0) + count
    return counts


def integers_of_export(dit: DiT, recipe: WeightRecipe) -> list[Rounded]:
    found: list[Rounded] = []

    def store(rounded: Any, _: Any) -> Tensor:
        found.append(rounded)
        return rounded.values()

    in_programs(copy.deepcopy(dit), recipe, store)
    return found


def integers_of_training(dit: DiT) -> dict[str, Rounded]:
    return {name: held(each.weight, each.grid) for name, each in dit.named_modules() if isinstance(each, RoundedLinear)}


def same(one: Rounded, other: Rounded) -> bool:
    return torch.equal(one.codes, other.codes) and torch.equal(one.scale, other.scale)


def called(dit: DiT, rows: int = 3) -> Tensor:
    """A velocity."""
    batch, ones = drawn_lessons(4).batch(np.arange(rows)), torch.ones(rows)
    return Student(dit)(batch["states"][:, 1].float(), 0.75 * ones, 0.3 * ones, torch.ones(rows, 3, 3), batch)


def exported_values(dit: DiT, recipe: WeightRecipe) -> DiT:
    """What computes with the values that an export of a file of `dit` stands for, in float32 layers."""
    made = copy.deepcopy(dit)
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.half().float()
    in_programs(made, recipe, lambda rounded, _: rounded.values())
    for name, parameter in made.named_parameters():
        if not name.endswith("weight") or name.removesuffix(".weight") in TIMESTEP:
            parameter.data = dit.get_parameter(name).data  # of layers that stay
    return made


# ---- what is computed ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_forward_is_that_of_what_an_export_writes(scheme: str) -> None:
    student, recipe = student_of(teacher()), PRESETS[scheme].nearest()
    wanted = called(exported_values(student, recipe))
    found = called(round_layers(copy.deepcopy(student), recipe))
    assert torch.equal(found, wanted)
    assert (found - called(student)).abs().max() > 1e-3
    assert not torch.equal(called(round_layers(copy.deepcopy(student), PRESETS["int4" if scheme == "int8" else "int8"])), wanted)


def test_layers_are_those_that_programs_round() -> None:
    student = student_of(teacher())
    for scheme in ("int8", "int4", "mixed"):
        grids = grids_of(CONFIG, PRESETS[scheme])
        counts = in_programs(copy.deepcopy(student), PRESETS[scheme].nearest(), lambda rounded, _: rounded.values())
        assert {name: [g.name for g in grids.values()].count(name) for name in ("int8", "int4")} == {
            name: counts.get(name, 0) for name in ("int8", "int4")
        }
        assert not set(grids) & set(TIMESTEP) and "blocks.1.cross_attn.k_audio" in grids
    assert grids_of(CONFIG, PRESETS["fp32"]) == {}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gradient_is_that_of_the_values(scheme: str) -> None:
    student, recipe = student_of(teacher()), PRESETS[scheme].nearest()
    rounded, values = round_layers(copy.deepcopy(student), recipe), exported_values(student, recipe)
    for dit in (rounded, values):
        dit.requires_grad_(True)
        called(dit).square().mean().backward()
    wanted = dict(values.named_parameters())
    assert [name for name, _ in rounded.named_parameters()] == [name for name, _ in student.named_parameters()]
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter.grad, wanted[name].grad), name  # type: ignore[arg-type]
    grad = rounded.blocks[0].ffn[0].weight.grad
    assert grad is not None and grad.abs().max() > 1e-6
    assert not held(student.blocks[0].ffn[0].weight, rounded.blocks[0].ffn[0].grid).values().requires_grad


def test_inputs_are_rounded_as_executorch_stores_layers() -> None:
    from echoedge.targets.executorch.storage import stored_weight

    torch.manual_seed(1)
    layer, x = nn.Linear(64, 24), 3 * torch.randn(2, 5, 64) + 1
    grid = grids_of(CONFIG, PRESETS["int4"])["blocks.0.ffn.0"]
    made = RoundedLinear.of(layer, grid, "int8")  # type: ignore[arg-type]
    theirs = nn.Linear(64, 24)
    theirs.weight = nn.Parameter(stored_weight(held(layer.weight, grid), grid), requires_grad=False)  # type: ignore[arg-type]
    theirs.bias = layer.bias
    assert torch.allclose(made(x), theirs(x), atol=1e-5)
    made.inputs = "float"
    assert not torch.allclose(made(x), theirs(x), atol=1e-3)
    x.requires_grad_(True)
    RoundedLinear.of(layer, grid, "int8")(x).sum().backward()  # type: ignore[arg-type]
    assert torch.allclose(x.grad, held(layer.weight, grid).values().sum(0).expand_as(x), atol=1e-5)  # type: ignore[arg-type]
    assert len(torch.unique(eight_bits(x[:1, :1]))) > 30


# ---- what training ends with -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_files_integers_are_those_that_training_ended_with(scheme: str, tmp_path: Path) -> None:
    training = replace(TRAINING, weights=scheme)
    dit = train_student(teacher(), drawn_lessons(), tmp_path, training)
    passport = passport_of("ab" * 32, PLAN_PRESETS["nano"], Lessons(), training.recipe, training.inputs)
    path = tmp_path / "student.safetensors"
    save_nano(path, dit, VAE(CONFIG.vae), NanoEncoders(CONFIG), passport)
    loaded, told = load_nano(CONFIG, path).dit, read_passport(path)
    assert told == passport
    recipe, said = exported_recipe(told, loaded.config, PRESETS[scheme])
    assert said is None
    trained, exported = list(integers_of_training(dit).values()), integers_of_export(loaded, recipe)
    assert len(trained) == len(exported) == len(grids_of(CONFIG, recipe))
    left = list(exported)
    for each in trained:
        twin = next((k for k, other in enumerate(left) if same(each, other)), None)
        assert twin is not None
        left.pop(twin)
    layers = [each for each in dit.modules() if isinstance(each, RoundedLinear)]
    assert any(not same(held(each.weight, each.grid), nearest(each.weight, each.grid)) for each in layers)  # without half precision
    if scheme == "int4":  # whose preset searches
        searched = integers_of_export(loaded, PRESETS["int4"])
        assert sum(not any(same(each, other) for other in searched) for each in trained) == 16


def test_a_run_that_rounds_repeats_itself_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = replace(TRAINING, on_policy=0.3, weights="int4", inputs="int8")
    folder = repeats_itself(teacher(), training, tmp_path, monkeypatch)
    for other, said in ((replace(training, weights="int8"), "weights 'int4', not 'int8'"), (TRAINING, "inputs 'int8', not None")):
        with pytest.raises(ConfigError, match=said):
            train_student(teacher(), drawn_lessons(), folder, replace(other, on_policy=0.3))


def test_a_run_without_rounding_is_what_it_was(tmp_path: Path) -> None:
    """Checkpoints of runs that knew of no rounding go on."""
    train_student(teacher(), drawn_lessons(), tmp_path, TRAINING)
    options = torch.load(tmp_path / "student.pt", weights_only=True)["options"]
    assert '"weights"' not in options and '"inputs"' not in options and '"mouth_weight"' in options


def test_who_learns_through_4_bits_is_better_at_4_bits(tmp_path: Path) -> None:
    """Lessons that the teacher knows: what is left at 4 bits is their rounding."""
    drawn, recipe, path = drawn_lessons(), PRESETS["int4"].nearest(), (0, 1, 2, 3, 4)
    batch, levels, modality = drawn.batch(np.arange(80)), torch.tensor(LEVELS), torch.ones(5, 3, 3)
    with torch.no_grad():
        played = in_steps(Student(student_of(teacher())), batch["states"][:, 0].float(), levels, modality[:-1], batch)
    drawn.arrays["states"][:, 1:] = torch.stack(played, 1).half().numpy()  # type: ignore[index]
    watched = drawn.batch(np.arange(80 - trainer.HELD_BACK, 80))
    found: dict[str, DiT] = {}
    for weights in ("fp32", "int4"):
        (tmp_path / weights).mkdir()
        training = replace(TRAINING, steps=40, rate=1e-3, ema=0.9, mix=((4, 1.0),), weights=weights)
        found[weights] = train_student(teacher(), drawn, tmp_path / weights, training)
    through, after = (
        error_in_steps(Student(dit), watched, levels, path, modality)
        for dit in (found["int4"], round_layers(found["fp32"], recipe))
    )
    assert through < 0.7 * after  # measured: 0.071 and 0.133; of full precision 0.037


# ---- which recipe ----------------------------------------------------------------------------------------------------------------


def taught(weights: str) -> Passport:
    return passport_of("ab" * 32, PLAN_PRESETS["nano"], Lessons(), Distilling(weights=weights).recipe)


def test_another_recipe_is_told() -> None:
    recipe, said = exported_recipe(taught("int8"), CONFIG, PRESETS["int4"])
    assert recipe is PRESETS["int4"] and said is not None
    assert "was taught through int8 weights, and int4 rounds them anew" in said and "Export it with the weights int8" in said
    for other in ("fp32", "pal4", "mixed", "int8"):
        assert exported_recipe(taught("int4"), CONFIG, PRESETS[other])[1] is not None
    assert exported_recipe(taught("fp32"), CONFIG, PRESETS["int4"]) == (PRESETS["int4"], None)
    encoders = WeightRecipe(name="own", rules=(Rule(programs="*_encoder", weights="fp32"), *PRESETS["int8"].rules))
    assert exported_recipe(taught("int8"), CONFIG, encoders) == (encoders, None)  # the transformer's are the same


def test_what_nobody_learns_through_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'pal6' rounds text_embedding\.\d to pal6, a palette, which is searched for"):
        round_layers(student_of(teacher()), PRESETS["pal6"])
    everything = WeightRecipe(name="all", rules=(Rule(weights="int8"),))
    with pytest.raises(ConfigError, match=r"'all' rounds dit\.patch_embedding\.noise of denoise to int8; .* first\."):
        grids_of(CONFIG, everything)
    with pytest.raises(ConfigError, match="There are no weights 'int5'"):
        Distilling(weights="int5")
    with pytest.raises(ConfigError, match="inputs are 'int8', which goes with rounded weights"):
        Distilling(inputs="int8")
    with pytest.raises(ConfigError, match="inputs is 'int9'"):
        Distilling(weights="int8", inputs="int9")  # type: ignore[arg-type]


def test_convolutions_are_no_option_of_a_run() -> None:
    """A preset rounds those of the decoder, which nobody trains; its rules of linear layers stay."""
    recipe = Distilling(weights="int8").recipe
    assert not recipe.of_convolutions and PRESETS["int8"].of_convolutions
    assert recipe.rules == PRESETS["int8"].without_convolutions().rules != ()
