"""What of a module one call of it reads, and what of its memory can go: a program holds a whole model and uses a part of it."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_PAGE_OUT = 21  # Linux: MADV_PAGEOUT, since 5.4


class _Reads(TorchFunctionMode):
    """Notes every tensor that is given to an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


def drop_idle(module: nn.Module, inputs: Sequence[Tensor], keep_shapes: bool = False) -> None:
    """Takes from `module`, in place, the parameters and buffers that it does not read on inputs of these shapes.

    Nothing is computed for that. With `keep_shapes` tensors without data stand in for them, of which a rewrite can still be made.
    """
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Reads() as reads:
        module(*(torch.empty(x.shape, dtype=x.dtype) for x in inputs))
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None and id(value) not in reads.seen:
                part._parameters[name] = nn.Parameter(value.to("meta"), requires_grad=False) if keep_shapes else None
        for name, buffer in part._buffers.items():
            if buffer is not None and id(buffer) not in reads.seen:
                part._buffers[name] = buffer.to("meta") if keep_shapes else None


def release_pages(module: nn.Module) -> None:
    """Hands the pages of memory-mapped weights back to the system, which reads them again where they are needed again.

    Other memory stays as it is; where the system has no such call (it is Linux's), nothing happens.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type != "cpu" or type(tensor.data) is not Tensor:
            continue
        storage = tensor.untyped_storage()
        first = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (storage.data_ptr() + storage.nbytes() - first) // mmap.PAGESIZE * mmap.PAGESIZE
        if size > 0:
            advise(ctypes.c_void_p(first), ctypes.c_size_t(size), _PAGE_OUT)
