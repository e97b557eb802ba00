"""runtime/bench/operators.py: parts of a block, what they add up to, and the table that tells how fast they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echoedge.core.config import FLASH, NANO, ClipSpec, ModelConfig
from echoedge.core.errors import ConfigError
from echoedge.quantize.recipes import PRESETS
from echoedge.runtime.bench import operators
from echoedge.runtime.bench.operators import (
    OperatorSpeeds,
    Part,
    _rounds,
    compile_part,
    integer_product,
    measure_operators,
    parts,
    peak_products,
    quantised_product,
)
from echoedge.targets.executorch.gate import flops
from echoedge.targets.rewrites.savings import step_work

from ..commands import Run
from ..core.tiny import tiny_config

CLIP = ClipSpec(32, 32, 9)
SMALL = replace(NANO, layers=1, coupled_layers=0)


def by_name(config: ModelConfig, clip: ClipSpec = CLIP, rows: int = 8) -> dict[str, Part]:
    return {part.name: part for part in parts(config, clip, rows)}


# ---- parts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, tiny_config("preview")])
@torch.no_grad()
def test_every_part_computes(config: ModelConfig) -> None:
    for part in by_name(config).values():
        assert part.module(*part.inputs).isfinite().all(), part.name


def test_flops_are_those_of_the_step() -> None:
    found = by_name(SMALL, rows=8)
    work = step_work(SMALL, CLIP, 8)
    assert found["block"].weight_flops + found["block"].other_flops == work.blocks


@pytest.mark.parametrize("config", [SMALL, tiny_config("preview")])
def test_flops_are_those_that_the_gate_counts(config: ModelConfig) -> None:
    for part in by_name(config).values():
        exported = torch.export.export(part.module.eval(), part.inputs, strict=False)
        assert sum(flops(exported).values()) == part.weight_flops + part.other_flops, part.name


def test_products_of_the_parts_are_those_of_the_block() -> None:
    found = by_name(NANO)
    block, rest = found.pop("block"), found.values()
    assert sum(part.count * part.weight_flops for part in rest) == block.weight_flops
    assert sum(part.count * part.other_flops for part in rest) == block.other_flops


def test_flops_of_the_released_model_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "Block", lambda *_, **__: torch.nn.Identity())  # no need for its weights
    found = by_name(FLASH, ClipSpec(256, 256, 25), 64)
    assert found["feed-forward"].weight_flops == 4 * 1792 * 1536 * 8960
    assert found["self-attention core"].other_flops == 4 * 1792 * 1792 * 1536
    assert found["cross-attention core"].other_flops == 4 * 1792 * (64 + 257 + 32) * 1536


def test_a_prompt_that_the_model_cannot_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="text_rows is 65; it must be a whole number from 1 to 64"):
        parts(NANO, CLIP, 65)


# ---- compiled --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rotary embedding", "modulation and gate"])
@torch.no_grad()
def test_a_compiled_part_computes_its_first_row(name: str, tmp_path: Path) -> None:
    part = by_name(SMALL)[name]
    ready = compile_part(part, PRESETS["fp32"], tmp_path)
    (row,) = ready.file.run("forward", [tensor.numpy() for tensor in part.inputs])
    expected = part.module(*part.inputs).numpy()
    assert row.shape == (1, 1, *expected.shape[2:])
    assert np.abs(row - expected[:, :1]).max() < 1e-4  # measured: 2e-6 of 4
    assert np.abs(row - expected[:, 1:2]).max() > 0.1
    assert not ready.quantised


# ---- measured --------------------------------------------------------------------------------------------------------------------


def test_rounds_take_turns_and_the_first_is_a_warm_up() -> None:
    calls: list[str] = []
    told: list[tuple[str, int, int]] = []
    wall, cpu = _rounds([lambda: calls.append("a"), lambda: calls.append("b")], 3, lambda *step: told.append(step))
    assert calls == ["a", "b"] * 4
    assert len(wall) == len(cpu) == 2
    assert all(seconds > 0 for seconds in wall)
    assert told[-1] == ("rounds", 4, 4)


def test_products_of_8_bit_integers_are_those_of_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit; a layer holds a row of weights for each of its outputs, and draws them first. Codes are small: processors
    without VNNI cut sums of two products off at 16 bits, (127 + 128) * 127 * 2 among them."""
    a, b = torch.randint(-63, 64, (2, 64, 64), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    drawn = iter((a, b, b, a))
    monkeypatch.setattr(operators, "_codes", lambda _: next(drawn))
    assert torch.equal(integer_product(64)().double(), a.double() @ b.double())
    assert torch.equal(quantised_product(64)().double(), a.double() @ b.double().T)


@pytest.mark.parametrize("slow", [False, True])
def test_the_peak_is_of_square_products_and_not_of_a_loop(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch has no instructions for its product of integers, the quicker one of quantised layers is taken."""
    seconds = {torch.float32: 1.0, torch.int32: 2.0 if slow else 0.5}
    monkeypatch.setattr(operators, "_least_seconds", lambda call: seconds[call().dtype])
    fp32, int8 = peak_products(64)
    assert fp32().shape == int8().shape == (64, 64)
    assert int8().dtype == (torch.float32 if slow else torch.int32)


PRODUCTS: list[int] = []  # the sizes of the products that the peak of `speeds` was read off


@pytest.fixture(scope="module")
def speeds() -> OperatorSpeeds:
    some = ("block", "linear, width to width", "layer norm")

    def products(size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        PRODUCTS.append(size)
        return peak_products(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "peak_products", products)
        patch.setattr(operators, "PEAK_SIZE", 256)
        chosen: Callable[..., list[Part]] = lambda *args: [part for part in parts(*args) if part.name in some]  # noqa: E731
        patch.setattr(operators, "parts", chosen)
        return measure_operators(SMALL, CLIP, PRESETS["int8"], text_rows=8, threads=1, rounds=3)


def test_figures_follow_from_one_another(speeds: OperatorSpeeds) -> None:
    block, linear, norm = speeds.parts
    assert (block.name, block.share) == ("block", 1)
    assert linear.share == pytest.approx(6 * linear.seconds / block.seconds)
    assert linear.gflops == pytest.approx(linear.flops / linear.seconds / 1e9)
    assert linear.of_peak == pytest.approx(linear.gflops / speeds.peak_int8)
    assert norm.gflops is norm.of_peak is None
    assert block.of_peak is not None and block.gflops is not None
    peaks = (speeds.peak_fp32, speeds.peak_int8)  # which is the larger one depends on the processor
    assert block.gflops / max(peaks) <= block.of_peak <= block.gflops / min(peaks)


def test_the_peak_is_counted_at_the_size_that_was_timed(speeds: OperatorSpeeds) -> None:
    assert PRODUCTS == [256]
    assert min(speeds.peak_fp32, speeds.peak_int8) > 0.1  # 512 times as few where products of 2048 are counted as of 256


def test_conditions_are_told(speeds: OperatorSpeeds) -> None:
    assert (speeds.model, speeds.clip, speeds.tokens, speeds.text_rows) == ("nano", "32x32x9", CLIP.tokens, 8)
    assert (speeds.weights, speeds.threads, speeds.rounds) == ("int8", 1, 3)
    assert json.loads(json.dumps(speeds.to_dict(), allow_nan=False))["parts"][0]["name"] == "block"


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("rounds", 0)])
def test_counts_are_checked(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        measure_operators(SMALL, CLIP, PRESETS["int8"], 8, **{name: value})


# ---- command line ----------------------------------------------------------------------------------------------------------------


def test_command_line(run: Run, speeds: OperatorSpeeds, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(operators, "measure_operators", lambda *args: asked.append(args) or speeds)
    ended = run("bench-operators", "--model", "flash", "--size", "256x256", "--frames", "25", "--weights", "int4", "--rounds", "5")
    assert ended.status == 0
    assert asked[0][:6] == (FLASH, ClipSpec(256, 256, 25), PRESETS["int4"], 64, 2, 5)
    assert "linear, width to width" in ended.out
    assert f"{speeds.peak_int8:.0f} in int8" in ended.out
    ended = run("bench-operators", "--json")
    assert json.loads(ended.out) == json.loads(json.dumps(speeds.to_dict()))


@pytest.mark.parametrize(("option", "value", "complaint"), [("--size", "256", "HEIGHTxWIDTH"), ("--model", "flush", "flash")])
def test_what_cannot_be_is_one_sentence(option: str, value: str, complaint: str, run: Run) -> None:
    ended = run("bench-operators", option, value)
    assert ended.status != 0
    assert complaint in ended.err
    assert "Traceback" not in ended.err
