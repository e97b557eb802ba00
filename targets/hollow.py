"""Modules of a transformer that streams: their shapes without their weights, and a part without the others."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..core.model.transformer import DiT


def nothing(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros whose memory is not there before it is written to."""
    return torch.from_numpy(np.zeros(tuple(shape), torch.empty(0, dtype=dtype).numpy().dtype))


def hollow(module: nn.Module, floats: torch.dtype | None = None, drawn: int = 0) -> nn.Module:
    """A copy of a module without data, whose tensors have memory that is not there before it is written to; buffers with data keep
    their numbers. `floats`: the type of all that are floating-point. `drawn`: parameters of up to so many elements get numbers,
    for compilers that leave out what adds zero."""
    held = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}  # not copied: they are replaced
    module, generator = copy.deepcopy(module, dict(held)), torch.Generator().manual_seed(0)

    def wanted(dtype: torch.dtype) -> torch.dtype:
        return floats if floats is not None and dtype.is_floating_point else dtype

    def empty(value: Tensor) -> Tensor:
        if value.numel() <= drawn and value.is_floating_point():
            return (torch.rand(value.shape, generator=generator) + 0.5).to(wanted(value.dtype))
        return nothing(value.shape, wanted(value.dtype))

    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(empty(value), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                kind = wanted(buffer.dtype)
                part._buffers[name] = nothing(buffer.shape, kind) if buffer.is_meta else buffer.to(kind)
    return module


def named_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each by all of its names."""
    for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
        yield prefix + name, tensor


def without_blocks(dit: DiT) -> DiT:
    outer = copy.copy(dit)
    outer._modules = {**dit._modules, "blocks": nn.ModuleList()}
    return outer
