"""The gate against silent fallback: how much of a method its backend took, in arithmetic and in time.

An operator that a backend leaves outside runs on a scalar kernel, on a phone perhaps a hundred times slower, and nothing says so.
Two budgets hold for each method, of the program as ExecuTorch writes it:

1. arithmetic   FLOPs of matrix products and convolutions, two for a multiplication and addition, as torch counts them
2. time         of what stays outside (`outside.py`), and of tensors that leave the backend and come back: a softmax has no FLOPs
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.bundle import Placement
from ...core.errors import ExportError
from ...core.files import human_bytes
from .outside import arguments_of, kernel_seconds, operator_of, tensor_bytes

CONTENTS = "contents"
LEAST_SHARE = 0.99  # of a method's FLOPs that the backend must take

# Of a method's time, what may be spent outside. Measured on a server (Zen 4): programs of one delegate 0 to 0.8 %; stamped programs
# of flash, two blocks at full width, 256x256x25, carried to thirty: a denoise step 0.5 %, the condition encoding, which gathers
# every block's keys and values, 4 %. nano's text encoder, 40 % of a tenth of a millisecond, is below FREE_SECONDS.
MOST_OUTSIDE = 0.10
FREE_SECONDS = 1e-3  # outside, of one call, are not worth a rewrite whatever their share is
DELEGATE_FLOPS_PER_SECOND = 100e9  # float32 in XNNPACK on those two cores: 85 to 105 a core; quantised layers are faster
BORDER_BYTES_PER_SECOND = 5e9  # to write a tensor to memory and to read it again, on one core


# ---- 1. Arithmetic --------------------------------------------------------------------------------------------------------------


def flops(program: Any) -> Counter[str]:
    """FLOPs of an exported program by operator, delegates aside."""
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function":
            found[_name(node)] += _flops_of(node)
    return +found


def _flops_of(node: Any) -> int:
    """By torch's own rules; what torch has none for and takes apart itself (linear, conv2d) is counted in its parts."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    operator = operator_of(node)
    if operator is None:
        return 0
    values = torch.fx.map_arg(arguments_of(node), lambda given: given.meta.get("val"))
    arguments, keywords = values
    if operator.overloadpacket in flop_registry:
        return int(flop_registry[operator.overloadpacket](*arguments, **keywords, out_val=node.meta["val"]))
    if not operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return 0

    def blank(value: Any) -> Any:
        return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, torch.Tensor) else value

    arguments, keywords = torch.utils._pytree.tree_map(blank, values)
    with FlopCounterMode(display=False) as counter:
        operator(*arguments, **keywords)
    return int(counter.get_total_flops())


def contents(program: Any) -> dict[str, int]:
    """How many operators the graph of a delegate has, and their FLOPs."""
    nodes = program.graph_module.graph.nodes
    operators = sum(node.op == "call_function" and "getitem" not in str(node.target) for node in nodes)
    return {"operators": operators, "flops": sum(flops(program).values())}


# ---- 2. What a backend took -----------------------------------------------------------------------------------------------------


def placement(program: Any) -> Placement:
    """What of a method the backend took in and what stayed outside, of a program as `to_executorch` leaves it. A delegate that does
    not keep its own graph carries its `contents` in its `meta`."""
    calls = taken = work = 0
    others: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    for node in program.graph.nodes:
        if _is_delegate(node):
            lowered = getattr(program.graph_module, node.args[0].target)
            inside = (lowered.meta or {}).get(CONTENTS) or contents(lowered.original_module)
            calls, taken, work = calls + 1, taken + inside["operators"], work + inside["flops"]
        elif _is_kernel(node):
            name = _name(node)
            others[name] += 1
            seconds[name] = seconds.get(name, 0.0) + kernel_seconds(node, _flops_of(node))
    return Placement(
        delegate_calls=calls, delegated_ops=taken, other_ops=dict(others), delegated_flops=work, other_flops=dict(flops(program)),
        other_seconds=seconds, border_bytes=sum(_crossings(program)),
    )  # fmt: skip


