"""What a function computes and holds, counted from the shapes that its file declares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..package import Package
from ..program import Step
from .view import Value, View


@dataclass(frozen=True)
class Load:
    """`flops`: of products, by operator, multiplications and additions. `peak_bytes`: of inputs and results that are held at once,
    without weights, if nothing is computed in place; `peak_at`: the operator that runs then. Free sizes count as 1."""

    flops: Mapping[str, int]
    peak_bytes: int
    peak_at: str

    @property
    def gflop(self) -> float:
        return sum(self.flops.values()) / 1e9


def load_of(package: Package, function: str | None = None) -> Load:
    """Of a function, the default one where none is named.

    Raises:
        EngineError: there is none of that name, or it has an operator that is not known.
        BundleError: the package is damaged.
    """
    view = View.of(package, function, None)
    flops: Counter[str] = Counter()
    held = {value.name: value.bytes for value in view.values() if value.step is None}
    peak, at = sum(held.values()), "the inputs"
    for step in view.computed():
        count = _flops(view, step)
        if count:
            flops[step.type] += count
        held.update((value.name, value.bytes) for value in view.made_by(step))
        if sum(held.values()) > peak:
            peak, at = sum(held.values()), f"{step.type} {step.name}"
        for name in step.frees:
            held.pop(name, None)
    return Load(dict(flops), peak, at)


def _flops(view: View, step: Step) -> int:
    made = next(view.made_by(step), None)
    if made is None:
        return 0
    if step.type == "linear":
        return 2 * math.prod(made.sizes) * math.prod(view.shape_of(step, "weight")[-1:])
    if step.type == "matmul":
        shape = view.shape_of(step, "x")
        turned = len(shape) > 1 and view.given(step, "transpose_x", False)
        return 2 * math.prod(made.sizes) * (shape[-2] if turned else shape[-1])
    if step.type in ("conv", "conv_transpose"):
        _, each, *window = view.shape_of(step, "weight")  # [out, in / groups, ...], of conv_transpose [in, out / groups, ...]
        positions = made.sizes if step.type == "conv" else view.shape_of(step, "x")
        return 2 * math.prod(positions) * each * math.prod(window)
    if step.type == "einsum":
        return 2 * math.prod(_sizes_of(view, step, made).values())
    if step.type == "scaled_dot_product_attention":
        query, key = view.shape_of(step, "query"), view.shape_of(step, "key")
        return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + made.sizes[-1])
    return 0


def _sizes_of(view: View, step: Step, made: Value) -> dict[str, int]:
    """Of each letter of an equation."""
    letters = str(view.given(step, "equation")).replace(" ", "").split("->")
    names = [ref.name for ref in step.given["values"]]
    kinds = [view.types[name] for name in names if name is not None]
    sizes: dict[str, int] = dict(zip(letters[1], made.sizes, strict=False)) if len(letters) > 1 else {}
    for term, kind in zip(letters[0].split(","), kinds, strict=False):
        sizes.update(zip(term, Value("", kind, None).sizes, strict=False))
    return sizes
