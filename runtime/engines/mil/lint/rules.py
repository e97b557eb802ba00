"""What is looked for in a function, and where each rule comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..package import Package
from ..program import Step
from .view import IOS_OF_OPSET, Value, View

MOST_RANK = 5  # of a tensor of Core ML
AXES = 4  # of a buffer of the Neural Engine
MOST_AXIS = 16384
ROW_BYTES = 64  # that a row, the last axis, is filled up to
CHANNELS = 32
LEAST_NORMAL = 2.0**-14  # of float16, 6.1e-5
HALF_MOST = 65504.0
WEIGHT_BYTES = 1 << 30

# Operators that came after iOS 15's, as coremltools registers them; states are written since they are read.
FIRST_IOS = {
    "constexpr_affine_dequantize": 16, "constexpr_cast": 16, "constexpr_lut_to_dense": 16, "constexpr_sparse_to_dense": 16,
    "fill_like": 16, "pixel_unshuffle": 16, "reshape_like": 16, "dequantize": 17, "quantize": 17, "resize": 17,
    "constexpr_blockwise_shift_scale": 18, "constexpr_lut_to_sparse": 18, "constexpr_sparse_blockwise_shift_scale": 18,
    "read_state": 18, "write_state": 18, "scaled_dot_product_attention": 18, "slice_update": 18,
}  # fmt: skip
EPSILONS = {"layer_norm": 1e-5, "instance_norm": 1e-5, "batch_norm": 1e-5, "l2_norm": 1e-6, "rsqrt": 1e-12}  # where left out
ELEMENTWISE = ("add", "sub", "mul", "real_div", "maximum", "minimum", "pow")
WITH_MASKS = (*ELEMENTWISE, "select", "pad", "fill", "scaled_dot_product_attention")

Found = Iterator[tuple[Step | Value | None, str]]  # where (None: the package), and what is to be said of it


@dataclass(frozen=True)
class Finding:
    """`op_type`, `op_name`: of the operator; of an input "input" and its name; of the package "package" and its file's name."""

    rule: str
    op_type: str
    op_name: str
    sentence: str


@dataclass(frozen=True)
class Rule:
    """`heuristic`: the threshold is a rule of thumb, and no documented limit."""

    name: str
    looks_at: str
    source: str
    heuristic: bool
    find: Callable[[View], Found]


def lint(package: Package, function: str | None = None, ios: int | None = None) -> list[Finding]:
    """What `RULES` find in a function, the default one where none is named. `ios`: the version that it is to run on; by default the
    one that the file is written for.

    Raises:
        EngineError: there is none of that name, or it has an operator that is not known.
        BundleError: the package is damaged.
    """
    view = View.of(package, function, ios)
    return [_finding(view, rule, where, sentence) for rule in RULES for where, sentence in rule.find(view)]


def _finding(view: View, rule: Rule, where: Step | Value | None, sentence: str) -> Finding:
    if where is None:
        return Finding(rule.name, "package", view.package.path.name, sentence)
    step = where.step if isinstance(where, Value) else where
    return Finding(rule.name, "input" if step is None else step.type, where.name, sentence)


# ---- shapes ---------------------------------------------------------------------------------------------------------------------


def _rank(view: View) -> Found:
    for value in view.values():
        if len(value.sizes) > MOST_RANK:
            yield value, f"It has {len(value.sizes)} axes, and Core ML takes {MOST_RANK}: join some of them."


def _five_axes(view: View) -> Found:
    for value in view.values():
        if len(value.sizes) == MOST_RANK:
            yield value, f"It has {MOST_RANK} axes, and the Neural Engine's buffers {AXES}: join two, or split the batch."


def _long_axis(view: View) -> Found:
    for value in view.values():
        if max(value.sizes, default=0) > MOST_AXIS:
            yield value, f"An axis of {value.kind} is longer than {MOST_AXIS}: cut it into pieces."