def _crossings(program: Any) -> Iterator[int]:
    """Bytes of each tensor that leaves a delegate for something else in the method, and of each that enters one from there. The
    method's own inputs, outputs and weights cross no border that a better program would not have."""
    left = set()
    for node in program.graph.nodes:
        if not (_is_delegate(node) or _is_kernel(node)):
            continue
        for source in dict.fromkeys(_source(given) for given in node.all_input_nodes):
            maker = source.args[0] if _is_getitem(source) else source
            if _is_delegate(maker) and source not in left:
                left.add(source)
                yield tensor_bytes(source)
            if _is_delegate(node) and (_is_delegate(maker) or _is_kernel(maker)):
                yield tensor_bytes(source)


def _source(node: Any) -> Any:
    """Whose memory a node names: that of a delegate's result, of an operator's, or of an input."""
    while "memory.view" in _target(node):
        node = node.args[0]
    return node


def _target(node: Any) -> str:
    if node.op != "call_function":
        return ""
    module = getattr(node.target, "__module__", "")
    return f"{module}.{getattr(node.target, '__name__', '')}" if callable(node.target) else str(node.target)


def _is_getitem(node: Any) -> bool:
    return bool(_target(node).endswith("operator.getitem"))


def _is_delegate(node: Any) -> bool:
    return "executorch_call_delegate" in _target(node)


def _is_kernel(node: Any) -> bool:
    """Whether something is computed here: places in memory and views of them are not."""
    return bool(node.op == "call_function" and operator_of(node) is not None and not _is_delegate(node))


def _name(node: Any) -> str:
    operator = operator_of(node)
    return str(operator if operator is not None else getattr(node.target, "__name__", node.target))


# ---- 3. Budgets -----------------------------------------------------------------------------------------------------------------


def outside_seconds(record: Placement) -> float:
    """What one call of a method spends outside its backend: operators, and tensors that leave and come back."""
    return sum(record.other_seconds.values()) + record.border_bytes / BORDER_BYTES_PER_SECOND


def outside_share(record: Placement) -> float:
    """Of a method's time, what is spent outside; inside, FLOPs at the stated rate."""
    outside = outside_seconds(record)
    return outside / (outside + record.delegated_flops / DELEGATE_FLOPS_PER_SECOND) if outside else 0.0


def require_delegated(name: str, found: Mapping[str, Placement]) -> None:
    """Refuses a program of which the backend took too little.

    Raises:
        ExportError: a method's share of FLOPs is below LEAST_SHARE, or its time outside above FREE_SECONDS and MOST_OUTSIDE; the
            message names the operators.
    """
    for method, record in found.items():
        remedy = "Rewrite them in a form that it takes (targets/rewrites)."
        if record.flops_share < LEAST_SHARE:
            worst = sorted(record.other_flops.items(), key=lambda item: -item[1])
            listed = ", ".join(f"{operator} ({amount:.2g} FLOP)" for operator, amount in worst)
            raise ExportError(
                f"{name}.{method}: the backend took {100 * record.flops_share:.1f} % of the FLOPs; {100 * LEAST_SHARE:.0f} % are "
                f"demanded. Outside stayed: {listed}. {remedy}"
            )
        outside, share = outside_seconds(record), outside_share(record)
        if outside > FREE_SECONDS and share > MOST_OUTSIDE:
            slowest = sorted(record.other_seconds.items(), key=lambda item: -item[1])
            listed = ", ".join(f"{operator} ×{record.other_ops[operator]} ({1000 * spent:.1f} ms)" for operator, spent in slowest)
            raise ExportError(
                f"{name}.{method}: {1000 * outside:.1f} ms of a call, {100 * share:.0f} % of it, are spent outside the backend; "
                f"{100 * MOST_OUTSIDE:.0f} % are allowed. Outside stayed: {listed or 'no operator'}; "
                f"{human_bytes(record.border_bytes)} cross the border. {remedy}"
            )
