"""Constants that are stored compressed, in the forms of iOS 16 and of iOS 18, nested or not.

Values come out as the file's types round them: what coremltools materialises, to the bit. Elements of less than a byte are held a
byte each; the sizes of tables and scales say in which blocks they stand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kinds import BY_NAME, unpacked
from .base import along, operators


def _blocks(x: Tensor, per_block: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """x [a·A, b·B] and its blocks' values [a, b, ...] -> [a, A, b, B] and [a, 1, b, 1, ...], which broadcast."""
    parts, ones = list[int](), list[int]()
    for size, count in zip(x.shape, per_block.shape[:axes], strict=True):
        if count == 0 or size % count:
            raise ValueError(f"{list(x.shape)} is not made of equal blocks, {list(per_block.shape[:axes])} of them")
        parts += [count, size // count]
        ones += [count, 1]
    return x.reshape(parts), per_block.reshape(ones + list(per_block.shape[axes:]))


def blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """scale · (data − offset), each step rounded to the scale's type."""
    if data.ndim != scale.ndim:
        raise ValueError(f"data has {data.ndim} axes and scale {scale.ndim}")
    found, by_block = _blocks(data.to(scale.dtype), scale, data.ndim)
    if offset is not None:
        found = found - offset.to(scale.dtype).reshape(by_block.shape)
    return (by_block * found).reshape(data.shape)


def affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """iOS 16: scale · (data − zero point) along one axis, rounded at the end."""
    place = axis % quantized_data.ndim
    rank = quantized_data.ndim

    def spread(values: Tensor) -> Tensor:
        wide = values.to(torch.float32)
        return along(wide, place, rank) if wide.ndim == 1 else wide

    return ((quantized_data.to(torch.float32) - spread(zero_point)) * spread(scale)).to(scale.dtype)


def lut_to_dense(indices: Tensor, lut: Tensor, vector_axis: int | None = None, shape: list[int] | None = None) -> Tensor:
    """Entries of tables. With `shape`, the form of iOS 16: one table, indices packed into bytes. Without, a table [..., entries,
    width] for each block of indices; of a width above 1 the entries lie one after the other along `vector_axis`."""
    if shape is not None:
        bits = (lut.numel() - 1).bit_length()
        return lut[_bits(indices, bits, math.prod(shape)).to(torch.int64)].reshape(shape)
    entries, width = lut.shape[-2:]
    first = torch.arange(lut[..., 0, 0].numel(), dtype=torch.int32).reshape(lut.shape[:-2]) * entries
    places, by_block = _blocks(indices.to(torch.int32), first, indices.ndim)
    if places.numel() and int(places.max()) >= entries:
        raise ValueError(f"an index is {int(places.max())} and a table has {entries} entries")
    found = lut.reshape(-1, width).index_select(0, (places + by_block).reshape(-1)).reshape(*indices.shape, width)
    if width == 1:
        return found.squeeze(-1)
    if vector_axis is None:
        raise ValueError("vectors in a table need a vector_axis")
    place = vector_axis % indices.ndim
    return found.movedim(-1, place + 1).flatten(place, place + 1)


def _bits(packed: Tensor, bits: int, count: int) -> Tensor:
    return packed if bits == 8 else unpacked(packed, BY_NAME[f"uint{bits}"], count)


def sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: list[int] | None = None) -> Tensor:
    """Zeros but where the mask is 1. With `shape`, the form of iOS 16: a mask of bits in bytes."""
    kept = (mask if shape is None else _bits(mask, 1, math.prod(shape)).reshape(shape)) != 0
    if int(kept.sum()) != nonzero_data.numel():
        raise ValueError(f"the mask keeps {int(kept.sum())} values, and there are {nonzero_data.numel()}")
    found = torch.zeros(kept.shape, dtype=nonzero_data.dtype)
    found[kept] = nonzero_data
    return found


def lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """The mask, and the kept values out of the tables."""
    dense = lut_to_dense(sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    width = lut.shape[-1]
    mask = indices_mask if width == 1 or vector_axis is None else indices_mask.repeat_interleave(width, vector_axis)
    return mask, dense[mask != 0]


def sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = blockwise_shift_scale(sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def constant_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val.to(BY_NAME[output_dtype].held)


OPERATORS = operators(
    "decodes",
    constexpr_blockwise_shift_scale=blockwise_shift_scale,
    constexpr_affine_dequantize=affine_dequantize,
    constexpr_lut_to_dense=lut_to_dense,
    constexpr_sparse_to_dense=sparse_to_dense,
    constexpr_lut_to_sparse=lut_to_sparse,
    constexpr_sparse_blockwise_shift_scale=sparse_blockwise_shift_scale,
    constexpr_cast=constant_cast,
)
