"""runtime/engines/mil/ops/compression.py: to the bit what coremltools materialises, in every form, nested ones included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as apple
from coremltools.optimize import _utils as apple_utils

from echoedge.core.errors import EngineError
from echoedge.runtime.engines.mil import Package

from .programs import drawn, saved

X = {"x": np.zeros(1, np.float32)}


def whole(kind: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Whole numbers that use all bits of a type."""
    bits, signed = int(kind.lstrip("uint")), kind.startswith("int")
    low = -(2 ** (bits - 1)) if signed else 0
    drawn_ones = np.random.default_rng([seed, bits]).integers(low, low + 2**bits, shape)
    return drawn_ones.astype(types.nptype_from_builtin(getattr(types, kind)))


def halves(*shape: int, seed: int = 0) -> np.ndarray:
    return drawn(*shape, seed=seed).astype(np.float16)


def materialised(folder: Path, make: Callable[[], Any], target: int = 18) -> tuple[np.ndarray, Any]:
    """What the saved program makes of a compressed constant, and coremltools' variable."""
    seen: list[Any] = []

    def build() -> Any:
        seen.append(make())
        return mb.identity(x=seen[0][-1] if isinstance(seen[0], tuple) else seen[0])

    return saved(folder, {"w": build}, X, target).run(X)["w"], seen[0]


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert np.unique(found.view(np.uint8)).size > 2  # neither is empty of information


BLOCKS = {"per tensor": (1, 1), "per row": (6, 1), "per block": (6, 4), "blocks both ways": (3, 2)}


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("with_offset", [False, True])
def test_scaled_blocks(tmp_path: Path, blocks: str, kind: str, with_offset: bool) -> None:
    shape = BLOCKS[blocks]
    offset = {"offset": whole(kind, *shape, seed=1)} if with_offset else {}
    make = lambda: mb.constexpr_blockwise_shift_scale(data=whole(kind, 6, 8), scale=halves(*shape) / 50, **offset)  # noqa: E731
    found, var = materialised(tmp_path, make)
    agree(found, var.op.materialized_val_inference())


def test_scales_of_float32_and_offsets_of_halves(tmp_path: Path) -> None:
    make = lambda: mb.constexpr_blockwise_shift_scale(data=whole("uint4", 3, 4), scale=drawn(3, 2), offset=drawn(3, 2, seed=1))  # noqa: E731
    found, var = materialised(tmp_path, make)
    agree(found, var.op.materialized_val_inference())


TABLES = {"one": (1, 1), "grouped by 2 rows": (3, 1), "both ways": (2, 4)}


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("table", TABLES)
def test_tables(tmp_path: Path, bits: int, table: str) -> None:
    make = lambda: mb.constexpr_lut_to_dense(indices=whole(f"uint{bits}", 6, 8), lut=halves(*TABLES[table], 2**bits, 1))  # noqa: E731
    found, var = materialised(tmp_path, make)
    agree(found, var.op.materialized_val_inference())


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_tables_of_vectors(tmp_path: Path, axis: int) -> None:
    make = lambda: mb.constexpr_lut_to_dense(indices=whole("uint2", 4, 6), lut=halves(2, 1, 4, 3), vector_axis=axis)  # noqa: E731
    found, var = materialised(tmp_path, make)
    agree(found, var.op.materialized_val_inference())


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_sparse_values(tmp_path: Path, kind: str) -> None:
    mask = whole("uint1", 5, 7)
    values = np.arange(1, int(mask.sum()) + 1).astype(kind)
    found, var = materialised(tmp_path, lambda: mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask))
    agree(found, var.op.materialized_val_inference())


def test_sparse_tables_and_sparse_scales_nested(tmp_path: Path) -> None:
    mask = whole("uint1", 6, 8)
    indices, lut = whole("uint3", int(mask.sum())), whole("int8", 1, 1, 8, 1)
    scale = halves(6, 1)

    def make() -> Any:
        kept, numbers = mb.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=indices, lut=lut)
        kept, values = mb.constexpr_sparse_blockwise_shift_scale(data_mask=kept, nonzero_data=numbers, scale=scale)
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=kept)

    found, _ = materialised(tmp_path, make)
    _, numbers = apple.constexpr_lut_to_sparse.decompress(mask, indices, lut, None)
    _, values = apple.constexpr_sparse_blockwise_shift_scale.decompress(mask, numbers, scale, None)
    agree(found, apple.constexpr_sparse_to_dense.decompress(values, mask))