def _last_axis(view: View) -> Found:
    for value in view.values():
        bits, sizes = value.kind.kind.bits, value.sizes
        if math.prod(sizes) <= 1 or bits < 8:
            continue
        row = sizes[-1] * bits // 8
        filled = -(-row // ROW_BYTES) * ROW_BYTES
        if filled != row:
            told = f"{value.bytes:,} bytes become {value.bytes // row * filled:,}"
            remedy = "move it to the front" if sizes[-1] == 1 else f"make it a multiple of {ROW_BYTES * 8 // bits}"
            yield value, f"The last axis is {sizes[-1]}, and rows are filled up to {ROW_BYTES} bytes ({told}): {remedy}."


def _few_channels(view: View) -> Found:
    for step in view.computed():
        if step.type in ("conv", "conv_transpose"):
            shapes = view.shape_of(step, "x"), *(value.sizes for value in view.made_by(step))
            few = min((sizes[1] for sizes in shapes if len(sizes) > 1), default=CHANNELS)
            if few < CHANNELS:
                yield step, f"It has {few} channels, and fewer than {CHANNELS} leave multipliers idle: fold space into them."


# ---- operators ------------------------------------------------------------------------------------------------------------------


def _strided(view: View) -> Found:
    for step in view.computed():
        strides = view.given(step, "stride", []) if step.type == "slice_by_index" else []
        if any(stride != 1 for stride in strides):
            yield step, f"It slices with strides {strides}: order the channels so that a slice is one stretch."


def _attention(view: View) -> Found:
    for step in view.computed():
        if step.type == "scaled_dot_product_attention":
            yield step, "Fused attention may stay on the GPU or the processor: write it out head by head, as einsum and softmax."


def _too_new(view: View) -> Found:
    opset = view.steps.opset + IOS_OF_OPSET
    if opset > view.ios:
        yield None, f"Function {view.steps.name!r} is for the operator set of iOS {opset}, not iOS {view.ios}: convert it for that."
    for step in view.steps.steps:
        if FIRST_IOS.get(step.type, 0) > view.ios:
            yield (
                step,
                f"There is no {step.type} before iOS {FIRST_IOS[step.type]}, and this is for iOS {view.ios}: take another form.",
            )


# ---- numbers --------------------------------------------------------------------------------------------------------------------


def _not_half(view: View) -> Found:
    for step in view.computed():
        for value in view.made_by(step):
            if value.kind.kind.name in ("fp32", "int32") and step.type != "cast":
                yield step, f"It gives {value.kind}, and the Neural Engine computes in fp16: convert with fp16 precision."
                break


def _literal(view: View) -> Found:
    for step in view.computed():
        if step.type not in ELEMENTWISE or not any(value.kind.kind.name == "fp32" for value in view.made_by(step)):
            continue
        refs = [ref for name in ("x", "y") for ref in step.given.get(name, ())]
        numbers = [found for found in map(view.constant, refs) if isinstance(found, Tensor) and found.numel() == 1]
        raised = [maker for ref in refs if (maker := view.makers.get(ref.name or "")) is not None and _raises(view, maker)]
        if numbers and raised:
            yield step, f"The literal {numbers[0].item():g} is fp32 and takes fp16 values with it: give it as an fp16 tensor."


def _raises(view: View, step: Step) -> bool:
    kind = view.type_of(step, "x")
    return step.type == "cast" and kind is not None and kind.kind.name == "fp16"


def _mask(view: View) -> Found:
    for step in view.computed():
        if step.type not in WITH_MASKS:
            continue
        for refs in step.given.values():
            for found in map(view.constant, refs):
                if isinstance(found, Tensor) and found.is_floating_point() and found.numel() and _beyond(found):
                    yield step, f"It has the constant {_largest(found):g}, which overflows fp16 and can turn into NaN: take -30000."


def _beyond(found: Tensor) -> bool:
    return bool((found.float().abs() > HALF_MOST).any())


def _largest(found: Tensor) -> float:
    flat = found.float().reshape(-1)
    return float(flat[flat.abs().argmax()])


def _epsilon(view: View) -> Found:
    for step in view.computed():
        made = next(view.made_by(step), None)
        if made is None or made.kind.kind.name != "fp16" or step.type not in (*EPSILONS, "sqrt"):
            continue
        added = _added(view, step) if step.type in ("rsqrt", "sqrt") else None
        epsilon = added if added is not None else view.given(step, "epsilon", EPSILONS.get(step.type))
        if epsilon is not None and 0 < epsilon < LEAST_NORMAL:
            yield step, f"Its epsilon is {epsilon:g}, below the least normal fp16, {LEAST_NORMAL:.2g}: it may count as 0. Raise it."


def _added(view: View, step: Step) -> float | None:
    """The number that was added to what a root is taken of."""
    maker = view.makers.get(step.given["x"][0].name or "")
    if maker is None or maker.type != "add":
        return None
    numbers = [view.constant(ref) for name in ("x", "y") for ref in maker.given[name]]
    return next((float(found.item()) for found in numbers if isinstance(found, Tensor) and found.numel() == 1), None)


# ---- the package ----------------------------------------------------------------------------------------------------------------


def _weights(view: View) -> Found:
    size = view.package.weight_bytes
    if size > WEIGHT_BYTES:
        yield None, f"Its weights take {size / 1e9:.2f} GB: split the model into packages of less than {WEIGHT_BYTES / 1e9:.2f} GB."


APPLE = "Apple, Deploying Transformers on the Apple Neural Engine, 2022"
RULES = (
    Rule("rank", "axes of every value", "coremltools' converter, which refuses more", False, _rank),
    Rule("five axes", "axes of every value", f"{APPLE}: tensors of four axes, (B, C, 1, S)", True, _five_axes),
    Rule("long axis", "sizes of every value", "ONNX Runtime's Core ML provider, which takes none longer", True, _long_axis),
    Rule("last axis", "bytes of every value's last axis", f"{APPLE}: the last axis is not packed, and aligned to 64 bytes", False,
         _last_axis),
    Rule("few channels", "channels of convolutions", f"a rule of thumb, after {APPLE}: channels lie in the second axis", True,
         _few_channels),
    Rule("strided slice", "strides of slice_by_index", f"a rule of thumb, after {APPLE}: few copies and reshapes", True, _strided),
    Rule("fused attention", "scaled_dot_product_attention", f"a rule of thumb, after {APPLE}: head by head", True, _attention),
    Rule("too new", "operators and operator set", "the registry of operators of coremltools", False, _too_new),
    Rule("not half", "types of results", "coremltools' guide on typed execution: the Neural Engine computes in float16", False,
         _not_half),
    Rule("fp32 literal", "one-element constants of elementwise operators", "coremltools' rule that operands have one type", False,
         _literal),
    Rule("mask", "constants of elementwise operators", "float16's range", False, _mask),
    Rule("epsilon", "epsilons of norms and roots", "float16's least normal number", False, _epsilon),
    Rule("weights", "files of weights", "ml-stable-diffusion, which cuts models into chunks of less for phones", True, _weights),
)  # fmt: skip
