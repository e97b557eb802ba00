"""What stands in a .pte, read from the file itself."""

from __future__ import annotations

from pathlib import Path


def operators_of(path: Path) -> dict[str, tuple[int, list[str]]]:
    """By method: how many delegate calls it makes, and the operators that it calls beside them, in order."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    found = {}
    for plan in deserialize_pte_binary(path.read_bytes()).program.execution_plan:
        calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
        kernels = [plan.operators[call.op_index] for call in calls if hasattr(call, "op_index")]
        delegates = sum(hasattr(call, "delegate_index") for call in calls)
        found[plan.name] = (delegates, [f"{kernel.name}.{kernel.overload}" for kernel in kernels])
    return found
