"""Products between activations in bfloat16: attention's two, twice as fast where a processor multiplies bfloat16 in pairs.

XNNPACK has the kernel, and ExecuTorch's files can carry its type, but nothing in between asks for it: this makes the visitor that
writes a batched product into the delegate write both sides as conversions to bfloat16 first. Sums stay float32. Files made so load
on processors with such instructions (x86: avx512_bf16, ARM: bf16) and are refused by others. Weights are not touched by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ExportError

Products = Literal["fp32", "bf16"]

_PRODUCT = "aten.bmm.default"
_NOT_EXTERNAL = 2**32 - 1  # XNNPACK's id of what is neither input nor output


def multiplies_bfloat16() -> bool:
    """Whether this processor runs programs whose products are in bfloat16; False where the system does not say."""
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in words or "bf16" in words


@contextmanager
def products_in(products: Products) -> Iterator[None]:
    """Programs that are lowered to XNNPACK within have their products between activations in `products`.

    Raises:
        ExportError: the installed ExecuTorch is another one than this was written for.
    """
    if products == "fp32":
        yield
        return
    from executorch.backends.xnnpack.operators import node_visitor

    visitors: dict[str, Any] = getattr(node_visitor, "_node_visitor_dict", {})
    kept = visitors.get(_PRODUCT)
    if kept is None:
        raise ExportError("This ExecuTorch writes products in a way unknown here: bfloat16 needs 1.4. Choose products in fp32.")
    visitors[_PRODUCT] = _visitor(kept)
    try:
        yield
    finally:
        visitors[_PRODUCT] = kept


def _visitor(base: Any) -> Any:
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
        XNNBatchMatrixMultiply,
        XNNConvert,
        XNNDatatype,
        XNNTensorValue,
        XNode,
        XValue,
    )

    class BFloat16Product(base):  # type: ignore[misc]
        """One per delegate, as visitors are: a tensor that several products read is converted once."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.converted: dict[Any, int] = {}

        def define_node(self, node: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> None:
            sides = [self._converted(side, xnn_graph, vals_to_ids, debug_handle) for side in node.args[:2]]
            self.define_tensor(node, xnn_graph, vals_to_ids)
            product = XNNBatchMatrixMultiply(input1_id=sides[0], input2_id=sides[1], output_id=vals_to_ids[node], flags=0)
            xnn_graph.xnodes.append(XNode(xnode_union=product, debug_handle=debug_handle))

        def _converted(self, side: Any, xnn_graph: Any, vals_to_ids: dict[Any, int], debug_handle: int) -> int:
            if side not in self.converted:
                self.define_tensor(side, xnn_graph, vals_to_ids)
                shape, new = list(side.meta["val"].shape), len(xnn_graph.xvalues)
                value = XNNTensorValue(
                    datatype=XNNDatatype.xnn_datatype_bf16, num_dims=len(shape), dims=shape, external_id=_NOT_EXTERNAL,
                    constant_buffer_idx=0, flags=0, id_out=new,
                )  # fmt: skip
                convert = XNNConvert(input_id=vals_to_ids[side], output_id=new, flags=0)
                xnn_graph.xvalues.append(XValue(xvalue_union=value))
                xnn_graph.xnodes.append(XNode(xnode_union=convert, debug_handle=debug_handle))
                self.converted[side] = new
            return self.converted[side]

    return BFloat16Product
