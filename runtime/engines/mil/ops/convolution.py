"""Convolutions and pooling, in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import along, operators

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
Pads = list[tuple[int, int]]  # before and after, by spatial dimension


def _pads(
    kind: str,
    pad: Sequence[int] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        if pad is None or len(pad) != 2 * len(sizes):
            raise ValueError(f"its pad is {pad}; pad_type custom wants {2 * len(sizes)} numbers")
        return list(zip(pad[::2], pad[1::2], strict=True))
    if kind not in ("same", "same_lower"):
        raise ValueError(f"its pad_type is {kind!r}; valid, same, same_lower and custom are known")
    found = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if kind == "same" else (more, less))
    return found


def _padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, C_in, ...], weight [C_out, C_in / groups, ...] -> [n, C_out, ...]."""
    rank = x.ndim - 2
    ones = [1] * rank
    strides, dilations = strides or ones, dilations or ones
    pads = _pads(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    even = all(before == after for before, after in pads)
    inside = [before for before, _ in pads] if even else 0
    return _CONV[rank](x if even else _padded(x, pads), weight, bias, strides, inside, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: list[int] | None = None,
    output_shape: list[int] | None = None,
    pad_type: str = "valid",
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, C_in, ...], weight [C_in, C_out / groups, ...] -> [n, C_out, ...]: the whole, cut by `pad`, or to `output_shape`."""
    rank = x.ndim - 2
    ones = [1] * rank
    strides, dilations = strides or ones, dilations or ones
    whole = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    if pad_type == "same":
        wanted = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        cuts = [((full - size) // 2, full - size - (full - size) // 2) for full, size in zip(whole.shape[2:], wanted, strict=True)]
    else:
        cuts = _pads(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    if output_shape is not None:
        sizes = zip(cuts, whole.shape[2:], output_shape[-rank:], strict=True)
        cuts = [(before, full - before - size) for (before, _), full, size in sizes]
    found = _padded(whole, [(-before, -after) for before, after in cuts])
    return found if bias is None else found + along(bias, 1, x.ndim)


def _windows(
    x: Tensor, kernel: list[int], strides: list[int], pad_type: str, pad: list[int] | None, ceil_mode: bool
) -> tuple[Pads, Pads]:
    """What is padded as the file says, and how much more after it so that the last window is whole."""
    pads = _pads(pad_type, pad, x.shape[2:], kernel, strides, [1] * len(kernel))
    more = []
    for size, taps, stride, (before, after) in zip(x.shape[2:], kernel, strides, pads, strict=True):
        spare = size + before + after - taps
        count = (-(-spare // stride) if ceil_mode else spare // stride) + 1
        if ceil_mode and before + after > 0 and (count - 1) * stride >= size + before:
            count -= 1
        more.append((0, max(0, (count - 1) * stride + taps - size - before - after)))
    return pads, more


def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """What `ceil_mode` adds behind the padding is never counted in an average."""
    rank = x.ndim - 2
    strides = strides or [1] * rank
    pads, more = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counted = _padded(torch.ones_like(x[:1, :1]), pads, 0.0 if exclude_padding_from_average else 1.0)
    pool = _AVERAGE[rank]
    return pool(_padded(_padded(x, pads), more), kernel_sizes, strides) / pool(_padded(counted, more), kernel_sizes, strides)


def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    pad_type: str,
    strides: list[int] | None = None,
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    rank = x.ndim - 2
    strides = strides or [1] * rank
    pads, more = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _MAXIMUM[rank](_padded(_padded(x, pads, -torch.inf), more, -torch.inf), kernel_sizes, strides)


OPERATORS = operators("computes", conv=conv, conv_transpose=conv_transpose, avg_pool=avg_pool, max_pool=max_pool)
