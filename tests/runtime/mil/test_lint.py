"""runtime/engines/mil/lint: each rule finds the one operator that breaks it, and a block that is written for the Neural Engine has
no finding; FLOPs and memory against counts written out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function as MilFunction
from coremltools.converters.mil.mil import Program, types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from echoedge.core.errors import EngineError
from echoedge.runtime.engines.mil import Package
from echoedge.runtime.engines.mil.lint import RULES, Finding, lint, load_of
from echoedge.runtime.engines.mil.lint.rules import FIRST_IOS, WEIGHT_BYTES

from .programs import TARGETS, save

HALF, FLOAT, INT = np.float16, np.float32, np.int32
Build = Callable[..., Any]


def package(folder: Path, build: Build, target: int = 17, **inputs: tuple[tuple[int, ...], Any]) -> Package:
    """A saved function of one output; `inputs`: shapes and types by name."""
    named = {HALF: types.fp16, FLOAT: types.fp32, INT: types.int32}
    specs = {name: mb.TensorSpec(shape, dtype=named[dtype]) for name, (shape, dtype) in inputs.items()}
    with MilFunction(specs, TARGETS[target]) as function:
        made = build(**function.inputs)
        made.name = "made"
        function.set_outputs([made])
    program = Program()
    program.add_function("main", function)
    return Package.open(save(program, folder / "one.mlpackage", target))


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(HALF)


def block(x: Any) -> Any:
    """Attention of two heads over 64 tokens and a feed-forward, as (B, C, 1, S), of convolutions of one position."""
    y = mb.layer_norm(x=x, axes=[1], gamma=weight(64), beta=weight(64), epsilon=HALF(1e-4))
    q, k, v = (mb.conv(x=y, weight=weight(64, 64, 1, 1)) for _ in range(3))
    turned = mb.transpose(x=k, perm=[0, 3, 2, 1])
    heads = []
    for start in (0, 32):
        a, c = (mb.slice_by_index(x=each, begin=[0, start, 0, 0], end=[1, start + 32, 1, 64]) for each in (q, v))
        b = mb.slice_by_index(x=turned, begin=[0, 0, 0, start], end=[1, 64, 1, start + 32])
        weights = mb.softmax(x=mb.einsum(values=(b, a), equation="bkhc,bchq->bkhq"), axis=1)
        heads.append(mb.einsum(values=(c, weights), equation="bchk,bkhq->bchq"))
    x = mb.add(x=x, y=mb.conv(x=mb.concat(values=heads, axis=1), weight=weight(64, 64, 1, 1)))
    return mb.add(x=x, y=mb.conv(x=mb.gelu(x=mb.conv(x=x, weight=weight(256, 64, 1, 1))), weight=weight(64, 256, 1, 1)))


CLEAN = {"x": ((1, 64, 1, 64), HALF)}


def rooted(x: Any, epsilon: float) -> Any:
    return mb.rsqrt(x=mb.add(x=x, y=HALF(epsilon)), name="root")


def promoted(x: Any) -> Any:
    """1 + scale, as a literal of Python leaves it."""
    return mb.cast(x=mb.mul(x=mb.cast(x=x, dtype="fp32"), y=FLOAT(1.5), name="scaled"), dtype="fp16")


BROKEN: Mapping[str, tuple[Build, dict[str, Any], str, str]] = {  # rule -> a function, its inputs, the operator, what is said of it
    "rank": (
        lambda x: mb.reshape(x=mb.reshape(x=x, shape=[1, 2, 1, 32, 1, 64]), shape=[1, 64, 1, 64]), CLEAN, "reshape",
        "6 axes, and Core ML takes 5",
    ),
    "five axes": (
        lambda x: mb.reshape(x=mb.reshape(x=x, shape=[1, 2, 32, 1, 64]), shape=[1, 64, 1, 64]), CLEAN, "reshape",
        "5 axes, and the Neural Engine's buffers 4",
    ),
    "long axis": (lambda x: mb.relu(x=x), {"x": ((1, 32, 1, 16416), HALF)}, "relu", "longer than 16384"),
    "last axis": (
        lambda x: mb.relu(x=mb.slice_by_index(x=x, begin=[0] * 4, end=[1, 64, 1, 63])), CLEAN, "relu",
        r"last axis is 63, and rows are filled up to 64 bytes \(8,064 bytes become 8,192\): make it a multiple of 32",
    ),
    "few channels": (lambda x: mb.conv(x=x, weight=weight(3, 64, 1, 1)), CLEAN, "conv", "3 channels, and fewer than 32"),
    "strided slice": (
        lambda x: mb.slice_by_index(x=x, begin=[0] * 4, end=[1, 64, 1, 64], stride=[1, 2, 1, 1]), CLEAN, "slice_by_index",
        r"strides \[1, 2, 1, 1\]",
    ),
    "fused attention": (
        lambda x: mb.scaled_dot_product_attention(query=x, key=x, value=x), {"x": ((1, 2, 64, 32), HALF)},
        "scaled_dot_product_attention", "einsum and softmax",
    ),
    "not half": (lambda x: mb.relu(x=x), {"x": ((1, 64, 1, 64), FLOAT)}, "relu", r"gives fp32 \[1, 64, 1, 64\]"),
    "fp32 literal": (promoted, CLEAN, "mul", r"literal 1\.5 is fp32"),
    "mask": (
        lambda x: mb.add(x=x, y=np.where(np.tri(64), 0, -np.inf).astype(HALF)[None, None]), {"x": ((1, 64, 64, 64), HALF)}, "add",
        "constant -inf",
    ),
    "epsilon": (lambda x: rooted(x, 1e-6), CLEAN, "rsqrt", r"epsilon is 1\.01328e-06, below the least normal fp16, 6\.1e-05"),
}  # fmt: skip


def names(found: list[Finding]) -> set[str]:
    return {each.rule for each in found}


# ---- what is found ---------------------------------------------------------------------------------------------------------------


def test_a_block_that_is_written_for_the_neural_engine_has_no_finding(tmp_path: Path) -> None:
    assert lint(package(tmp_path, block, **CLEAN)) == []


@pytest.mark.parametrize("rule", BROKEN)
def test_a_rule_finds_what_breaks_it(rule: str, tmp_path: Path) -> None:
    build, inputs, operator, words = BROKEN[rule]
    found = lint(package(tmp_path, build, target=18 if rule == "fused attention" else 17, **inputs))
    own = [each for each in found if each.rule == rule]
    assert [each for each in own if each.op_type == operator and each.op_name], found
    assert any(re.search(words, each.sentence) for each in own), own
    assert names(found) <= {rule} | ({"not half"} if rule == "fp32 literal" else set()), found


def test_weights_are_weighed_together(tmp_path: Path) -> None:
    made = package(tmp_path, block, **CLEAN)
    (file,) = [each for each in (made.program.parent / "weights").rglob("*") if each.is_file()]
    os.truncate(file, WEIGHT_BYTES)  # with a hole
    assert lint(made) == []
    os.truncate(file, WEIGHT_BYTES + 1)
    (found,) = lint(made)
    assert (found.rule, found.op_type, found.op_name) == ("weights", "package", "one.mlpackage")
    assert "1.07 GB" in found.sentence


def test_what_an_older_system_does_not_have(tmp_path: Path) -> None:
    build, inputs, _, _ = BROKEN["fused attention"]
    made = package(tmp_path, build, target=18, **inputs)
    assert "too new" not in names(lint(made)) | names(lint(made, ios=19))
    of_function, of_operator = (each for each in lint(made, ios=17) if each.rule == "too new")
    assert of_function.op_type == "package" and "operator set of iOS 18, not iOS 17" in of_function.sentence
    assert of_operator.op_type == "scaled_dot_product_attention" and "before iOS 18" in of_operator.sentence


def test_every_rule_is_broken_by_something_here() -> None:
    assert {rule.name for rule in RULES} == {*BROKEN, "too new", "weights"}
    assert all(rule.looks_at and rule.source for rule in RULES)


def test_operators_came_when_coremltools_says() -> None:
    first = {name: min(versions, key=lambda target: target.value).value + 9 for name, versions in SSAOpRegistry.core_ops.items()}
    late = {name: ios for name, ios in first.items() if ios > 15 and name not in ("affine", "resample")}
    assert late | {"write_state": late["read_state"]} == FIRST_IOS


# ---- what is let pass ------------------------------------------------------------------------------------------------------------


def test_half_of_what_breaks_a_rule_does_not(tmp_path: Path) -> None:
    """The same operators, on the right side of each threshold."""
    fine: dict[str, tuple[Build, dict[str, Any]]] = {
        "long": (lambda x: mb.relu(x=x), {"x": ((1, 32, 1, 16384), HALF)}),
        "mask": (
            lambda x: mb.add(x=x, y=np.where(np.tri(64), 0, -30000).astype(HALF)[None, None]), {"x": ((1, 64, 64, 64), HALF)},
        ),
        "epsilon": (lambda x: rooted(x, 1e-4), CLEAN),
        "slice": (lambda x: mb.slice_by_index(x=x, begin=[0, 32, 0, 0], end=[1, 64, 1, 64], stride=[1, 1, 1, 1]), CLEAN),
        "literal": (lambda x: mb.mul(x=x, y=HALF(1.5)), CLEAN),
        "scalar": (lambda x: mb.reduce_sum(x=x, axes=[0, 1, 2, 3], keep_dims=False), CLEAN),
        "cast": (lambda x: mb.relu(x=mb.cast(x=x, dtype="fp16")), {"x": ((1, 64, 1, 64), FLOAT)}),
    }  # fmt: skip
    for name, (build, inputs) in fine.items():
        (tmp_path / name).mkdir()
        assert lint(package(tmp_path / name, build, **inputs)) == [], name


@pytest.mark.parametrize(("given", "found"), [({}, 1e-5), ({"epsilon": HALF(1e-6)}, 1.01e-6), ({"epsilon": HALF(1e-4)}, None)])
def test_epsilons_that_are_left_out_are_those_of_the_operator(given: dict[str, Any], found: float | None, tmp_path: Path) -> None:
    made = lint(package(tmp_path, lambda x: mb.layer_norm(x=x, axes=[1], gamma=weight(64), beta=weight(64), **given), **CLEAN))
    assert [each.rule for each in made] == (["epsilon"] if found else [])
    assert all(abs(float(each.sentence.split()[3].rstrip(",")) / found - 1) < 0.01 for each in made if found)


def test_a_last_axis_of_one_is_named(tmp_path: Path) -> None:
    found = lint(package(tmp_path, lambda x: mb.reduce_mean(x=x, axes=[3], keep_dims=True), **CLEAN))
    assert [(each.rule, each.op_type) for each in found] == [("last axis", "reduce_mean")]
    assert "(128 bytes become 4,096): move it to the front." in found[0].sentence


def test_an_input_is_named_as_one(tmp_path: Path) -> None:
    found = lint(package(tmp_path, lambda tokens: mb.relu(x=tokens), tokens=((1, 64, 1, 65), HALF)))
    assert [(each.op_type, each.op_name) for each in found] == [("input", "tokens"), ("relu", "made")]


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"has no function 'step'\. It has: main\."):
        lint(package(tmp_path, block, **CLEAN), "step")


# ---- load ------------------------------------------------------------------------------------------------------------------------


def test_flops_and_memory_of_the_block(tmp_path: Path) -> None:
    found = load_of(package(tmp_path, block, **CLEAN))
    assert found.flops == {
        "conv": 2 * 64 * (4 * 64 * 64 + 2 * 64 * 256),  # q, k, v and o; the feed-forward
        "einsum": 2 * 2 * 2 * 64 * 64 * 32,  # two heads, two products
    }
    assert found.gflop == sum(found.flops.values()) / 1e9
    channel = 2 * 64  # bytes
    assert found.peak_bytes == channel * (64 + 64 + 256 + 256)  # the input, which is kept, the residual, and GELU's two sides
    assert found.peak_at.startswith("gelu")


@pytest.mark.parametrize(
    ("build", "inputs", "flops"),
    [
        (lambda x: mb.linear(x=x, weight=weight(96, 64)), {"x": ((2, 5, 64), HALF)}, {"linear": 2 * 2 * 5 * 64 * 96}),
        (
            lambda x, y: mb.matmul(x=x, y=y, transpose_x=True), {"x": ((3, 7, 5), HALF), "y": ((3, 7, 4), HALF)},
            {"matmul": 2 * 3 * 5 * 7 * 4},
        ),
        (
            lambda x: mb.conv(x=x, weight=weight(6, 2, 3, 3), groups=2, pad_type="same"), {"x": ((1, 4, 8, 8), HALF)},
            {"conv": 2 * 6 * 64 * 2 * 9},
        ),
        (
            lambda x: mb.conv_transpose(x=x, weight=weight(4, 6, 2, 2), strides=[2, 2]), {"x": ((1, 4, 8, 8), HALF)},
            {"conv_transpose": 2 * 4 * 64 * 6 * 4},
        ),
        (
            lambda x, y: mb.scaled_dot_product_attention(query=x, key=y, value=y),
            {"x": ((1, 2, 5, 8), HALF), "y": ((1, 2, 7, 8), HALF)}, {"scaled_dot_product_attention": 2 * 2 * 5 * 7 * (8 + 8)},
        ),
        (lambda x: mb.relu(x=x), {"x": ((1, 4, 8, 8), HALF)}, {}),
    ],
)  # fmt: skip
def test_flops_of_products(build: Build, inputs: dict[str, Any], flops: dict[str, int], tmp_path: Path) -> None:
    assert load_of(package(tmp_path, build, target=18, **inputs)).flops == flops
