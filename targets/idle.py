"""What of a module one call of it reads, and what of its memory can go: a program holds a whole model and uses a part of it."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_DONT_NEED = 4  # MADV_DONTNEED
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD


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

    Other memory stays as it is, and so do mappings that have been written to. Where the system does not tell which are which (it is
    Linux that does), nothing happens.
    """
    addresses = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.device.type == "cpu" and type(tensor.data) is Tensor
    }
    for first, last in _unwritten_mappings():
        if any(first <= address < last for address in addresses):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)


def _unwritten_mappings() -> list[tuple[int, int]]:
    """The address ranges of this process that show a file as it is: a page that goes comes back the same."""
    try:
        text = Path("/proc/self/smaps").read_text()
    except OSError:
        return []
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ +/.*\n(?:(?!Anonymous)\w+:.*\n)*Anonymous: +0 kB", text, re.M)
    return [(int(first, 16), int(last, 16)) for first, last in found]


def return_freed_memory() -> None:
    """From now on memory of a megabyte or more goes back to the system when it is freed.

    By default glibc keeps what is freed below 32 MB for later, and what is allocated in between keeps it from ever going back:
    quantising CLIP's visual tower held 4.6 GB that way, of which 1.0 was in use. Other systems are left as they are.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 1 << 20)
