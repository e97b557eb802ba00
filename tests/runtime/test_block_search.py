"""runtime/studies/block_search.py at toy width: every layer is measured by what it does to its block, in any order."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from echoedge.core.config import FLASH, ClipSpec, ModelConfig, Variant
from echoedge.core.errors import ConfigError
from echoedge.core.model.transformer import DiT
from echoedge.core.plan import SamplingPlan
from echoedge.core.plan.samplers import build_plan
from echoedge.core.weights.checkpoints import Checkpoint
from echoedge.quantize.search import Journal
from echoedge.runtime.play.reference import Settings, plan_options
from echoedge.runtime.studies.block_search import (
    checkpoint_basis,
    drawn_inputs,
    find_for_blocks,
    measure_blocks,
    memory_needed,
    spread,
    statistics,
)
from echoedge.runtime.studies.recipe_search import Goal

from ..core.tiny import TINY_CLIP, tiny_config, tiny_dit

SIZES = {"dim": 64, "ffn_dim": 96, "layers": 3}


def released(folder: Path, variant: Variant, seed: int = 0) -> tuple[Checkpoint, ModelConfig, DiT]:
    """A transformer's file, whose dead pairs flash has too, and the model in memory."""
    config = tiny_config(variant, **SIZES)
    dit = tiny_dit(config, seed)
    tensors = {name: tensor.detach().contiguous() for name, tensor in dit.state_dict().items()}
    if variant == "flash":
        for index in range(config.layers):
            tensors[f"blocks.{index}.cross_attn.q_audio.weight"] = torch.zeros(config.dim, config.dim)
            tensors[f"blocks.{index}.cross_attn.q_audio.bias"] = torch.zeros(config.dim)
    place = folder / "model" / "transformer"
    place.mkdir(parents=True)
    save_file(tensors, place / "diffusion_pytorch_model.safetensors")
    return Checkpoint.open(place), config, dit


def plan_of(variant: Variant) -> SamplingPlan:
    return build_plan(plan_options(variant, Settings(steps=4)))


def measured(folder: Path, variant: Variant = "flash", blocks: list[int] | None = None, name: str = "work") -> Journal:
    checkpoint, config, _ = released(folder, variant) if not (folder / "model").exists() else (
        Checkpoint.open(folder / "model" / "transformer"), tiny_config(variant, **SIZES), None
    )  # fmt: skip
    journal = Journal(folder / name, checkpoint_basis(checkpoint, plan_of(variant), TINY_CLIP, 32, config))
    measure_blocks(checkpoint, config, plan_of(variant), TINY_CLIP, journal, 32, blocks)
    return journal


@pytest.mark.parametrize("variant", ["flash", "preview"])
def test_every_layer_of_every_block_is_measured(variant: Variant, tmp_path: Path) -> None:
    journal = measured(tmp_path, variant)
    assert len(journal) == 3 * 14 * 2
    assert sum(key.startswith("encode_conditions/") for key in journal) == 3 * 6 * 2
    for key, value in journal.items():
        assert all(math.isfinite(number) and number >= 0 for number in value.values()), key
        if key.endswith("int4"):
            finer = journal[key.replace("int4", "int8")]
            assert value["guided"] > 2 * finer["guided"] > 0, key  # measured: at least 3.08 times
        assert value["inputs"] == (96 if "ffn.2" in key else 64)
    queries = [journal[f"denoise/dit.blocks.1.self_attn.{name} int4"]["input_rms"] for name in "qkv"]
    assert len(set(queries)) == 1  # they read the same


def test_a_blocks_figures_do_not_depend_on_which_blocks_are_asked_for(tmp_path: Path) -> None:
    alone, together = measured(tmp_path, blocks=[2], name="alone"), measured(tmp_path, name="together")
    assert len(alone) == 14 * 2
    assert all(together[key] == pytest.approx(alone[key], rel=1e-6) for key in alone)


