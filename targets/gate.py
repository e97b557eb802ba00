"""The gate against silent fallback: how much of a program's arithmetic its backend took, by operator.

An operator that a backend leaves outside runs on a scalar kernel, on a phone perhaps a hundred times slower, and nothing says so.
Shares are of FLOPs, two for a multiplication and addition, of matrix products and convolutions as torch counts them; what has none
(copies, look-ups, norms) is listed and does not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..core.bundle import Delegation
from ..core.errors import ExportError

CONTENTS = "contents"
LEAST_SHARE = 0.99  # of a method's FLOPs that the backend must take


def flops(program: Any) -> Counter[str]:
    """FLOPs of an exported program by operator, delegates aside."""
    import torch
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten
    convolutions = (aten.convolution, aten.conv1d, aten.conv2d, aten.conv3d)
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        operator = node.target if hasattr(node.target, "overloadpacket") else getattr(node.target, "_op", None)
        packet = getattr(operator, "overloadpacket", None)
        values = [argument.meta.get("val") if hasattr(argument, "meta") else argument for argument in node.args]
        if packet is aten.linear:
            found[_name(node)] += 2 * values[0].numel() * values[1].shape[0]
        elif packet in convolutions:  # by hand: the registry's rule does not know groups
            weight = values[1].shape
            found[_name(node)] += 2 * node.meta["val"].numel() * math.prod(weight[1:])
        elif packet in flop_registry:
            found[_name(node)] += int(flop_registry[packet](*values, out_val=node.meta["val"]))
    return found


def contents(program: Any) -> dict[str, int]:
    """How many operators the graph of a delegate has, and their FLOPs."""
    nodes = program.graph_module.graph.nodes
    operators = sum(node.op == "call_function" and "getitem" not in str(node.target) for node in nodes)
    return {"operators": operators, "flops": sum(flops(program).values())}


def delegation(program: Any) -> Delegation:
    """What of an exported program the backend took in and what stayed outside. A delegate that does not keep its own graph carries
    its `contents` in its `meta`."""
    calls = taken = work = 0
    others: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op != "call_function" or "getitem" in str(node.target):
            continue
        if "executorch_call_delegate" not in str(node.target):
            others[_name(node)] += 1
            continue
        lowered = getattr(program.graph_module, node.args[0].target)
        inside = (lowered.meta or {}).get(CONTENTS) or contents(lowered.original_module)
        calls, taken, work = calls + 1, taken + inside["operators"], work + inside["flops"]
    return Delegation(
        delegate_calls=calls, delegated_ops=taken, other_ops=dict(others), delegated_flops=work, other_flops=dict(flops(program))
    )


def require_delegated(name: str, found: Mapping[str, Delegation]) -> None:
    """Refuses a program of which the backend took too little.

    Raises:
        ExportError: a method's share of FLOPs is below LEAST_SHARE; the message names the operators.
    """
    for method, record in found.items():
        if record.flops_share < LEAST_SHARE:
            worst = sorted(record.other_flops.items(), key=lambda item: -item[1])
            listed = ", ".join(f"{operator} ({amount:.2g} FLOP)" for operator, amount in worst)
            raise ExportError(
                f"{name}.{method}: the backend took {100 * record.flops_share:.1f} % of the FLOPs; {100 * LEAST_SHARE:.0f} % are "
                f"demanded. Outside stayed: {listed}. Rewrite them in a form that it takes (targets/portable.py)."
            )


def _name(node: Any) -> str:
    return str(getattr(node.target, "__name__", node.target))
