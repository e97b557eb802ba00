"""Compiling with ExecuTorch without running a graph through its interpreter where no pass has touched it.

Every pass of XNNPACK ends by tracing the whole graph anew, for the shapes of what it has changed; of seventeen most find nothing to
change. A trace of what came out of a trace, and is the same still, node by node, is that graph again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..lean import lean, swapped

_SEEN = "_echoedge_traced"  # of a graph: what its nodes were when it came out of a trace
_HOOKS = ("call_", "get_attr", "inputs", "on_attr", "output", "placeholder")  # how a pass changes what it traces


@contextmanager
def quick() -> Iterator[None]:
    """As `lean`, for ExecuTorch: traces that would change nothing are left out."""
    from executorch.exir.pass_base import ExportPass, PassResult

    owner: Any = next(kind for kind in ExportPass.__mro__ if "call" in vars(kind))
    trace = owner.call

    hooks = [name for name in dir(ExportPass) if name.startswith(_HOOKS)]

    def only_traces(kind: Any) -> bool:
        return all(getattr(kind, name) is getattr(ExportPass, name) for name in hooks)

    def call(self: Any, graph_module: Any) -> Any:
        if only_traces(type(self)) and _same(_nodes(graph_module.graph), vars(graph_module.graph).get(_SEEN)):
            return PassResult(graph_module, True)
        result = trace(self, graph_module)
        setattr(result.graph_module.graph, _SEEN, _nodes(result.graph_module.graph))
        return result

    with lean(), swapped() as swap:
        if not hasattr(trace, "quick"):
            call.quick = True  # type: ignore[attr-defined]
            swap(owner, "call", call)
        yield


def _nodes(graph: Any) -> list[Any]:
    """What makes a graph what it is. A node that is changed gets new arguments, so that these need not be compared."""
    return [part for node in graph.nodes for part in (node, node.op, node.target, node.args, node.kwargs)]


def _same(found: list[Any], seen: list[Any] | None) -> bool:
    return seen is not None and len(found) == len(seen) and all(map(lambda a, b: a is b, found, seen))