def test_sparse_vectors(tmp_path: Path) -> None:
    mask = whole("uint1", 4, 6)
    indices, lut = whole("uint2", int(mask.sum())), halves(1, 1, 4, 2)

    def make() -> Any:
        kept, values = mb.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=indices, lut=lut, vector_axis=0)
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=kept)

    found, _ = materialised(tmp_path, make)
    kept, values = apple.constexpr_lut_to_sparse.decompress(mask, indices, lut, 0)
    agree(found, apple.constexpr_sparse_to_dense.decompress(values, kept))


def test_tables_that_are_scaled_themselves(tmp_path: Path) -> None:
    """Palettes in int8, and a scale for each row of what they give: the joint forms."""
    indices, lut, scale, rows = whole("uint4", 6, 8), whole("int8", 2, 1, 16, 1), halves(1, 1, 1, 1), halves(6, 1)

    def make() -> Any:
        table = mb.constexpr_blockwise_shift_scale(data=lut, scale=scale)
        dense = mb.constexpr_lut_to_dense(indices=indices, lut=table)
        return mb.constexpr_blockwise_shift_scale(data=dense, scale=rows)

    found, _ = materialised(tmp_path, make)
    table = apple.constexpr_blockwise_shift_scale.decompress(lut, scale, None)
    dense = apple.constexpr_lut_to_dense.decompress(indices, table, None)
    agree(found, apple.constexpr_blockwise_shift_scale.decompress(dense, rows, None))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", ["one", "each"])
def test_scaled_channels_of_ios_16(tmp_path: Path, axis: int, scale: str) -> None:
    count = (5, 4)[axis]
    by, at = (np.float16(0.02), np.int8(3)) if scale == "one" else (halves(count), whole("int8", count, seed=2))
    make = lambda: mb.constexpr_affine_dequantize(quantized_data=whole("int8", 5, 4), zero_point=at, scale=by, axis=axis)  # noqa: E731
    found, var = materialised(tmp_path, make, target=16)
    agree(found, var.op.materialized_val_inference())


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_tables_of_ios_16(tmp_path: Path, bits: int) -> None:
    packed = apple_utils.pack_elements_into_bits(whole(f"uint{bits}", 35).astype(np.uint8), bits)
    make = lambda: mb.constexpr_lut_to_dense(lut=halves(2**bits), indices=packed, shape=np.array([5, 7], np.uint32))  # noqa: E731
    found, var = materialised(tmp_path, make, target=17)
    agree(found, var.op.materialized_val_inference())


def test_sparse_values_and_casts_of_ios_16(tmp_path: Path) -> None:
    mask = whole("uint1", 35).astype(np.uint8)
    packed = np.packbits(mask, bitorder="little")
    shape = np.array([5, 7], np.uint32)
    make = lambda: mb.constexpr_sparse_to_dense(nonzero_data=halves(int(mask.sum())), mask=packed, shape=shape)  # noqa: E731
    found, var = materialised(tmp_path, make, target=16)
    agree(found, var.op.materialized_val_inference())
    (tmp_path / "cast").mkdir()
    found, var = materialised(tmp_path / "cast", lambda: mb.constexpr_cast(source_val=halves(3, 4), output_dtype="fp32"), target=16)
    agree(found, var.op.materialized_val_inference())


def test_a_nibble_that_is_wrong_is_seen(tmp_path: Path) -> None:
    """The twin of all the above: one bit of the file changes what comes out."""
    data, scale = whole("int4", 6, 8), halves(6, 1)
    found, _ = materialised(tmp_path, lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale))
    changed = data.copy()
    changed[3, 5] ^= 1
    with pytest.raises(AssertionError):
        agree(found, apple.constexpr_blockwise_shift_scale.decompress(changed, scale, None))


def test_a_mask_that_keeps_more_than_there_is(tmp_path: Path) -> None:
    saved(tmp_path, {"w": lambda: mb.identity(x=sparse())}, X)
    path = tmp_path / "one.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(path.read_bytes())
    place = data.rindex(bytes([0b11110000, 0b00001111]))
    data[place] ^= 0b00000011
    path.write_bytes(data)
    with pytest.raises(EngineError, match="the mask keeps 10 values, and there are 8"):
        Package.open(tmp_path / "one.mlpackage").function().run(X)


def sparse() -> Any:
    mask = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]).astype(types.nptype_from_builtin(types.uint1))
    return mb.constexpr_sparse_to_dense(nonzero_data=np.arange(1, 9, dtype=np.float16), mask=mask)
