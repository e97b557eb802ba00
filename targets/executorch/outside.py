"""How long an operator takes that a backend left outside: it is compiled alone, with its shapes, and run on ExecuTorch's kernels.

Where that cannot be done (the runtime here lacks the kernel, or the tensors are huge) and where it would not be worth it (few
elements), the time is estimated with constants that `tests/benchmarks/test_outside.py` measures.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from typing import Any

from .retraces import quick

CALL_SECONDS = 5e-6  # to call a kernel from here; measured: 4 to 6 µs
ELEMENT_SECONDS = 7e-9  # measured: softmax 6.5, exp 5.7, permute 4.5, GELU 4.1, where 1.9, layer norm 0.9, add and copies 0.3 ns
FLOPS_PER_SECOND = 0.5e9  # measured: convolutions 0.45e9 to 0.6e9; matrix products are two hundred times as fast
WORTH_TIMING = 1 << 13  # elements: fewer take less than 0.1 ms whatever they are
MOST_BYTES = 1 << 28  # of an operator's tensors that timing may fill
RUNS, ENOUGH_SECONDS = 5, 0.5
PLACES = ("embedding", "index", "gather", "scatter", "select")  # in names of operators that take places in a table
LOOKUPS = ("slice_copy", "select_copy", "embedding", "index", "index_select", "gather")  # they read what they return and no more


def kernel_seconds(node: Any, flops: int = 0) -> float:
    """CPU seconds of one call of the operator of a graph's node, which has `flops`."""
    alone = Alone(node)
    given, made = (sum(value.numel() for value in tensors) for tensors in (alone.tensors.values(), alone.results))
    elements = made if alone.operator.overloadpacket.__name__ in LOOKUPS else max(given, made)
    nbytes = sum(value.nbytes for value in (*alone.tensors.values(), *alone.results))
    measured = _measured(alone) if elements + flops >= WORTH_TIMING and nbytes <= MOST_BYTES else None
    return estimated_seconds(elements, flops) if measured is None else measured


def estimated_seconds(elements: int, flops: int = 0) -> float:
    """What an operator on so many elements would take on a scalar kernel."""
    return CALL_SECONDS + elements * ELEMENT_SECONDS + flops / FLOPS_PER_SECOND


def tensor_bytes(node: Any) -> int:
    """Of the tensors that a node makes."""
    return sum(value.nbytes for value in _tensors(node))


def _tensors(node: Any) -> list[Any]:
    import torch

    return [value for value in torch.utils._pytree.tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]


def _raw_operator(node: Any) -> Any:
    return node.target if hasattr(node.target, "overloadpacket") else getattr(node.target, "_op", None)


def operator_of(node: Any) -> Any:
    """The ATen operator of a node, of whatever dialect, as the one that makes its result; None: the node has none."""
    operator = _raw_operator(node)
    return functional(operator) if hasattr(operator, "overloadpacket") else None


def arguments_of(node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments without the places for its results."""
    places = {argument.name for argument in _raw_operator(node)._schema.arguments if argument.is_out}
    return node.args, {name: value for name, value in node.kwargs.items() if name not in places}


@cache
def functional(operator: Any) -> Any:
    """The operator that makes the result which this one writes into a place it is given (`add.out` -> `add.Tensor`)."""
    schema = operator._schema
    if not any(argument.is_out for argument in schema.arguments):
        return operator
    wanted = {(argument.name, str(argument.type)) for argument in schema.arguments if not argument.is_out}
    for name in operator.overloadpacket.overloads():
        other = getattr(operator.overloadpacket, name)
        given = other._schema.arguments
        more = [argument for argument in given if (argument.name, str(argument.type)) not in wanted]
        if len(given) - len(more) == len(wanted) and all(argument.has_default_value() and not argument.is_out for argument in more):
            return other
    return operator


class Alone:
    """A node's operator as a program of its own. Equal where operator and shapes are: where a slice begins changes nothing."""

    def __init__(self, node: Any) -> None:
        import torch

        operator = operator_of(node)
        assert operator is not None
        self.operator, self.arguments = operator, arguments_of(node)
        self.tensors: dict[Any, Any] = {}
        torch.fx.map_arg(self.arguments, lambda given: self.tensors.setdefault(given, given.meta["val"]))
        self.results = _tensors(node)
        self.key = (self.operator, tuple((tuple(value.shape), value.dtype) for value in (*self.tensors.values(), *self.results)))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alone) and self.key == other.key

    @quick()
    def compiled(self) -> Callable[[], object]:
        """The operator on ExecuTorch's own kernels, on drawn inputs. Raises what the compiler or the runtime raises."""
        import torch
        from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
        from executorch.exir.passes import MemoryPlanningPass

        from .program_file import runtime

        inputs = self.inputs()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(self.module(), inputs, strict=False)
            edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True))
            made = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False)))
            buffer = made.buffer
            loaded = runtime()._load_for_executorch_from_buffer(buffer)

        def run() -> object:
            assert buffer  # which the loaded program reads from and does not hold
            return loaded.run_method("forward", inputs, clone_outputs=False)

        return run

    def module(self) -> Any:
        import torch

        operator, arguments, positions = self.operator, self.arguments, {node: i for i, node in enumerate(self.tensors)}

        class Alone(torch.nn.Module):
            def forward(self, *inputs: Any) -> Any:
                args, keywords = torch.fx.map_arg(arguments, lambda given: inputs[positions[given]])
                return operator(*args, **keywords)

        return Alone()

    def inputs(self) -> tuple[Any, ...]:
        """Numbers between 0 and 1. Whole ones are 1, which anything can be divided by, or 0 where they are places in a table."""
        import torch

        generator = torch.Generator().manual_seed(0)
        whole = 0 if any(word in self.operator.overloadpacket.__name__ for word in PLACES) else 1

        def drawn(value: Any) -> Any:
            if not value.dtype.is_floating_point:
                return torch.full(value.shape, whole, dtype=value.dtype)
            return torch.rand(value.shape, generator=generator).to(value.dtype)

        return tuple(drawn(value) for value in self.tensors.values())


@cache
def _measured(alone: Alone) -> float | None:
    """CPU seconds of the fastest of some runs, which what else the machine does disturbs least; None: it cannot be run here."""
    from .program_file import quiet_stderr

    best = math.inf
    with quiet_stderr(), redirect_stderr(io.StringIO()):  # what a kernel says that refuses its tensors
        try:
            run, begun = alone.compiled(), time.perf_counter()
            for _ in range(RUNS):
                started = time.process_time()
                run()
                best = min(best, time.process_time() - started)
                if time.perf_counter() - begun > ENOUGH_SECONDS:
                    break
        except Exception:  # whatever a compiler or runtime raises: the time is then estimated
            return None
    return best