def test_the_voice_layers_make_the_direction(tmp_path: Path) -> None:
    """Branches differ in what they hear alone; an error in what all branches share alike is none of the direction's."""
    journal = measured(tmp_path, blocks=[0])
    share = {
        name: journal[f"encode_conditions/dit.blocks.0.cross_attn.{name} int4"]["direction"]
        / journal[f"encode_conditions/dit.blocks.0.cross_attn.{name} int4"]["guided"]
        for name in ("v", "v_audio")
    }
    assert share["v_audio"] > 20 * share["v"]  # measured: 110 times


def test_inputs_are_those_of_the_plans_steps_and_branches(tmp_path: Path) -> None:
    _, _, dit = released(tmp_path, "flash")
    plan = plan_of("flash")
    inputs = drawn_inputs(dit, plan, TINY_CLIP, [0, 2])
    assert inputs.places == ((0, 0), (0, 1), (2, 0), (2, 1))
    assert torch.equal(inputs.x[0], inputs.x[1])
    assert not torch.equal(inputs.x[0], inputs.x[2])
    text, _, audio = inputs.tokens
    assert torch.equal(text[0], text[1])
    assert not torch.equal(audio[0], audio[1])
    _, modulation = dit.step_tables(torch.tensor(plan.timesteps, dtype=torch.float64))
    assert torch.equal(inputs.modulation[2], modulation[2])


def test_blocks_left_out_take_the_nearest_ones_figures(tmp_path: Path) -> None:
    journal = measured(tmp_path, blocks=[0, 2])
    found = spread(journal, 6)
    key = "denoise/dit.blocks.{}.ffn.0 int4"
    assert [found[key.format(i)] is journal[key.format(j)] for i, j in ((0, 0), (1, 0), (2, 2), (5, 2))] == [True] * 4
    assert len(found) == 6 * 14 * 2


def test_recipes_under_a_size_and_within_an_error(tmp_path: Path) -> None:
    journal = measured(tmp_path, blocks=[1])
    total = 3 * (12 * 64 * 64 + 2 * 64 * 96)
    small = find_for_blocks(journal, 3, Goal(most_bytes=round(0.7 * total)), 32, "small")
    exact = find_for_blocks(journal, 3, Goal(db=40.0), 32, "exact")
    assert small.bytes <= 0.7 * total < exact.bytes
    assert exact.predicted_db >= 40.0 > small.predicted_db
    assert (small.measured, small.layers) == (14, 42)
    assert sum(small.schemes.values()) == 42
    for found in (small, exact):
        assert found.recipe.rule_for("denoise", "dit.head.head").weights == "fp32"  # type: ignore[union-attr]
        assert found.recipe.rule_for("encode_conditions", "dit.audio_injection.proj1").weights == "int8"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="--target-share needs a model that metrics of the mouth can judge"):
        find_for_blocks(journal, 3, Goal(share=0.97), 32, "x")


@pytest.mark.parametrize("blocks", [[3], [-1, 0], []])
def test_blocks_that_are_not_there(tmp_path: Path, blocks: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"the model has blocks 0 to 2\."):
        measured(tmp_path, blocks=blocks)


def test_measurements_of_other_weights_are_refused(tmp_path: Path) -> None:
    measured(tmp_path, blocks=[0])
    checkpoint, config, _ = released(tmp_path / "other", "flash", seed=1)
    with pytest.raises(ConfigError, match="something else: model differs"):
        Journal(tmp_path / "work", checkpoint_basis(checkpoint, plan_of("flash"), TINY_CLIP, 32, config))


def test_statistics_of_a_layers_inputs() -> None:
    x = torch.ones(10, 4)
    x[:, 0] = 3.0
    x[0, 1] = 9.0
    found = statistics(x)
    assert found["input_rms"] == pytest.approx(math.sqrt((90 + 81 + 9 + 20) / 40))
    assert found["input_peak"] == pytest.approx(9 / found["input_rms"])
    assert found["channel_spread"] == pytest.approx(3.0 / 1.0, rel=1e-5)


def test_flash_fits_into_four_gigabytes() -> None:
    assert memory_needed(FLASH, ClipSpec(128, 128, 9)) < 4_000_000_000
    assert memory_needed(FLASH, ClipSpec(512, 512, 81)) > 4_000_000_000
