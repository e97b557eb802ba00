"""How some of torch's operators become Core ML's, where the library's way does not keep half precision or the operator's form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .names import LARGEST

SCALED = ("add", "sub", "rsub", "mul", "pow", "clamp", "clamp_min", "clamp_max", "maximum", "minimum")
Way = Callable[[Any, Any], None]  # of a node to operators, as the library's registry has them


@contextmanager
def our_operators() -> Iterator[None]:
    """Within it the library converts these operators our way."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    known: dict[str, Way] = _TORCH_OPS_REGISTRY.name_to_func_mapping
    before = dict(known)
    known.update({name: _in_half(before[name]) for name in SCALED})
    known.update(
        {
            "constant_pad_nd": _pad, "pad": _pad, "div": _in_half(_divide), "gelu": _gelu, "layer_norm": _layer_norm,
            "new_ones": _filled(1.0), "new_zeros": _filled(0.0),
        }
    )  # fmt: skip
    try:
        yield
    finally:
        known.clear()
        known.update(before)


def _given(context: Any, node: Any) -> list[Any]:
    """The inputs of a node: variables, and numbers as they are."""
    return [context[value] if isinstance(value, str) else value for value in node.inputs]


def _is_half(value: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(getattr(value, "dtype", None) == types.fp16)


def _in_half(convert: Way) -> Way:
    """Numbers beside a tensor of half precision are of half precision too: the library makes them float32, and the tensor along
    with them."""
    from coremltools.converters.mil import Builder as mb

    def ours(context: Any, node: Any) -> None:
        if any(_is_half(value) for value in _given(context, node)):
            named: list[Any] = []
            for place, value in enumerate(node.inputs):
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    name = f"{node.name}_number_{place}"
                    context.add(mb.const(val=half(value), name=name))
                    value = name
                named.append(value)
            node.inputs = tuple(named)
        convert(context, node)

    return ours


def half(value: float) -> np.float16:
    return np.float16(value if abs(value) <= float(np.finfo(np.float16).max) else math.copysign(LARGEST, value))


def _layer_norm(context: Any, node: Any) -> None:
    """The library gives an epsilon of float32 to norms of half precision, and refuses them then."""
    from coremltools.converters.mil import Builder as mb

    x, shape, *rest = _given(context, node)
    weight, bias, epsilon = (*rest, *(None, None, 1e-5)[len(rest) :])[:3]
    axes: Sequence[int] = list(range(-len(shape), 0))
    number = half(epsilon) if _is_half(x) else np.float32(epsilon)
    context.add(mb.layer_norm(x=x, axes=axes, gamma=weight, beta=bias, epsilon=number, name=node.name))


def _gelu(context: Any, node: Any) -> None:
    """The library reads the form from positions, where torch.export names it: the tanh form becomes the exact one."""
    from coremltools.converters.mil import Builder as mb

    (x,) = _given(context, node)[:1]
    named = (node.kwinputs or {}).get("approximate", "none")
    form = named[0] if isinstance(named, (tuple, list)) else named
    context.add(mb.gelu(x=x, mode={"tanh": "TANH_APPROXIMATION", "none": "EXACT"}[form], name=node.name))


def _filled(number: float) -> Way:
    """The library makes new tensors of float32, and what they are joined with along with them."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    def ours(context: Any, node: Any) -> None:
        like, shape = _given(context, node)[:2]
        kind = types.nptype_from_builtin(like.dtype)
        context.add(mb.const(val=np.full(tuple(shape), number, kind), name=node.name))

    return ours


def _pad(context: Any, node: Any) -> None:
    """The library pads with a number of float32, which makes the tensor one of float32."""
    from coremltools.converters.mil import Builder as mb

    x, ends, *_ = _given(context, node)
    pairs = [(0, 0)] * (x.rank - len(ends) // 2) + [(ends[i], ends[i + 1]) for i in range(len(ends) - 2, -1, -2)]
    pad = np.array(pairs, np.int32).reshape(-1)
    number = half(0.0) if _is_half(x) else np.float32(0.0)
    context.add(mb.pad(x=x, pad=pad, mode="constant", constant_val=number, name=node.name))


def _divide(context: Any, node: Any) -> None:
    """The library divides in float32."""
    from coremltools.converters.mil import Builder as mb

    x, y = _given(context, node)
    context.add(mb.real_div(x=x, y=y, name=node.name))
