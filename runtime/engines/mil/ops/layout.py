"""Values in another shape or order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import operators, positive

_IOS17 = 7  # the operator set from which a 0 in a shape is counted from the right


def reshape(x: Tensor, shape: list[int], opset: int) -> Tensor:
    """A 0 takes over the size at its place, counted from the right; 1 where x has none there."""
    if 0 in shape and len(shape) != x.ndim and opset < _IOS17:
        raise ValueError(f"its shape {shape} has a 0 and another rank than {list(x.shape)}, which is known from iOS 17 on")
    here = [x.shape[place] if -place <= x.ndim else 1 for place in range(-len(shape), 0)]
    return x.reshape([size or old for size, old in zip(shape, here, strict=True)])


def reshape_like(x: Tensor, ref_tensors: list[Tensor], begins: list[int], ends: list[int], end_masks: list[bool]) -> Tensor:
    sizes: list[int] = []
    for reference, begin, end, whole in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[begin:] if whole else reference.shape[begin:end]
    return x.reshape(sizes)


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    first = 1
    for size in x.shape[:axis]:
        first *= size
    return x.reshape(first, -1)


def transpose(x: Tensor, perm: list[int]) -> Tensor:
    return x.permute(perm)


def expand_dims(x: Tensor, axes: list[int]) -> Tensor:
    """`axes` are those of the result."""
    rank = x.ndim + len(axes)
    for axis in sorted(positive(axis, rank) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: list[int] | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes):
        raise ValueError(f"axes {axes} of {list(x.shape)} are not all of size 1")
    return x.squeeze(tuple(axes))


def concat(values: list[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """`interleave`: one of each in turn."""
    if interleave:
        return torch.stack(values, positive(axis, values[0].ndim) + 1).flatten(axis % values[0].ndim, axis % values[0].ndim + 1)
    return torch.cat([value.reshape(1) if value.ndim == 0 else value for value in values], axis)


def stack(values: list[Tensor], axis: int) -> Tensor:
    return torch.stack(values, axis)


def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: list[int] | None = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return x.split(split_sizes, axis)
    if not num_splits or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} along axis {axis} is not split evenly by num_splits {num_splits}")
    return x.split(x.shape[axis] // num_splits, axis)


def tile(x: Tensor, reps: list[int]) -> Tensor:
    return x.repeat(reps)


def reverse(x: Tensor, axes: list[int] | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def pad(x: Tensor, pad: list[int], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """`pad`: before and after each of the last axes."""
    pairs = list(zip(range(-(len(pad) // 2), 0), pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return F.pad(x, [amount for _, before, after in reversed(pairs) for amount in (before, after)], value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise ValueError(f"its mode is {mode!r}; constant, reflect and replicate are known")
    for axis, before, after in pairs:
        size = x.shape[axis]
        at = torch.arange(-before, size + after)
        if mode == "reflect":
            if max(before, after) >= size:
                raise ValueError(f"{max(before, after)} cannot be reflected out of {size} along axis {axis}")
            at = (size - 1) - ((size - 1) - at.abs()).abs()
        x = x.index_select(axis, at.clamp(0, size - 1))
    return x


def crop(x: Tensor, crop_height: list[int], crop_width: list[int]) -> Tensor:
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Channels are counted [row in block, column in block, channel]."""
    n, c, h, w = x.shape
    parts = x.reshape(n, block_size, block_size, c // block_size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block_size**2, h * block_size, w * block_size)


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block_size**2, h // block_size, w // block_size)


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Channels are counted [channel, row in block, column in block]."""
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


def space_to_batch(x: Tensor, block_shape: list[int], paddings: list[int]) -> Tensor:
    rows, columns = block_shape
    x = F.pad(x, [*paddings[2:], *paddings[:2]])
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // rows, rows, w // columns, columns).permute(3, 5, 0, 1, 2, 4)
    return parts.reshape(rows * columns * n, c, h // rows, w // columns)


def batch_to_space(x: Tensor, block_shape: list[int], crops: list[int]) -> Tensor:
    rows, columns = block_shape
    n, c, h, w = x.shape
    parts = x.reshape(rows, columns, n // (rows * columns), c, h, w).permute(2, 3, 4, 0, 5, 1)
    return crop(parts.reshape(n // (rows * columns), c, h * rows, w * columns), crops[:2], crops[2:])


OPERATORS = operators(
    "moves",
    reshape=reshape,
    reshape_like=reshape_like,
    flatten2d=flatten2d,
    transpose=transpose,
    expand_dims=expand_dims,
    squeeze=squeeze,
    concat=concat,
    stack=stack,
    split=split,
    tile=tile,
    reverse=reverse,
    shape=shape,
    pad=pad,
    crop=crop,
    depth_to_space=depth_to_space,
    space_to_depth=space_to_depth,
    pixel_shuffle=pixel_shuffle,
    pixel_unshuffle=pixel_unshuffle,
    space_to_batch=space_to_batch,
    batch_to_space=batch_to_space,
)
